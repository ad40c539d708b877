package cleaner

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// Subvolumes of a btrfs are the guest's without being mounted, and snapshots, which are
// read-only, go as a whole; the one that the guest runs from stays.
func TestSubvolumes(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a btrfs")
	}
	if os.Getuid() != 0 {
		t.Skip("mounts a btrfs, for which it takes root")
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	if _, err := exec.LookPath("mkfs.btrfs"); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	image, top := filepath.Join(t.TempDir(), "btrfs"), t.TempDir()
	run("truncate", "-s", "128M", image)
	run("mkfs.btrfs", "-q", image)
	run("mount", "-o", "loop", image, top)
	t.Cleanup(func() { run("umount", top) })
	run("mkdir", "-p", filepath.Join(top, ".snapshots/1"), filepath.Join(top, ".snapshots/2"))
	run("btrfs", "subvolume", "create", filepath.Join(top, ".snapshots/1/snapshot"))

	tr := tree{t: t, dir: filepath.Join(top, ".snapshots/1/snapshot")}
	files := append(minimal(), []file{
		{path: "/.snapshots/", text: ""},
		{path: "/var/log/", text: ""},
		{path: "/home/", text: ""},
	}...)
	for _, f := range files {
		tr.put(f)
	}
	for _, sub := range []string{"/home/alice", "/var/tmp", "/opt"} {
		run("mkdir", "-p", filepath.Dir(tr.at(sub)))
		run("btrfs", "subvolume", "create", tr.at(sub))
	}
	run("btrfs", "subvolume", "create", tr.at("/home/alice/nested"))
	more := []file{{path: "/home/alice/nested/x", text: secret}, {path: "/var/tmp/x", text: secret}, {path: "/opt/key", text: key}, {path: "/etc/old", text: secret}}
	for _, f := range more {
		tr.put(f)
	}
	if err := os.Chown(tr.at("/home/alice"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	run("btrfs", "subvolume", "snapshot", "-r", tr.dir, filepath.Join(top, ".snapshots/2/snapshot"))
	if err := os.Remove(tr.at("/etc/old")); err != nil {
		t.Fatal(err)
	}
	run("mount", "--bind", filepath.Join(top, ".snapshots"), tr.at("/.snapshots"))
	t.Cleanup(func() { run("umount", tr.at("/.snapshots")) })

	report, err := tr.cleanWith(Options{}, factsAt("/", "/.snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	if left := tr.search(secret); len(left) > 0 {
		t.Errorf("secrets are left in %q", left)
	}
	if tr.exists("/home/alice") || tr.exists("/.snapshots/2") || !tr.exists("/.snapshots/1/snapshot/etc/passwd") || !tr.exists("/var/tmp") {
		t.Errorf("left are not what should be: %+v", report.outcome("snapshots"))
	}
	if !slices.Equal(report.Users, []string{"alice"}) {
		t.Errorf("removed %q", report.Users)
	}
}
