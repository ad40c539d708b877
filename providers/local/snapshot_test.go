package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

const job = "20261121T030000Z-0a1b2c"

// writer writes to a file again and again until it is stopped.
func writer(t *testing.T, path string) (stop func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer f.Close()
		for i := byte(0); ; i++ {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			if _, err := f.WriteAt([]byte{i}, 0); err != nil {
				t.Error(err)
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// TestSnapshotBusy copies the disk of a machine that never stops writing.
func TestSnapshotBusy(t *testing.T) {
	p, _, instances := newProvider(t)
	path := filepath.Join(instances, "web.raw")
	writeImage(t, path, disktest.Pattern(32<<20, nil))
	if canClone(t, path) {
		t.Skip("SKIPPED: the folder of temporary files has reflinks, so nothing is copied")
	}
	web := find(t, p, providers.Instances, "web.raw")
	stop := writer(t, path)
	defer stop()
	s, err := p.Snapshot(t.Context(), web, providers.SnapSpec{Job: job})
	if err == nil {
		s.Disks[0].Close()
	}
	if disk.KindOf(err) != disk.Busy || disk.AsError(err).Hint == "" {
		t.Errorf("capture while it is written to: %v, want busy with a hint", err)
	}
	if left := hidden(t, instances); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	stop()
	if s, err = p.Snapshot(t.Context(), web, providers.SnapSpec{Job: job}); err != nil {
		t.Fatalf("capture of the version after the listed one: %v", err)
	}
	defer s.Disks[0].Close()
	if err := p.Release(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
}

func canClone(t *testing.T, path string) bool {
	t.Helper()
	src, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.CreateTemp(filepath.Dir(path), ".clone")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dst.Name())
	defer dst.Close()
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

// TestSnapshotClone captures on btrfs, from under a writer.
func TestSnapshotClone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting a btrfs takes root")
	}
	file, folder := filepath.Join(t.TempDir(), "btrfs"), t.TempDir()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 256<<20); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.btrfs", "-q", file}, {"mount", "-o", "loop", file, folder}} {
		tool(t, args[0])
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: %s: %v: %s", args[0], err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", folder).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	p := makeProvider(t, Options{Instances: folder})
	path := filepath.Join(folder, "web.raw")
	writeImage(t, path, disktest.Pattern(150<<20, nil)) // of which no copy fits
	stop := writer(t, path)
	defer stop()
	time.Sleep(50 * time.Millisecond)
	s, err := p.Snapshot(t.Context(), find(t, p, providers.Instances, "web.raw"), providers.SnapSpec{Job: job})
	if err != nil {
		t.Fatal(err)
	}
	src := s.Disks[0]
	defer src.Close()
	before := content(t, disk.Section(src, 0, 4096))
	time.Sleep(50 * time.Millisecond)
	if after := content(t, disk.Section(src, 0, 4096)); after != before {
		t.Error("the capture changes with the machine")
	}
	stop()
	if s.Consistency != providers.Crash || src.Size() != 150<<20 || src.Format != "raw" {
		t.Errorf("capture is %+v", s)
	}
	src.Close()
	if err := p.Release(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
}

// tool skips the test where a program is missing, which is no excuse in CI.
func tool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: %v", err)
	}
}

// TestSnapshotSparse checks that a copy keeps the holes.
func TestSnapshotSparse(t *testing.T) {
	p, _, instances := newProvider(t)
	img := disktest.Pattern(1<<30+512, func(b int64) bool { return b%1000 == 3 })
	writeImage(t, filepath.Join(instances, "web.img"), img)
	s, err := p.Snapshot(t.Context(), find(t, p, providers.Instances, "web.img"), providers.SnapSpec{Job: job})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Disks[0].Close()
	left := hidden(t, instances)
	if len(left) != 1 {
		t.Fatalf("captures are %q", left)
	}
	info, err := os.Stat(filepath.Join(instances, left[0]))
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 4<<20 || info.Mode().Perm() != 0o600 {
		t.Errorf("the capture takes %d bytes and has mode %v", used, info.Mode())
	}
	if err := p.Release(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
}

// TestLeftovers tells what a crash has left from what is being worked on.
func TestLeftovers(t *testing.T) {
	p, images, instances := newProvider(t)
	other := makeProvider(t, Options{Images: images, Instances: instances})
	write(t, instances, "web.raw", "disk")
	leftovers := func(want int) []string {
		t.Helper()
		ids, err := other.Leftovers(t.Context())
		if err != nil || len(ids) != want {
			t.Fatalf("leftovers are %q, %v, want %d", ids, err, want)
		}
		return ids
	}
	u, err := p.begin(t.Context(), providers.Spec{Job: job, Name: "x", Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Snapshot(t.Context(), find(t, p, providers.Instances, "web.raw"), providers.SnapSpec{Job: "../" + job})
	if err != nil {
		t.Fatal(err)
	}
	s.Disks[0].Close()
	write(t, images, ".chromogenic-notes", "not one of ours")
	leftovers(0)
	for _, id := range []string{s.ID, "images/" + u.temp.name} {
		if err := other.Release(t.Context(), id); disk.KindOf(err) != disk.Busy {
			t.Errorf("release %s from under its owner: %v, want busy", id, err)
		}
	}
	u.temp.close() // as a crash does
	p.live[s.ID][0].close()
	for _, id := range leftovers(2) {
		if err := other.Release(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	leftovers(0)
	for _, id := range []string{"images/.chromogenic-notes", "images/../x", "images/", "nonsense", "", "images/.chromogenic-a/b.part", "images/web.raw"} {
		if err := other.Release(t.Context(), id); disk.KindOf(err) != disk.NotFound {
			t.Errorf("release %q: %v, want not found", id, err)
		}
	}
	if left := append(hidden(t, images), hidden(t, instances)...); len(left) != 1 {
		t.Errorf("left are %q", left)
	}
}
