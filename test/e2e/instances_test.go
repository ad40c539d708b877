package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestInstances reads and copies the disks of machines under each policy.
func TestInstances(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	disk := gptExt4(t, 121)
	b := newSite(t, "b")
	sites := []site{b}
	for _, policy := range []string{"auto", "on-copy", "never", "require-stopped"} {
		s := newSite(t, policy)
		s.more = ", snapshot: " + policy
		run(t, "cp", "--sparse=always", disk, filepath.Join(s.instances, "db.raw"))
		sites = append(sites, s)
	}
	s := mount(t, config{sites: sites})
	for policy, want := range map[string]struct{ read, copied syscall.Errno }{
		"auto":            {},
		"on-copy":         {read: syscall.EPERM},
		"never":           {read: syscall.EPERM, copied: syscall.EPERM},
		"require-stopped": {read: syscall.EPERM, copied: syscall.EPERM},
	} {
		t.Run(policy, func(t *testing.T) {
			view := s.path(policy, "instances", "db.raw")
			if got := stat(t, view).Size; got != 24*mib {
				t.Errorf("size %d", got)
			}
			if policy != "require-stopped" { // what it refuses with depends on what the folder can tell
				if _, err := readAll(view); errno(err) != want.read {
					t.Errorf("read: %v, want errno %d", err, want.read)
				}
			}
			name := "of-" + policy
			w := watching(s, b, s.images("b", name+".raw"))
			r := try(t, "cp", view, s.images("b", name+".raw"))
			if want.copied != 0 {
				w.nothing(t)
				if r.code == 0 {
					t.Error("cp ends with 0")
				}
				return
			}
			if r.code != 0 {
				w.nothing(t)
				t.Fatalf("cp: exit status %d\n%s\nreasons:\n%s", r.code, r.out, last(s.reasons(t), 3))
			}
			file, format := stored(t, b, name)
			w.done(t, file)
			same(t, disk, file, format)
			for _, ext := range []string{"qcow2", "vmdk", "ova"} {
				name := "as-" + ext + "-of-" + policy
				run(t, "cp", s.path(policy, "instances", "db."+ext), s.images("b", name+"."+ext))
				file, format := stored(t, b, name)
				if format == "ova" {
					continue // TestViews reads those
				}
				same(t, disk, file, format)
			}
		})
	}
	for _, from := range sites[1:] {
		noCaptures(t, from)
	}
	// A capture is a moment: what the machine writes later is not in it.
	view := s.path("auto", "instances", "db.raw")
	f, err := os.Open(view)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := make([]byte, 4096)
	if _, err := f.ReadAt(before, mib); err != nil {
		t.Fatal(err)
	}
	run(t, "dd", "if=/dev/zero", "of="+filepath.Join(sites[1].instances, "db.raw"), "bs=1M", "seek=1", "count=4", "conv=notrunc")
	after := make([]byte, 3*mib)
	if _, err := f.ReadAt(after, mib); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if string(after) != string(want[mib:4*mib]) {
		t.Error("an open capture shows what was written after it")
	}
}

// noCaptures waits a little for captures that are no longer used to go.
func noCaptures(t testing.TB, s site) {
	t.Helper()
	var left []string
	for range 100 {
		if left = names(t, s.instances); strings.Join(left, " ") == "db.raw" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("the instances of %s are now %q", s.name, left)
}
