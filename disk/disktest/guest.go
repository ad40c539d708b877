package disktest

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Secret is in a history, in root's home and all over a log of the guest that Guest
// makes.
const Secret = "correct-horse-battery-staple"

// Guest makes a raw disk that is all one ext4 file system, with the traces of a small
// Debian whose users come from cloud-init, and gives its path. More are further files,
// or other content of these; what has none is not there.
func Guest(t testing.TB, more map[string]string) string {
	t.Helper()
	files := map[string]string{
		"etc/os-release":           "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
		"etc/fstab":                "/dev/vda / ext4 defaults 0 1\n",
		"etc/passwd":               "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/bash\n",
		"etc/shadow":               "root:*:19000:0:99999:7:::\nalice:*:19000:0:99999:7:::\n",
		"etc/group":                "root:x:0:\nalice:x:1000:\n",
		"etc/gshadow":              "root:*::\nalice:!::\n",
		"etc/machine-id":           "0123456789abcdef0123456789abcdef\n",
		"etc/cloud/cloud.cfg":      "users:\n  - default\n",
		"usr/bin/cloud-init":       "#!/bin/sh\n",
		"etc/hostname":             "web\n",
		"home/alice/.bash_history": "mysql -p" + Secret + "\n",
		"root/.netrc":              "machine example login a password " + Secret + "\n",
		"var/log/syslog":           strings.Repeat("a line of a log "+Secret+"\n", 1000),
	}
	maps.Copy(files, more)
	tree := t.TempDir()
	for name, text := range files {
		if text == "" {
			continue
		}
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "guest.raw")
	cmd := exec.Command("mke2fs", "-q", "-t", "ext4", "-d", tree, path, "64M")
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	return path
}
