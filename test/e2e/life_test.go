package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestSignals: HUP and USR1 do not end a mount, TERM and INT do, cleanly.
func TestSignals(t *testing.T) {
	t.Parallel()
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		a := newSite(t, "a")
		random(t, filepath.Join(a.images, "x.raw"), mib, 131)
		s := mount(t, config{sites: []site{a}})
		for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGHUP} {
			syscall.Kill(s.pid, sig)
			time.Sleep(50 * time.Millisecond)
			digest(t, s.images("a", "x.qcow2"))
		}
		syscall.Kill(s.pid, end)
		select {
		case err := <-s.exit:
			if err != nil {
				t.Errorf("after %v the server ends with %v\n%s", end, err, s.logged())
			}
			s.live = false
		case <-time.After(20 * time.Second):
			t.Errorf("the server lives 20 s after %v", end)
			continue
		}
		s.checkClean(t)
	}
}

// TestStaleMount: a server that was killed leaves a dead mount, and a spool.
// The next one cleans both.
func TestStaleMount(t *testing.T) {
	t.Parallel()
	b := newSite(t, "b")
	s := mount(t, config{sites: []site{b}})
	t.Cleanup(func() { try(t, "umount", "-l", s.dir) })
	half, err := os.Create(s.images("b", "half.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := half.Write(make([]byte, 3*mib)); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(s.pid, syscall.SIGKILL)
	<-s.exit
	s.live = false
	if _, err := readNames(s.path("b")); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("a killed server leaves %v, want ENOTCONN", err)
	}
	half.Close()
	c := s.config
	s = mount(t, c)
	if got := names(t, s.images("b")); len(got) != 0 {
		t.Errorf("the half of an image became %q", got)
	}
	if n := diskUsage(filepath.Join(s.state, "spool")); n != 0 {
		t.Errorf("the spool still takes %d bytes", n)
	}
}

// TestSecondMount: one process owns the state directory.
func TestSecondMount(t *testing.T) {
	t.Parallel()
	a := newSite(t, "a")
	s := mount(t, config{sites: []site{a}})
	r := chromogenic(t, "", "mount", "--config", s.config.write(t), t.TempDir())
	if r.code == 0 {
		t.Errorf("a second mount with the same state directory succeeds")
	}
	names(t, s.images("a"))
}

// TestStale: an image that changes while it is open gives ESTALE, never the
// bytes of two versions.
func TestStale(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	a := newSite(t, "a")
	file := filepath.Join(a.images, "x.qcow2")
	disk := random(t, filepath.Join(t.TempDir(), "d"), 4*mib, 132)
	qemuConvert("-O", "qcow2")(t, disk, file)
	s := mount(t, config{sites: []site{a}})
	f, err := os.Open(s.images("a", "x.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 5 0 1M", file)
	if _, err := f.ReadAt(make([]byte, 4096), 3*mib); errno(err) != syscall.ESTALE {
		t.Errorf("read of a changed image: %v, want ESTALE", err)
	}
	s.refresh(t)
	time.Sleep(1100 * time.Millisecond) // as long as the kernel may keep a name
	same(t, file2raw(t, file), s.images("a", "x.raw"), "raw")
}

// file2raw is the disk in a qcow2, by qemu-img.
func file2raw(t testing.TB, file string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", file, raw)
	return raw
}
