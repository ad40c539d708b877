package fs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestTree(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) {
		writeImage(t, filepath.Join(m.a, "web.raw"), pattern(1, 3<<20))
		writeImage(t, filepath.Join(m.a, "broken.qcow2"), append([]byte("QFI\xfb\x00\x00\x00\x03"), bytes.Repeat([]byte{0xff}, 1000)...))
		writeImage(t, filepath.Join(m.a+"-instances", "vm.raw"), pattern(2, 1<<20))
	})
	if mounts := readFile(t, "/proc/self/mounts"); !strings.Contains(string(mounts), "chromogenic "+m.dir+" fuse.chromogenic rw,nosuid,nodev,noexec,noatime") {
		t.Errorf("/proc/self/mounts:\n%s", mounts)
	}
	for dir, want := range map[string][]string{
		"":            {"a", "b"},
		"a":           {"images", "instances"},
		"a/images":    {"web.json", "web.ova", "web.qcow2", "web.raw", "web.vmdk"},
		"a/instances": {"vm.ova", "vm.qcow2", "vm.raw", "vm.vmdk"},
		"b/images":    nil,
		// The id is a file's name, whose extension is encoded.
		"a/images/by-id":    {"web%2Eraw.json", "web%2Eraw.ova", "web%2Eraw.qcow2", "web%2Eraw.raw", "web%2Eraw.vmdk"},
		"a/images.verbatim": {"web.json", "web.ova", "web.qcow2", "web.raw", "web.vmdk"},
		"a/images.cleaned":  {"web.json", "web.ova", "web.qcow2", "web.raw", "web.vmdk"},
		".chromogenic":      {"errors", "jobs", "metrics", "refresh", "status", "version"},
		".chromogenic/jobs": nil,
	} {
		if diff := cmp.Diff(want, list(t, m.path(dir))); diff != "" {
			t.Errorf("list %s (-want +got):\n%s", dir, diff)
		}
	}
	if to, err := os.Readlink(m.path("a/images/by-id/web%2Eraw.vmdk")); to != "../web.vmdk" {
		t.Errorf("by-id leads to %q, %v", to, err)
	}
	_, err := os.Stat(m.path("a/images/broken.raw"))
	wantErrno(t, "stat of a damaged image", err, syscall.EBADMSG)
	if got := errorAt(t, m.path("a/images")); !strings.Contains(got, "CHR-0012") || !strings.Contains(got, "broken.raw") {
		t.Errorf("error of images/: %s", got)
	}
	if got := string(readFile(t, m.path(".chromogenic/errors"))); !strings.Contains(got, `"errno":"EBADMSG"`) {
		t.Errorf("errors: %s", got)
	}
	_, err = os.Stat(m.path("a/images.compressed"))
	wantErrno(t, "stat of images.compressed", err, syscall.ENOTSUP)
	_, err = os.Stat(m.path("nobody"))
	wantErrno(t, "stat of an unknown provider", err, syscall.ENOENT)
	var st syscall.Statfs_t
	if err := syscall.Statfs(m.dir, &st); err != nil || int64(st.Blocks)*st.Bsize != 1<<50 || st.Namelen != 255 {
		t.Errorf("statfs: %+v, %v", st, err)
	}
}

func TestReadExactly(t *testing.T) {
	disk := pattern(3, 5<<20+512)
	m := mountTwo(t, func(m *testMount, _ *Options) { writeImage(t, filepath.Join(m.a, "web.raw"), disk) })
	if got := readFile(t, m.path("a/images/web.raw")); !bytes.Equal(got, disk) {
		t.Error("the raw view differs from the disk")
	}
	for _, format := range []string{"raw", "img", "qcow2", "vmdk", "ova"} {
		path := m.path("a/images/web." + format)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		whole := readFile(t, path)
		if int64(len(whole)) != info.Size() {
			t.Errorf("%s: stat says %d bytes, there are %d", format, info.Size(), len(whole))
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewSource(4))
		for range 200 {
			off, n := r.Int63n(info.Size()), r.Intn(100<<10)
			p := make([]byte, n)
			got, err := f.ReadAt(p, off)
			want := whole[off:min(off+int64(n), info.Size())]
			if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(p[:got], want) {
				t.Fatalf("%s: read %d bytes at %d: %d, %v", format, n, off, got, err)
			}
		}
		f.Close()
	}
}

func TestStatIsStable(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) { writeImage(t, filepath.Join(m.a, "web.raw"), pattern(5, 4<<20)) })
	inos := map[uint64]string{}
	for _, format := range []string{"raw", "qcow2", "vmdk", "ova", "json"} {
		var st syscall.Stat_t
		path := m.path("a/images/web." + format)
		if err := syscall.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if other, twice := inos[st.Ino]; twice {
			t.Errorf("%s and %s share inode %d", format, other, st.Ino)
		}
		inos[st.Ino] = format
		want := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(want) || st.Ctim != st.Mtim {
			t.Errorf("%s: mtime %v, ctime %v, want %v", format, got, st.Ctim, want)
		}
		if st.Nlink != 1 || st.Mode != syscall.S_IFREG|0o640 {
			t.Errorf("%s: nlink %d mode %o", format, st.Nlink, st.Mode)
		}
		if whole := format != "json"; (st.Blksize == readSize) != whole {
			t.Errorf("%s: st_blksize %d", format, st.Blksize)
		}
	}
	entries, err := os.ReadDir(m.path("a/images"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(run(t, 0, "ls", "-i", m.path("a/images"))) {
		var ino uint64
		if _, err := fmt.Sscan(name, &ino); err == nil && inos[ino] == "" {
			t.Errorf("readdir gives inode %d, which stat does not", ino)
		}
	}
	if len(entries) != 5 {
		t.Errorf("%d entries", len(entries))
	}
	var st syscall.Stat_t
	if err := syscall.Stat(m.path("a/images/web.raw"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("raw of 300 KiB of data has %d blocks (%v)", st.Blocks, err)
	}
}

func TestHoles(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) { writeImage(t, filepath.Join(m.a, "web.raw"), pattern(6, 8<<20)) })
	f, err := os.Open(m.path("a/images/web.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hole, err := f.Seek(0, unix.SEEK_HOLE)
	if err != nil || hole < 200<<10 || hole > 512<<10 {
		t.Errorf("first hole at %d, %v", hole, err)
	}
	data, err := f.Seek(hole, unix.SEEK_DATA)
	if err != nil || data < 7<<20 {
		t.Errorf("data again at %d, %v", data, err)
	}
	if end, err := f.Seek(data, unix.SEEK_HOLE); err != nil || end != 8<<20 {
		t.Errorf("the last hole is at %d, %v", end, err)
	}
	_, err = f.Seek(8<<20, unix.SEEK_DATA)
	wantErrno(t, "SEEK_DATA at the end", err, syscall.ENXIO)
}

// TestLookups: a plain ls asks for names alone, whatever is in the directory.
func TestLookups(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) {
		for i := range 30 {
			writeImage(t, filepath.Join(m.a, fmt.Sprintf("image %d.raw", i)), pattern(int64(i), 64<<10))
		}
	})
	m.ops.count("LOOKUP")
	names := run(t, 0, "ls", "-1", m.path("a/images"))
	if n := strings.Count(names, "\n"); n != 150 {
		t.Fatalf("ls shows %d names", n)
	}
	if n := m.ops.count("LOOKUP"); n > 4 {
		t.Errorf("ls of 150 names makes %d lookups", n)
	}
	if n := m.ops.count("READDIRPLUS"); n > 0 {
		t.Errorf("ls makes %d READDIRPLUS", n)
	}
}

// TestFolderGone: a directory that cannot be listed is an error, never empty.
func TestFolderGone(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) { writeImage(t, filepath.Join(m.a, "web.raw"), pattern(7, 1<<20)) })
	if got := list(t, m.path("a/images")); len(got) != 5 {
		t.Fatalf("listed: %q", got)
	}
	if err := os.Rename(m.a, m.a+".gone"); err != nil {
		t.Fatal(err)
	}
	_, err := os.ReadDir(m.path("a/images"))
	wantErrno(t, "readdir without the folder", err, syscall.EHOSTUNREACH)
	if got := errorAt(t, m.path("a/images")); !strings.Contains(got, "CHR-0002") {
		t.Errorf("error of images/: %s", got)
	}
	if err := os.Rename(m.a+".gone", m.a); err != nil {
		t.Fatal(err)
	}
	if got := list(t, m.path("a/images")); len(got) != 5 {
		t.Errorf("listed again: %q", got)
	}
	if got := errorAt(t, m.path("a/images")); !strings.HasPrefix(got, "no error") {
		t.Errorf("error of images/ that is listed again: %s", got)
	}
}

// TestPageCache: only what cannot change any more stays in the kernel.
func TestPageCache(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) {
		writeImage(t, filepath.Join(m.a, "old.raw"), pattern(1, 64<<10))
		writeImage(t, filepath.Join(m.a, "fresh.raw"), pattern(1, 64<<10))
	})
	host := filepath.Join(m.a, "fresh.raw")
	now := time.Now().Add(time.Minute) // not settled before this test has ended
	if err := os.Chtimes(host, now, now); err != nil {
		t.Fatal(err)
	}
	first := pattern(1, 64<<10)
	for _, name := range []string{"old", "fresh"} {
		if got := readFile(t, m.path("a/images/"+name+".raw")); !bytes.Equal(got, first) {
			t.Errorf("%s differs", name)
		}
	}
	m.ops.count("READ")
	readFile(t, m.path("a/images/old.raw"))
	if n := m.ops.count("READ"); n > 0 {
		t.Errorf("%d reads of what the kernel has", n)
	}
	// A write within one tick of the clock leaves the version as it is.
	f, err := os.OpenFile(host, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(pattern(2, 64<<10), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(host, now, now); err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, m.path("a/images/fresh.raw")); !bytes.Equal(got, pattern(2, 64<<10)) {
		t.Error("the kernel shows what was there before")
	}
	m.ops.count("READ")
	open, err := os.Open(m.path("a/images/fresh.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for range 2 {
		if _, err := open.ReadAt(make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.ops.count("READ"); n != 2 {
		t.Errorf("%d reads: pages are kept that another open may find", n)
	}
}

// TestListedFormats: a format is listed where it can be read, in every directory.
func TestListedFormats(t *testing.T) {
	m := mountTwo(t, func(m *testMount, o *Options) {
		o.Formats = []string{"raw", "vmdk", "ova", "ovf"}
		big := filepath.Join(m.a, "big.raw")
		writeImage(t, big, nil)
		if err := os.Truncate(big, 2<<40+512); err != nil { // a byte more than a vmdk takes
			t.Skipf("SKIPPED, NOT TESTED: a sparse file of 2 TiB: %v", err)
		}
	})
	for dir, want := range map[string]string{"": "big.raw", "by-id": "big%2Eraw.raw"} {
		if got := list(t, m.path("a/images/"+dir)); !cmp.Equal(got, []string{want}) {
			t.Errorf("images/%s lists %q, want %s", dir, got, want)
		}
	}
}

// TestStale: what is read through an open file is one version or an error.
func TestStale(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) { writeImage(t, filepath.Join(m.a, "web.raw"), pattern(8, 4<<20)) })
	f, err := os.Open(m.path("a/images/web.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	writeImage(t, filepath.Join(m.a, "new"), pattern(9, 4<<20))
	if err := os.Rename(filepath.Join(m.a, "new"), filepath.Join(m.a, "web.raw")); err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(f)
	if err != nil {
		wantErrno(t, "read of an image that has changed", err, syscall.ESTALE)
	}
	time.Sleep(2100 * time.Millisecond)
	if got := readFile(t, m.path("a/images/web.raw")); !bytes.Equal(got, pattern(9, 4<<20)) {
		t.Error("the new content does not show")
	}
}

func TestXattrs(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) { writeImage(t, filepath.Join(m.a, "web.raw"), pattern(10, 1<<20)) })
	path := m.path("a/images/web.vmdk")
	buf := make([]byte, 4096)
	for name, want := range map[string]string{"provider": "a", "name": "web", "format": "raw", "virtual_size": "1048576"} {
		n, err := syscall.Getxattr(path, xattrPrefix+name, buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("%s is %q, %v, want %q", name, buf[:max(n, 0)], err, want)
		}
	}
	n, err := syscall.Listxattr(path, buf)
	if err != nil || !bytes.Contains(buf[:n], []byte(xattrPrefix+"id\x00")) {
		t.Errorf("listxattr: %q, %v", buf[:max(n, 0)], err)
	}
	_, err = syscall.Getxattr(path, "system.posix_acl_access", buf)
	wantErrno(t, "getxattr of an ACL", err, syscall.ENODATA)
	wantErrno(t, "setxattr of an ACL", syscall.Setxattr(path, "system.posix_acl_access", []byte{2, 0, 0, 0}, 0), syscall.ENOTSUP)
	for _, path := range []string{path, m.path("a/images"), m.dir} {
		wantErrno(t, "removexattr", syscall.Removexattr(path, "user.x"), syscall.ENOTSUP)
	}
	_, err = syscall.Getxattr(path, xattrPrefix+"name", buf[:1])
	wantErrno(t, "getxattr into one byte", err, syscall.ERANGE)
}
