package e2e

import (
	bin "encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The disk of a machine that writes: the blocks at its beginning are written round
// and round, each filled with the number of the write. Two writes in a row are far
// apart, so that a copy which takes its time misses the one and has the other.
const (
	logBlock  = 4096 // bytes
	logBlocks = 1024
)

// blockOf is where a write goes: to each block once in logBlocks writes.
func blockOf(write uint64) uint64 { return write * 389 % logBlocks }

// A machine writes to its disk until it is stopped.
type machine struct {
	path string
	stop func()
}

// writing starts a machine on a sparse disk of 64 MiB. It writes without end, in
// bursts if pause is not 0.
func writing(t testing.TB, path string, pause time.Duration) machine {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 * mib); err != nil {
		t.Fatal(err)
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer f.Close()
		buf := make([]byte, logBlock)
		for n := uint64(1); ; n++ {
			for at := 0; at < logBlock; at += 8 {
				bin.LittleEndian.PutUint64(buf[at:], n)
			}
			if _, err := f.WriteAt(buf, int64(blockOf(n)*logBlock)); err != nil {
				t.Error(err)
				return
			}
			wait := 100 * time.Microsecond
			if pause > 0 && n%100 == 0 {
				wait = pause
			}
			select {
			case <-quit:
				return
			case <-time.After(wait):
			}
		}
	})
	m := machine{path, sync.OnceFunc(func() { close(quit); wg.Wait() })}
	t.Cleanup(m.stop)
	return m
}

// writes is how many writes the disk has seen. They are all there up to the last
// one, and none after it, or the disk is not of one moment.
func writes(t testing.TB, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log := make([]byte, logBlock*logBlocks)
	if _, err := io.ReadFull(f, log); err != nil {
		t.Fatal(err)
	}
	var last uint64
	word := func(at int) uint64 { return bin.LittleEndian.Uint64(log[at:]) }
	for at := 0; at < len(log); at += logBlock {
		last = max(last, word(at))
	}
	want := map[int]uint64{} // 0 for a block that was not written yet
	for n := last; n > 0 && n+logBlocks > last; n-- {
		want[int(blockOf(n))] = n
	}
	for at := 0; at < len(log); at += 8 {
		if got, want := word(at), want[at/logBlock]; got != want {
			t.Fatalf("%s: write %d is at %d, where write %d should be of %d", path, got, at, want, last)
		}
	}
	return last
}

// reflinks mounts an xfs and gives a folder on it.
func reflinks(t testing.TB) string {
	t.Helper()
	needRoot(t)
	need(t, "mkfs.xfs", "mount", "umount")
	file, dir := filepath.Join(t.TempDir(), "xfs"), t.TempDir()
	script(t, `truncate -s 512M "$1"; mkfs.xfs -q -m reflink=1 "$1"`, file)
	if r := try(t, "mount", "-o", "loop", file, dir); r.code != 0 {
		missing(t, "a loop device with xfs: %s", r.out)
	}
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

// captures lists the captures of a folder, by their files.
func captures(t testing.TB, s site) []string {
	t.Helper()
	var found []string
	for _, n := range names(t, s.instances) {
		if strings.Contains(n, "@") {
			found = append(found, n)
		}
	}
	return found
}

// captured captures a:instances/web and gives the name of the capture. The disk of
// a machine that writes may be busy for some time.
func captured(t testing.TB, conf string, args ...string) string {
	t.Helper()
	for range 50 {
		r := chromogenic(t, conf, append([]string{"capture", "a:instances/web"}, args...)...)
		if r.code == 0 {
			return strings.TrimPrefix(strings.TrimSpace(r.out), "a:instances/")
		}
		if r.code != 1 || !strings.Contains(r.out, "was written to during") {
			t.Fatalf("capture: exit status %d\n%s", r.code, r.out)
		}
	}
	t.Fatal("the disk is always busy")
	return ""
}

// TestCaptures captures the disk of a machine that writes to it, under a mount that
// may not capture it.
func TestCaptures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		pause  time.Duration
		folder func(t testing.TB) string
	}{
		{"Reflinks", 0, reflinks},
		{"Copies", 300 * time.Millisecond, func(t testing.TB) string { return t.TempDir() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newSite(t, "a")
			a.instances, a.more = tt.folder(t), ", snapshot: on-copy"
			c := config{sites: []site{a}, state: filepath.Join(t.TempDir(), "state")}
			conf := c.write(t)
			m := writing(t, filepath.Join(a.instances, "web.raw"), tt.pause)
			s := mount(t, c)
			in := func(file string) string { return s.path("a", "instances", file) }

			first := captured(t, conf)
			if !regexp.MustCompile(`^web@[0-9]{8}T[0-9]{6}Z$`).MatchString(first) {
				t.Fatalf("capture is %q", first)
			}
			time.Sleep(1100 * time.Millisecond) // how long a listing of a folder may be old
			second := captured(t, conf)
			time.Sleep(1100 * time.Millisecond)
			before, after := writes(t, in(first+".raw")), writes(t, in(second+".raw"))
			if before == 0 || after <= before {
				t.Errorf("the captures have seen %d and %d writes", before, after)
			}
			st := stat(t, in(first+".raw"))
			if st.Size != 64*mib || st.Blocks*512 > 8*mib {
				t.Errorf("the capture has %d bytes in %d blocks", st.Size, st.Blocks)
			}

			// It is the same for ever, while the machine writes on.
			sums := map[string]string{}
			steady := func() {
				t.Helper()
				for _, ext := range formats() {
					sum := digest(t, in(first+"."+ext))
					if sums[ext] == "" {
						sums[ext] = sum
					}
					if sum != sums[ext] {
						t.Fatalf("%s has changed", ext)
					}
				}
			}
			for range 10 {
				steady()
			}
			s = s.again(t, s.dir, s.state)
			steady()
			s = s.again(t, filepath.Join(t.TempDir(), "elsewhere"), filepath.Join(t.TempDir(), "fresh"))
			steady()

			// A backup takes the captures and not the machine.
			backup := t.TempDir()
			sync := func() string {
				return run(t, "rsync", "-a", "--itemize-changes", "--include=*@*", "--exclude=*", s.path("a", "instances")+"/", backup+"/")
			}
			sync()
			if got, want := len(names(t, backup)), 2*len(formats()); got != want {
				t.Errorf("the backup has %d files, want %d", got, want)
			}
			if got := writes(t, filepath.Join(backup, first+".raw")); got != before {
				t.Errorf("the backup has seen %d writes, want %d", got, before)
			}
			if again := sync(); strings.Contains(again, ">f") {
				t.Errorf("the second backup moves\n%s", again)
			}

			// Retention.
			last := ""
			for range 3 {
				last = captured(t, conf, "--keep", "2")
			}
			kept := captures(t, a)
			if len(kept) != 2 || kept[1] != last+".raw" {
				t.Errorf("kept are %q, the last one is %q", kept, last)
			}
			for _, file := range kept {
				writes(t, filepath.Join(a.instances, file))
			}
			m.stop()
		})
	}
}

// creations counts the files that are made in a folder.
func creations(t testing.TB, dir string) (count func() int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	total := 0
	return func() int {
		buf := make([]byte, 64<<10)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil { // EAGAIN: that was all
				return total
			}
			for at := 0; at < n; at += unix.SizeofInotifyEvent + int(bin.NativeEndian.Uint32(buf[at+12:])) {
				total++
			}
		}
	}
}

// TestCasualReaders looks at machines as programs do that want to know what is
// there: none of them may capture one.
func TestCasualReaders(t *testing.T) {
	t.Parallel()
	need(t, "file", "grep", "du", "find", "rsync")
	a, b := newSite(t, "a"), newSite(t, "b")
	a.more = ", snapshot: on-copy"
	disk := gptExt4(t, 131)
	for i := range 3 {
		run(t, "cp", "--sparse=always", disk, filepath.Join(a.instances, fmt.Sprintf("vm%d.raw", i)))
	}
	s := mount(t, config{sites: []site{a, b}})
	made := creations(t, a.instances)
	dir := s.path("a", "instances")
	for _, line := range []string{
		`file "$1"/* || true`, // what cannot be read is an error of theirs
		`grep -r needle "$1" || test $? -le 2`,
		`du -a "$1"`,
		`du -a --apparent-size "$1"`,
		`find "$1" -type f -size +1k -printf '%p %s %b\n'`,
		`for f in "$1"/*; do head -c 65536 "$f" >/dev/null || true; done`,
		`ls -laR "$1"`,
		`getfattr -d "$1"/* || true`,
		`rsync -a --list-only "$1"/`,
		`tar cf - -C "$1" . 2>/dev/null | wc -c >/dev/null`,
	} {
		script(t, line, dir)
		if n := made(); n != 0 {
			t.Fatalf("%s: %d files were made beside the disks", line, n)
		}
	}
	// The count is one that counts.
	run(t, "cp", filepath.Join(dir, "vm1.qcow2"), s.images("b", "vm.qcow2"))
	if n := made(); n != 1 {
		t.Errorf("a copy has made %d files, want 1", n)
	}
}
