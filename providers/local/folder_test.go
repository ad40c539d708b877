package local

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// wantUnreachable checks that the folder cannot be listed, with advice.
func wantUnreachable(t *testing.T, p *Provider, when string) {
	t.Helper()
	entries, err := p.List(t.Context(), providers.Images)
	if disk.KindOf(err) != disk.Unreachable || disk.AsError(err).Hint == "" {
		t.Fatalf("%s: %d entries and %v (hint %q), want unreachable with a hint", when, len(entries), err, disk.AsError(err).Hint)
	}
}

func wantEntries(t *testing.T, p *Provider, when string, n int) {
	t.Helper()
	entries, err := p.List(t.Context(), providers.Images)
	if err != nil || len(entries) != n {
		t.Fatalf("%s: %d entries and %v, want %d", when, len(entries), err, n)
	}
}

// TestFolderMissing follows a folder that comes, goes, is replaced and comes back.
func TestFolderMissing(t *testing.T) {
	base := t.TempDir()
	path, aside := filepath.Join(base, "images"), filepath.Join(base, "aside")
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	makeFolder := func() {
		t.Helper()
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p := makeProvider(t, Options{Images: path})
	wantUnreachable(t, p, "before it is there")
	makeFolder()
	wantEntries(t, p, "when it is there", 0)
	write(t, path, "x.raw", "x")
	wantEntries(t, p, "with a file", 1)
	move(path, aside)
	wantUnreachable(t, p, "when it is gone")
	write(t, base, "images", "a file")
	wantUnreachable(t, p, "with a file in its place")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	makeFolder()
	wantUnreachable(t, p, "with another in its place")
	if _, err := p.Begin(t.Context(), providers.Spec{Name: "y", Format: "raw"}); disk.KindOf(err) != disk.Unreachable {
		t.Errorf("upload into another folder: %v, want unreachable", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	move(aside, path)
	wantEntries(t, p, "when it is back", 1)

	move(path, aside)
	makeFolder()
	wantUnreachable(t, p, "with another in its place again")
	p.Reset()
	wantUnreachable(t, p, "with an empty one, accepted or not")
	write(t, path, "y.raw", "y")
	wantEntries(t, p, "when the other is accepted", 1)
	write(t, path, "z.raw", "z")
	wantEntries(t, p, "with files in the other", 2)
	move(path, filepath.Join(base, "other"))
	move(aside, path)
	wantUnreachable(t, p, "with the first one, after the other was accepted")
}

// TestFolderUnmounted unmounts the disk of a folder: behind the path is then an
// empty mountpoint.
func TestFolderUnmounted(t *testing.T) {
	path := t.TempDir()
	mount := func() {
		t.Helper()
		if err := unix.Mount("none", path, "tmpfs", 0, "size=1m"); err != nil {
			t.Skipf("SKIPPED: cannot mount a tmpfs: %v", err)
		}
	}
	unmount := func() { // without MNT_DETACH: it fails when the provider holds the folder open
		t.Helper()
		if err := unix.Unmount(path, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		_ = unix.Unmount(path, unix.MNT_DETACH) // for a test that failed; or else there is none
	})

	plugged := makeProvider(t, Options{Images: path}) // before the disk is there
	mount()
	write(t, path, "x.raw", "x")
	wantEntries(t, plugged, "when the disk is mounted over the empty mountpoint", 1)
	early := makeProvider(t, Options{Images: path})
	unmount()
	wantUnreachable(t, plugged, "when the disk is unmounted")
	wantUnreachable(t, early, "when the disk is unmounted before the first listing")
	plugged.Reset()
	wantUnreachable(t, plugged, "when the owner asks for a refresh")
	mount()
	write(t, path, "x.raw", "x")
	wantEntries(t, plugged, "when another disk is there", 1)
	pin := plugged.Pin(providers.Images)
	unmount()
	late := makeProvider(t, Options{Images: path})
	wantEntries(t, late, "when nothing is known of the disk", 0)
	late = makeProvider(t, Options{Images: path})
	late.SetPin(providers.Images, pin)
	wantUnreachable(t, late, "when an earlier process has seen the disk")
	write(t, path, ".keep", "")
	wantEntries(t, late, "when the owner puts a file there", 0)
}

func TestFolderDenied(t *testing.T) {
	path, err := os.MkdirTemp("", "chromogenic-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(path) })
	p := makeProvider(t, Options{Images: path})
	write(t, path, "open.raw", "open")
	write(t, path, "closed.raw", "closed")
	for name, mode := range map[string]os.FileMode{".": 0o755, "closed.raw": 0} {
		if err := os.Chmod(filepath.Join(path, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("closed.raw", filepath.Join(path, "link.raw")); err != nil {
		t.Fatal(err)
	}
	t.Run("nobody", func(t *testing.T) {
		asNobody(t)
		checkDenied(t, p)
	})
}

func checkDenied(t *testing.T, p *Provider) {
	for file, reason := range map[string]string{"open.raw": "", "closed.raw": reasonDenied, "link.raw": reasonDenied} {
		e := find(t, p, providers.Images, file)
		if e.Reason != reason {
			t.Errorf("%s: reason %q, want %q", file, e.Reason, reason)
		}
		if reason == "" {
			continue
		}
		if _, err := p.Open(t.Context(), e, 0); disk.KindOf(err) != disk.Denied {
			t.Errorf("open %s: %v, want denied", file, err)
		}
	}
	_, err := p.Begin(t.Context(), providers.Spec{Name: "new", Format: "raw"})
	if disk.KindOf(err) != disk.Denied || disk.AsError(err).Hint == "" {
		t.Errorf("upload into a folder of another: %v, want denied with a hint", err)
	}
}

// asNobody takes root's rights to files from the thread of the test, which ends
// with the test; an ordinary user has none to lose.
func asNobody(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	runtime.LockOSThread()
	if err := errors.Join(unix.Setfsgid(65534), unix.Setfsuid(65534)); err != nil {
		t.Fatal(err)
	}
}

func TestNewRefuses(t *testing.T) {
	base := t.TempDir()
	images := filepath.Join(base, "images")
	if err := os.MkdirAll(filepath.Join(images, "mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(images, filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	at := func(path string) string { return filepath.Join(base, path) }
	tests := []struct {
		name string
		o    Options
		ok   bool
	}{
		{"mountpoint elsewhere", Options{Name: "a-1_b", Images: images, Mountpoint: at("mnt")}, true},
		{"mountpoint with the folder's name as a prefix", Options{Name: "a", Images: images, Mountpoint: at("images.mnt")}, true},
		{"nothing there yet", Options{Name: "a", Images: at("gone"), Instances: at("gone too")}, true},
		{"known store", Options{Name: "a", Images: images, Store: "qcow2"}, true},
		{"mountpoint inside", Options{Name: "a", Images: images, Mountpoint: at("images/mnt")}, false},
		{"mountpoint inside, to be made", Options{Name: "a", Images: images, Mountpoint: at("images/new/mnt")}, false},
		{"mountpoint inside by a symlink", Options{Name: "a", Images: images, Mountpoint: at("link/mnt")}, false},
		{"folder itself", Options{Name: "a", Images: images, Mountpoint: images}, false},
		{"inside the instances", Options{Name: "a", Images: at("x"), Instances: images, Mountpoint: at("images/mnt")}, false},
		{"folder inside mountpoint", Options{Name: "a", Images: images, Mountpoint: base}, false},
		{"one folder as both", Options{Name: "a", Images: images, Instances: at("link")}, false},
		{"no folder", Options{Name: "a"}, false},
		{"unknown store", Options{Name: "a", Images: images, Store: "zip"}, false},
		{"no name", Options{Images: images}, false},
		{"bad name", Options{Name: "../a", Images: images}, false},
	}
	for _, tt := range tests {
		tt.o.Formats = formatsByExt()
		_, err := New(tt.o)
		if tt.ok && err != nil || !tt.ok && disk.KindOf(err) != disk.Invalid {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
