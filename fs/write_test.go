package fs

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// withWeb mounts with the image web.raw of 4 MiB in a.
func withWeb(t *testing.T) (*testMount, []byte) {
	t.Helper()
	disk := pattern(1, 4<<20)
	m := mountTwo(t, func(m *testMount, _ *Options) { writeImage(t, filepath.Join(m.a, "web.raw"), disk) })
	return m, disk
}

// wantImage fails unless b's image of the name has the disk, and nothing else is
// in its folder.
func (m *testMount) wantImage(t *testing.T, name string, disk []byte) {
	t.Helper()
	if got := readFile(t, m.path("b/images/"+name+".raw")); !bytes.Equal(got, disk) {
		t.Errorf("image %s differs from what was written", name)
	}
}

// wantNothing fails if b holds anything.
func (m *testMount) wantNothing(t *testing.T) {
	t.Helper()
	if got := list(t, m.path("b/images")); len(got) > 0 {
		t.Errorf("b/images holds %q", got)
	}
	if got := list(t, m.b); len(got) > 0 {
		t.Errorf("the folder of b holds %q", got)
	}
}

func TestPrograms(t *testing.T) {
	for name, args := range map[string][]string{
		"cp":            {"cp", "IN/web.qcow2", "OUT/web.qcow2"},
		"cp raw":        {"cp", "IN/web.raw", "OUT/web.raw"},
		"cp -a":         {"cp", "-a", "IN/web.vmdk", "OUT/web.vmdk"},
		"cp into":       {"cp", "IN/web.ova", "OUT/"},
		"dd":            {"dd", "if=IN/web.raw", "of=OUT/web.raw", "bs=64k", "conv=fsync"},
		"rsync":         {"rsync", "-a", "IN/web.qcow2", "OUT/"},
		"rsync sparse":  {"rsync", "-aS", "IN/web.raw", "OUT/"},
		"rsync inplace": {"rsync", "-a", "--inplace", "IN/web.raw", "OUT/"},
		"rsync partial": {"rsync", "-a", "--partial-dir=.rsync-partial", "--delay-updates", "IN/web.raw", "OUT/"},
		"install":       {"install", "-m", "600", "IN/web.raw", "OUT/web.raw"},
		"sh":            {"sh", "-c", "cat IN/web.raw > OUT/web.raw"},
		"tee":           {"sh", "-c", "cat IN/web.raw | tee OUT/web.raw > /dev/null"},
		"mv":            {"sh", "-c", "cp IN/web.raw OUT/.part && mv OUT/.part OUT/web.raw"},
		"verbatim":      {"cp", "IN/web.raw", "OUT.verbatim/web.raw"},
		"qemu-img":      {"qemu-img", "convert", "-O", "raw", "IN/web.qcow2", "OUT/web.raw"},
		"qemu-img q":    {"qemu-img", "convert", "-O", "qcow2", "IN/web.raw", "OUT/web.qcow2"},
	} {
		t.Run(name, func(t *testing.T) {
			m, disk := withWeb(t)
			for i, a := range args {
				a = strings.ReplaceAll(a, "IN", m.path("a/images"))
				args[i] = strings.ReplaceAll(a, "OUT", m.path("b/images"))
			}
			run(t, 0, args[0], args[1:]...)
			m.wantImage(t, "web", disk)
			if got := list(t, m.path("b/images")); len(got) != 5 {
				t.Errorf("b/images holds %q", got)
			}
		})
	}
}

// TestRsyncTwice: the second run finds nothing to do, in both directions.
func TestRsyncTwice(t *testing.T) {
	m, disk := withWeb(t)
	out := t.TempDir()
	for _, dst := range []string{m.path("b/images/"), out} {
		args := []string{"-a", "--stats", m.path("a/images") + "/", dst}
		run(t, 0, "rsync", args...)
		if s := run(t, 0, "rsync", args...); !strings.Contains(s, "Number of regular files transferred: 0") {
			t.Errorf("rsync to %s:\n%s", dst, s)
		}
	}
	m.wantImage(t, "web", disk)
}

// TestCopyFileRange: a copy inside the mount is known as one, and moves no byte.
func TestCopyFileRange(t *testing.T) {
	m, disk := withWeb(t)
	from, err := os.Open(m.path("a/images/web.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		t.Fatal(err)
	}
	to, err := os.Create(m.path("b/images/copy.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	m.ops.count("READ")
	for left := info.Size(); left > 0; {
		n, err := unix.CopyFileRange(int(from.Fd()), nil, int(to.Fd()), nil, int(left), 0)
		if err != nil || n == 0 {
			t.Fatalf("copy_file_range: %d, %v", n, err)
		}
		left -= int64(n)
	}
	if n, err := unix.CopyFileRange(int(from.Fd()), nil, int(to.Fd()), nil, 1<<20, 0); n != 0 || err != nil {
		t.Errorf("copy_file_range at the end: %d, %v", n, err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if n := m.ops.count("READ") + m.ops.count("WRITE"); n > 0 {
		t.Errorf("%d reads and writes", n)
	}
	m.wantImage(t, "copy", disk)
}

// writerScript holds a file open and goes on at each line of its input. The test
// may not do that itself: a process that serves a mount and starts another one
// with a file of the mount open may hang, for the child closes it and waits for
// the parent. This one starts a program too.
const writerScript = `
import os, subprocess, sys
disk = open(sys.argv[2], "rb").read()
f = open(sys.argv[1], "wb", buffering=0)
f.write(disk[:1<<20])
assert os.stat(sys.argv[1]).st_size == 1<<20
subprocess.run(["true"])
print(flush=True); sys.stdin.readline()
f.write(disk[1<<20:])
os.fsync(f.fileno())
print(flush=True); sys.stdin.readline()
f.close()
`

// TestUnfinished: until it is closed an image is there for its writer alone, and
// a program that the writer starts does not close it.
func TestUnfinished(t *testing.T) {
	m, disk := withWeb(t)
	name := m.path("b/images/new.raw")
	host := filepath.Join(t.TempDir(), "disk")
	writeImage(t, host, disk)
	w := startWriter(t, name, host)
	w.next(t)
	_, err := os.Stat(name)
	wantErrno(t, "stat by another process", err, syscall.ENOENT)
	w.goOn(t)
	w.next(t)
	m.wantNothing(t)
	if out, err := w.end(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	m.wantImage(t, "new", disk)
	run(t, 0, "cmp", name, m.path("a/images/web.raw"))
}

// TestTwoWriters: of two processes that write one name each has a file of its own.
// The first that ends makes the image; to the other it is one that was there before.
func TestTwoWriters(t *testing.T) {
	for name, same := range map[string]bool{"same disk": true, "another disk": false} {
		t.Run(name, func(t *testing.T) {
			m, disk := withWeb(t)
			name, dir := m.path("b/images/new.raw"), t.TempDir()
			slow, fast := filepath.Join(dir, "slow"), filepath.Join(dir, "fast")
			writeImage(t, slow, disk)
			if !same {
				disk = pattern(2, len(disk))
			}
			writeImage(t, fast, disk)
			w := startWriter(t, name, slow)
			w.next(t)
			run(t, 0, "cp", fast, name)
			m.wantImage(t, "new", disk)
			w.goOn(t)
			w.next(t)
			out, err := w.end()
			if same != (err == nil) || !same && !strings.Contains(out, "File exists") {
				t.Errorf("the slower writer ends with %v: %s", err, out)
			}
			m.wantImage(t, "new", disk)
			if got := list(t, m.b); !cmp.Equal(got, []string{"new.raw"}) {
				t.Errorf("the folder of b holds %q", got)
			}
		})
	}
}

// A slowWriter is writerScript at work.
type slowWriter struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  *bufio.Scanner
	stderr bytes.Buffer
}

// startWriter has it write what is in the file host to name.
func startWriter(t *testing.T, name, host string) *slowWriter {
	t.Helper()
	need(t, "python3")
	w := &slowWriter{cmd: exec.Command("python3", "-c", writerScript, name, host)}
	w.cmd.Stderr = &w.stderr
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.lines = bufio.NewScanner(out)
	return w
}

// next waits until it has come to its next stop.
func (w *slowWriter) next(t *testing.T) {
	t.Helper()
	if !w.lines.Scan() {
		t.Fatalf("the writer has ended: %v\n%s", w.lines.Err(), &w.stderr)
	}
}

// goOn lets it go on from a stop.
func (w *slowWriter) goOn(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(w.in, "\n"); err != nil {
		t.Fatal(err)
	}
}

// end lets it close the file, and gives what it has to say.
func (w *slowWriter) end() (string, error) {
	w.in.Close()
	err := w.cmd.Wait()
	return w.stderr.String(), err
}

func TestExisting(t *testing.T) {
	m, disk := withWeb(t)
	run(t, 0, "cp", m.path("a/images/web.raw"), m.path("b/images/web.raw"))
	host := filepath.Join(t.TempDir(), "same.raw")
	writeImage(t, host, disk)
	// The same disk, however it is written, is a success without work.
	run(t, 0, "cp", host, m.path("b/images/web.raw"))
	run(t, 0, "cp", m.path("a/images/web.qcow2"), m.path("b/images/web.qcow2"))
	run(t, 0, "dd", "if="+host, "of="+m.path("b/images/web.raw"), "conv=notrunc", "bs=64k", "count=1")
	// Another one is refused, and what was there stays.
	writeImage(t, host, pattern(99, 4<<20))
	for _, args := range [][]string{
		{"cp", host, m.path("b/images/web.raw")},
		{"dd", "if=" + host, "of=" + m.path("b/images/web.raw"), "conv=notrunc", "bs=64k", "count=1"},
		{"sh", "-c", "cat " + host + " > " + m.path("b/images/web.raw")},
	} {
		if out := run(t, 1, args[0], args[1:]...); !strings.Contains(out, "File exists") {
			t.Errorf("%q says %s", args, out)
		}
	}
	if out := run(t, 23, "rsync", "-a", host, m.path("b/images/web.raw")); !strings.Contains(out, "File exists") {
		t.Errorf("rsync says %s", out)
	}
	m.wantImage(t, "web", disk)
	// Who has it open reads what was there, while another writes and after.
	old, err := os.Open(m.path("b/images/web.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	wantErrno(t, "copy over another", copyFile(host, m.path("b/images/web.raw"), 1<<20), syscall.EEXIST)
	p := make([]byte, len(disk))
	if _, err := old.ReadAt(p, 0); err != nil || !bytes.Equal(p, disk) {
		t.Errorf("who had it open reads something else (%v)", err)
	}
	_, err = os.OpenFile(m.path("b/images/web.raw"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	wantErrno(t, "O_EXCL", err, syscall.EEXIST)
	wantErrno(t, "truncate", os.Truncate(m.path("b/images/web.raw"), 5), syscall.EPERM)
	if got := list(t, m.b); !cmp.Equal(got, []string{"web.raw"}) {
		t.Errorf("the folder of b holds %q", got)
	}
}

func TestRefusals(t *testing.T) {
	m, _ := withWeb(t)
	in := func(name string) string { return m.path("b/images/" + name) }
	create := func(name string) error {
		f, err := os.Create(name)
		if err == nil {
			f.Close()
		}
		return err
	}
	wantErrno(t, "unknown extension", create(in("x.txt")), syscall.EINVAL)
	if got := errorAt(t, m.path("b/images")); !strings.Contains(got, "no known extension") || !strings.Contains(got, "hint: ") {
		t.Errorf("reason: %s", got)
	}
	wantErrno(t, "ovf", create(in("x.ovf")), syscall.EINVAL)
	wantErrno(t, "into instances", create(m.path("b/instances/x.raw")), syscall.EPERM)
	wantErrno(t, "into a provider", create(m.path("b/x.raw")), syscall.EPERM)
	wantErrno(t, "into the root", create(m.path("x.raw")), syscall.EPERM)
	wantErrno(t, "mkdir", os.Mkdir(in("dir"), 0o700), syscall.EPERM)
	wantErrno(t, "symlink", os.Symlink("web.raw", in("link.raw")), syscall.EPERM)
	wantErrno(t, "link", os.Link(m.path("a/images/web.raw"), m.path("a/images/web2.raw")), syscall.EPERM)
	wantErrno(t, "mknod", syscall.Mkfifo(in("fifo.raw"), 0o600), syscall.EPERM)
	wantErrno(t, "rm", os.Remove(m.path("a/images/web.raw")), syscall.EPERM)
	wantErrno(t, "rmdir", syscall.Rmdir(m.path("a/images")), syscall.EPERM)
	wantErrno(t, "mv across providers", os.Rename(m.path("a/images/web.raw"), in("web.raw")), syscall.EPERM)
	wantErrno(t, "mv to another format", os.Rename(m.path("a/images/web.raw"), m.path("a/images/web2.vmdk")), syscall.ENOTSUP)
	wantErrno(t, "mv to a dot-name", os.Rename(m.path("a/images/web.raw"), m.path("a/images/.web")), syscall.EPERM)
	if out := run(t, 1, "cp", m.path("a/images/web.qcow2"), in("web.raw")); !strings.Contains(out, "Bad message") && !strings.Contains(out, "Invalid") {
		t.Errorf("a qcow2 under .raw: %s", out)
	}
	m.wantNothing(t)
	if n := strings.Count(m.log.String(), "level=WARN"); n < 10 {
		t.Errorf("%d failures are logged:\n%s", n, m.log)
	}
}

func TestRenameImage(t *testing.T) {
	m, disk := withWeb(t)
	run(t, 0, "cp", m.path("a/images/web.raw"), m.path("b/images/old.raw"))
	run(t, 0, "mv", m.path("b/images/old.qcow2"), m.path("b/images/new.qcow2"))
	m.wantImage(t, "new", disk)
	run(t, 0, "cp", m.path("a/images/web.raw"), m.path("b/images/other.raw"))
	wantErrno(t, "rename onto another", os.Rename(m.path("b/images/other.raw"), m.path("b/images/new.raw")), syscall.EEXIST)
	if got := list(t, m.path("b/images")); len(got) != 10 {
		t.Errorf("b/images holds %q", got)
	}
}

func TestEmptyAndUnlinked(t *testing.T) {
	m, disk := withWeb(t)
	run(t, 0, "touch", m.path("b/images/empty.raw"))
	run(t, 1, "test", "-e", m.path("b/images/empty.raw"))
	f, err := os.Create(m.path("b/images/gone.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(disk); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("close of an unlinked file: %v", err)
	}
	if err := os.MkdirAll(m.path("b/images/.dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path("b/images/.dir/part"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.path("b/images/.dir/part"), m.path("b/images/.part")); err != nil {
		t.Fatal(err)
	}
	if got := list(t, m.path("b/images")); !cmp.Equal(got, []string{".dir", ".part"}) {
		t.Errorf("b/images holds %q", got)
	}
	if got := readFile(t, m.path("b/images/.part")); !bytes.Equal(got, disk) {
		t.Error("an unfinished file reads as something else")
	}
	run(t, 0, "rm", m.path("b/images/.part"))
	run(t, 0, "rmdir", m.path("b/images/.dir"))
	m.wantNothing(t)
	// A name that was left empty is free again.
	run(t, 0, "cp", m.path("a/images/web.raw"), m.path("b/images/empty.raw"))
	m.wantImage(t, "empty", disk)
}

// TestTimes: the writer's time is the image's, set before the commit or after it.
func TestTimes(t *testing.T) {
	m, _ := withWeb(t)
	want := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	run(t, 0, "cp", "-p", m.path("a/images/web.raw"), m.path("b/images/before.raw"))
	run(t, 0, "cp", m.path("a/images/web.raw"), m.path("b/images/after.raw"))
	if err := os.Chtimes(m.path("b/images/after.raw"), want, want); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(m.path("b/images/open.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(pattern(5, 1<<20)); err != nil {
		t.Fatal(err)
	}
	// As a program does that closes a duplicate, then sets the time.
	dup, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Close(dup); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := unix.Futimes(int(f.Fd()), []unix.Timeval{unix.NsecToTimeval(want.UnixNano()), unix.NsecToTimeval(want.UnixNano())}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"before", "after", "open"} {
		info, err := os.Stat(filepath.Join(m.b, name+".raw"))
		if err != nil || info.ModTime().Sub(want).Abs() > time.Microsecond {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if info, err = os.Stat(m.path("b/images/" + name + ".qcow2")); err != nil || info.ModTime().Sub(want).Abs() > time.Microsecond {
			t.Errorf("%s in the mount: %v, %v", name, info, err)
		}
	}
}
