package e2e

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// badImages puts files into a folder that no view can be made of, and tells
// the errnos that each may give.
func badImages(t testing.TB, s site) map[string][]syscall.Errno {
	t.Helper()
	need(t, "qemu-img")
	in := func(name string) string { return filepath.Join(s.images, name) }
	damaged := []syscall.Errno{syscall.EBADMSG, syscall.ENOTSUP}
	bad := map[string][]syscall.Errno{}

	whole := filepath.Join(t.TempDir(), "whole.qcow2")
	qemuConvert("-O", "qcow2")(t, random(t, filepath.Join(t.TempDir(), "r"), 3*mib, 51), whole)
	run(t, "cp", whole, in("truncated.qcow2"))
	run(t, "truncate", "-s", "1M", in("truncated.qcow2"))
	bad["truncated"] = damaged

	run(t, "cp", whole, in("headless.qcow2"))
	run(t, "truncate", "-s", "100", in("headless.qcow2"))
	bad["headless"] = damaged

	random(t, in("garbage.vmdk"), 300*kib, 52)
	bad["garbage"] = damaged

	run(t, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "whole.qcow2", in("backed.qcow2"), "3M")
	bad["backed"] = damaged

	writeFile(t, in("empty.vmdk"), nil)
	bad["empty"] = damaged

	elsewhere := []syscall.Errno{syscall.EBADMSG, syscall.ENOTSUP, syscall.ENOENT, syscall.EACCES, syscall.EPERM}
	outside := random(t, filepath.Join(t.TempDir(), "outside"), 64*kib, 53)
	for name, target := range map[string]string{"dangling": "nowhere.raw", "outside": outside, "up": "../../x.raw", "loop": "loop.raw"} {
		if err := os.Symlink(target, in(name+".raw")); err != nil {
			t.Fatal(err)
		}
		bad[name] = elsewhere
	}
	if err := syscall.Mkfifo(in("fifo.raw"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad["fifo"] = elsewhere
	return bad
}

// TestUnreadable: one image that cannot be read does not spoil the others. It
// is not listed, and tells its reason to who asks by name.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	need(t, "rsync")
	a := newSite(t, "a")
	serve(t, a, []plainDisk{{"good", gptExt4(t, 54)}}, containers()[:2])
	bad := badImages(t, a)
	s := mount(t, config{sites: []site{a}})

	to := t.TempDir()
	writeFile(t, filepath.Join(to, "old"), []byte("of an earlier run"))
	for range 2 {
		run(t, "rsync", "-a", "--delete", s.images("a")+"/", to+"/")
	}
	listed := names(t, s.images("a"))
	if got := names(t, to); !slices.Equal(got, listed) || len(got) < 8 {
		t.Errorf("rsync made %q of %q", got, listed)
	}
	for name, errnos := range bad {
		for _, n := range listed {
			if strings.HasPrefix(n, name+".") {
				t.Errorf("%s is listed", n)
			}
		}
		for _, format := range formats() {
			checkRefused(t, s.images("a", name+"."+format), errnos)
		}
		if reasons := s.reasons(t); !strings.Contains(reasons, name) {
			t.Errorf(".chromogenic/errors says nothing of %s:\n%s", name, last(reasons, 5))
		}
	}
}

// checkRefused reads a file that must not be readable.
func checkRefused(t testing.TB, path string, errnos []syscall.Errno) {
	t.Helper()
	b, err := readAll(path)
	if err == nil {
		t.Errorf("%s can be read: %d bytes", path, len(b))
	} else if !slices.Contains(errnos, errno(err)) {
		t.Errorf("%s: %v (errno %d), want one of %v", path, err, errno(err), errnos)
	}
}

// readAll reads a file, and gives what it got before an error too.
func readAll(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// TestFolderGone: a folder that went away is an error, never an empty
// directory, and rsync --delete deletes nothing.
func TestFolderGone(t *testing.T) {
	t.Parallel()
	need(t, "rsync")
	a := newSite(t, "a")
	serve(t, a, []plainDisk{{"good", random(t, filepath.Join(t.TempDir(), "r"), mib, 55)}}, containers()[:1])
	s := mount(t, config{sites: []site{a}})
	to := t.TempDir()
	run(t, "rsync", "-a", "--delete", s.images("a")+"/", to+"/")

	away := a.images + ".away"
	if err := os.Rename(a.images, away); err != nil {
		t.Fatal(err)
	}
	checkGone(t, s, to)
	s = s.again(t, s.dir, s.state) // mounted while the folder is away
	checkGone(t, s, to)
	if err := os.Rename(away, a.images); err != nil {
		t.Fatal(err)
	}
	checkBack(t, s, to)
}

// TestDiskUnmounted: the same, where the folder is a mountpoint and what is
// left of it is an empty folder.
func TestDiskUnmounted(t *testing.T) {
	t.Parallel()
	needRoot(t)
	need(t, "rsync")
	a := newSite(t, "a")
	unmount := tmpfs(t, a.images, "16M")
	serve(t, a, []plainDisk{{"good", random(t, filepath.Join(t.TempDir(), "r"), mib, 56)}}, containers()[:1])
	s := mount(t, config{sites: []site{a}})
	to := t.TempDir()
	run(t, "rsync", "-a", "--delete", s.images("a")+"/", to+"/")
	unmount()
	checkGone(t, s, to)
}

// tmpfs mounts a small file system; the function unmounts it, which the end of
// the test does too.
func tmpfs(t testing.TB, dir, size string) (unmount func()) {
	t.Helper()
	run(t, "mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir)
	var done bool
	unmount = func() {
		if done {
			return
		}
		done = true
		// A server that keeps the folder open makes it busy; it must bear that
		// the file system goes away all the same.
		if r := try(t, "umount", dir); r.code != 0 {
			t.Logf("umount %s: %s", dir, r.out)
			run(t, "umount", "-l", dir)
		}
	}
	t.Cleanup(unmount)
	return unmount
}

// checkGone backs up a directory whose folder is not there.
func checkGone(t testing.TB, s *server, to string) {
	t.Helper()
	before := names(t, to)
	s.refresh(t)
	if got, err := readNames(s.images("a")); err == nil {
		t.Errorf("the folder is gone and readdir gives %q", got)
	} else if e := errno(err); e != syscall.EHOSTUNREACH {
		t.Errorf("readdir: %v, want EHOSTUNREACH", err)
	}
	if r := try(t, "rsync", "-a", "--delete", s.images("a")+"/", to+"/"); r.code == 0 {
		t.Errorf("rsync of a folder that is gone ends with 0\n%s", r.out)
	}
	if after := names(t, to); !slices.Equal(before, after) {
		t.Errorf("rsync --delete left %q of %q", after, before)
	}
	if !strings.Contains(s.reasons(t), "CHR-") {
		t.Error(".chromogenic/errors gives no reason")
	}
}

// checkBack waits for the folder to be served again, with no remount.
func checkBack(t testing.TB, s *server, to string) {
	t.Helper()
	s.refresh(t)
	for range 100 {
		if got, err := readNames(s.images("a")); err == nil && slices.Equal(got, names(t, to)) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the folder is back and is not served")
}
