package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// visitor is the key that is to be let in afterwards.
const visitor = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEYl9Hn2vJ8vVnT3m1kz3QpZxJ6bZ0t1cJmYJ4X9vQbR visitor"

// TestCleanedMachine cleans a Debian as its owner would, searches the new image, free
// blocks, swap and journal too, and boots it: it becomes another machine, which lets the
// visitor in.
func TestCleanedMachine(t *testing.T) {
	need(t, "CHROMOGENIC_FULL", "mmdebstrap", "qemu-system-x86_64", "qemu-img", "linux.uml", "debugfs")
	path := machine(t)
	if n := len(marks(t, path)); n < len(planted) {
		t.Fatalf("%d secrets were planted, of %d", n, len(planted))
	}
	before := sh(t, "sha256sum", path)
	id := strings.TrimSpace(file(t, path, "/etc/machine-id"))
	keys := []string{file(t, path, "/etc/ssh/ssh_host_ed25519_key.pub"), file(t, path, "/etc/ssh/ssh_host_rsa_key.pub")}

	// Without a way in it is refused, and nothing is left of it.
	out := filepath.Join(t.TempDir(), "clean.qcow2")
	if text, err := command(program, "clean", "--state-dir", t.TempDir(), path, "-o", out); err == nil || !strings.Contains(text, "nobody could log in afterwards") || !strings.Contains(text, "--ssh-key") {
		t.Errorf("it was cleaned without a way in: %v, %s", err, text)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left: %v", err)
	}

	began := time.Now()
	text := sh(t, program, "clean", "--access", "uml", "--state-dir", t.TempDir(), "--ssh-key", visitor, path, "-o", out)
	t.Logf("cleaned in %s\n%s", time.Since(began).Round(time.Millisecond), text)
	if after := sh(t, "sha256sum", path); after != before {
		t.Error("the source has changed")
	}
	raw := filepath.Join(t.TempDir(), "clean.raw")
	sh(t, "qemu-img", "convert", "-O", "raw", out, raw)
	if left := marks(t, raw); len(left) > 0 {
		t.Errorf("secrets are left: %q", left)
	}
	for what, text := range map[string]string{"machine-id": id, "host key": strings.Fields(keys[0])[1][40:], "RSA host key": strings.Fields(keys[1])[1][40:]} {
		if text != "" && contains(t, raw, text) {
			t.Errorf("the %s is left", what)
		}
	}
	sh(t, "sfdisk", "--verify", raw)
	sh(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", raw, rootStart*512))
	if text := file(t, raw, "/root/.ssh/authorized_keys"); strings.TrimSpace(text) != visitor {
		t.Errorf("root lets in %q", text)
	}

	log := boot(t, out)
	if !strings.Contains(log, "Welcome to ") || !strings.Contains(log, "GRUB") && !strings.Contains(log, "Debian") {
		t.Error("there is no banner")
	}
	report := map[string][]string{}
	for _, m := range regexp.MustCompile(`REPORT (\S+) ?([^\r\n]*)`).FindAllStringSubmatch(log, -1) {
		report[m[1]] = append(report[m[1]], strings.TrimSpace(m[2]))
	}
	t.Logf("it says of itself %q", report)
	if got := report["machine-id"]; len(got) != 1 || !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(got[0]) || got[0] == id {
		t.Errorf("its machine-id is %q", got)
	}
	if !slices.Equal(report["ssh"], []string{"active"}) || len(report["key"]) < 3 {
		t.Errorf("ssh is %q with host keys %q", report["ssh"], report["key"])
	}
	if got := report["failed"]; len(got) != 1 || got[0] != "" {
		t.Errorf("units have failed: %q", got)
	}
	// What it has made of itself is on its disk.
	sh(t, "qemu-img", "convert", "-O", "raw", out, raw)
	for _, old := range keys {
		if now := file(t, raw, "/etc/ssh/ssh_host_"+strings.TrimPrefix(strings.Fields(old)[0], "ssh-")+"_key.pub"); now == old || now == "" {
			t.Errorf("its host key is %q", now)
		}
	}
	if now := strings.TrimSpace(file(t, raw, "/etc/machine-id")); now == id || len(now) != 32 {
		t.Errorf("its machine-id on disk is %q", now)
	}
}

// bootTime is how long a machine may take until it has said all: emulated, on a busy
// host.
const bootTime = 15 * time.Minute

// boot runs a machine until it turns itself off, and gives what its console has said.
func boot(t testing.TB, image string) string {
	t.Helper()
	console := filepath.Join(t.TempDir(), "console")
	cmd := exec.Command("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-m", "768", "-smp", "2", "-display", "none", "-nic", "none", "-no-reboot",
		"-serial", "file:"+console, "-drive", "file="+image+",if=virtio,format=qcow2,cache=unsafe", "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	began, ended := time.Now(), make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("qemu: %v: %s", err, said.String())
		}
	case <-time.After(bootTime):
		cmd.Process.Kill()
		<-ended
		t.Fatalf("it has not ended after %s:\n%s", bootTime, tail(read(t, console)))
	}
	log := read(t, console)
	t.Logf("booted and ended in %s", time.Since(began).Round(time.Second))
	if !bytes.Contains(log, []byte("REPORT end")) {
		t.Fatalf("it has not booted:\n%s", tail(log))
	}
	return string(log)
}

func tail(p []byte) []byte { return p[max(0, len(p)-4000):] }

// file is the text of a file of the root of a raw disk, without a mount.
func file(t testing.TB, disk, path string) string {
	t.Helper()
	cmd := exec.Command("debugfs", "-R", "cat "+path, fmt.Sprintf("%s?offset=%d", disk, rootStart*512))
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

var markAt = regexp.MustCompile(mark + `-[A-Za-z0-9_./#-]{0,60}`)

// marks are the secrets that are somewhere in a file, each once.
func marks(t testing.TB, path string) []string {
	t.Helper()
	found := map[string]bool{}
	scan(t, path, func(p []byte) {
		for _, m := range markAt.FindAll(p, -1) {
			found[string(m)] = true
		}
	})
	var all []string
	for m := range found {
		all = append(all, m)
	}
	slices.Sort(all)
	return all
}

func contains(t testing.TB, path, text string) (found bool) {
	t.Helper()
	scan(t, path, func(p []byte) { found = found || bytes.Contains(p, []byte(text)) })
	return found
}

// scan gives all of a file in pieces that overlap.
func scan(t testing.TB, path string, see func([]byte)) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const overlap = 1 << 10
	p := make([]byte, 4<<20)
	for kept := 0; ; {
		n, err := io.ReadFull(f, p[kept:])
		see(p[:kept+n])
		if err != nil {
			return
		}
		kept = copy(p, p[len(p)-overlap:])
	}
}
