package fs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/pipeline"
	"chromogenic/providers"
	"chromogenic/providers/local"
)

// staged is what is being written into b under a name, or nil.
func (m *testMount) staged(name string) *staged {
	f := m.tree.folder("b", views()[0])
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, g := range f.files {
		if public, _, _ := strings.Cut(key, "\x00"); public == name {
			return g
		}
	}
	return nil
}

// unpublished makes a file of b that is closed and stays open: one descriptor of
// two is closed.
func (m *testMount) unpublished(t *testing.T, name string, content []byte) *os.File {
	t.Helper()
	f, err := os.Create(m.path("b/images/" + name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Close(fd); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestWriteAfterPublish: bytes that come after the rename that published a file
// are lost, and the writer is told.
func TestWriteAfterPublish(t *testing.T) {
	m, disk := withWeb(t)
	f := m.unpublished(t, ".x", disk)
	if err := os.Rename(f.Name(), m.path("b/images/x.raw")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("more"), 0); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "close of what was published before", f.Close(), syscall.ESTALE)
	if got := errorAt(t, m.path("b/images/x.raw")); !strings.Contains(got, "after it was published") {
		t.Errorf("reason: %s", got)
	}
	m.wantImage(t, "x", disk)
}

// TestPublishWhileWritten: what is written between the request to publish a file
// and the commit is seen by the commit.
func TestPublishWhileWritten(t *testing.T) {
	m, content := withWeb(t)
	f := m.unpublished(t, ".x", content)
	if _, err := f.WriteAt([]byte("more"), 0); err != nil {
		t.Fatal(err)
	}
	row, _ := formats.ByName("raw")
	err := m.staged(".x").commit(context.Background(), goal{name: "x", format: row, path: "b/images/x.raw"})
	if disk.KindOf(err) != disk.Busy {
		t.Errorf("commit of a file that is being written: %v", err)
	}
	if got := list(t, m.b); len(got) > 0 {
		t.Errorf("the folder of b holds %q", got)
	}
}

// TestEndedSpool: a commit that ends after the last handle has gone, as that of a
// writer that was killed, leaves no spool open.
func TestEndedSpool(t *testing.T) {
	m, content := withWeb(t)
	row, _ := formats.ByName("raw")
	folder := m.tree.folder("b", views()[0])
	g := newStaged(folder, "x.raw", "b/images/x.raw", process{})
	g.name, g.format = "x", &row
	if err := folder.add(g); err != nil {
		t.Fatal(err)
	}
	if _, err := g.spool.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	g.state, g.err = failed, disk.Errorf(disk.Cancelled, "cancelled")
	g.settle()
	wantClosed(t, g)
}

func wantClosed(t *testing.T, g *staged) {
	t.Helper()
	if _, err := g.spool.ReadAt(make([]byte, 1), 0); !errors.Is(err, disk.ErrClosed) {
		t.Errorf("read of a spool that nobody needs: %v", err)
	}
}

// TestTruncateForReading: to open for reading only and truncate is refused, and
// leaves everything as it was.
func TestTruncateForReading(t *testing.T) {
	m, content := withWeb(t)
	web := m.path("b/images/web.raw")
	run(t, 0, "cp", m.path("a/images/web.raw"), web)
	_, err := os.OpenFile(web, os.O_RDONLY|os.O_TRUNC, 0)
	wantErrno(t, "truncating open of an image", err, syscall.EPERM)
	run(t, 0, "cp", m.path("a/images/web.raw"), web) // nobody has reserved the name
	m.wantImage(t, "web", content)

	f := m.unpublished(t, ".x", content)
	_, err = os.OpenFile(f.Name(), os.O_RDONLY|os.O_TRUNC, 0)
	wantErrno(t, "truncating open of an unfinished file", err, syscall.EPERM)
	g := m.staged(".x")
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opens != 1 || g.spool.Size() != int64(len(content)) {
		t.Errorf("%d handles, %d bytes", g.opens, g.spool.Size())
	}
}

// TestTouch: touch opens an image for writing, and writes nothing.
func TestTouch(t *testing.T) {
	m, content := withWeb(t)
	run(t, 0, "cp", m.path("a/images/web.raw"), m.path("b/images/web.raw"))
	for name, date := range map[string]string{"web.raw": "2020-02-03 04:05:06 UTC", "web.vmdk": "2021-02-03 04:05:06 UTC"} {
		run(t, 0, "touch", "-d", date, m.path("b/images/"+name))
		want, err := time.Parse("2006-01-02 15:04:05 MST", date)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{filepath.Join(m.b, "web.raw"), m.path("b/images/" + name)} {
			if info, err := os.Stat(path); err != nil || !info.ModTime().Equal(want) {
				t.Errorf("touch %s: %s has %v (%v), want %v", name, path, info.ModTime(), err, want)
			}
		}
	}
	m.wantImage(t, "web", content)

	// The time of a file that is being written is not the image's.
	f, err := os.OpenFile(m.path("b/images/web.raw"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(filepath.Join(m.b, "web.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("another disk"), 0); err != nil {
		t.Fatal(err)
	}
	now := []unix.Timeval{unix.NsecToTimeval(time.Now().UnixNano()), unix.NsecToTimeval(time.Now().UnixNano())}
	if err := unix.Futimes(int(f.Fd()), now); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "close of another disk", f.Close(), syscall.EEXIST)
	if after, err := os.Stat(filepath.Join(m.b, "web.raw")); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the image has another time: %v, %v", after, err)
	}
}

// TestUnchanged: who opens an image for writing, and writes nothing, leaves
// nothing behind while he lives on.
func TestUnchanged(t *testing.T) {
	m, content := withWeb(t)
	run(t, 0, "cp", m.path("a/images/web.raw"), m.path("b/images/web.raw"))
	f, err := os.OpenFile(m.path("b/images/web.raw"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, len(content))
	if _, err := f.ReadAt(p, 0); err != nil || !bytes.Equal(p, content) {
		t.Errorf("the file does not begin as the image (%v)", err)
	}
	g := m.staged("web.raw")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an unchanged file is kept", func() bool { return m.staged("web.raw") == nil })
	wantClosed(t, g)
	m.wantImage(t, "web", content)
}

// eventually waits a moment for what the kernel tells after close(2) has
// returned.
func eventually(t *testing.T, what string, over func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Second); !over(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// TestSweep: what has ended is forgotten after a while, though its writer lives
// on.
func TestSweep(t *testing.T) {
	m, content := withWeb(t)
	write := func(name string, p []byte) error { return os.WriteFile(m.path("b/images/"+name), p, 0o600) }
	for name, c := range map[string]struct {
		key, file string
		err       bool
	}{"published": {"one.raw", "one.raw", false}, "failed": {"two.qcow2", "two.qcow2", true}} {
		if err := write(c.file, content); c.err != (err != nil) {
			t.Fatalf("%s: %v", name, err)
		}
		g := m.staged(c.key)
		if g == nil {
			t.Fatalf("%s: the file is forgotten at once", name)
		}
		eventually(t, "the file stays open", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.closed = g.closed.Add(-2 * supersedeTime)
			return g.opens == 0
		})
		if err := write("next.raw", content); err != nil {
			t.Fatal(err)
		}
		if m.staged(c.key) != nil {
			t.Errorf("%s: the file is kept", name)
		}
	}
}

// TestPublishedBy: what qemu has made it may write anew for a while, and nobody
// else.
func TestPublishedBy(t *testing.T) {
	me := process{1, "1"}
	for name, c := range map[string]struct {
		state state
		ago   time.Duration
		by    process
		want  bool
	}{
		"at once":    {published, 0, me, true},
		"too late":   {published, supersedeTime, me, false},
		"by another": {published, 0, process{2, "1"}, false},
		"failed":     {failed, 0, me, false},
	} {
		g := &staged{owner: me, qemu: true, state: c.state, closed: time.Now().Add(-c.ago)}
		f := &folder{files: map[string]*staged{writerKey("x.raw", me): g}}
		if got := f.publishedBy("x.raw", c.by); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A gated provider does not read on while its gate is shut.
type gated struct {
	*local.Provider
	gate chan struct{}
}

func (p gated) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	s, err := p.Provider.Open(ctx, e, n)
	s.Image = gatedImage{s.Image, p.gate}
	return s, err
}

type gatedImage struct {
	disk.Image
	gate chan struct{}
}

func (g gatedImage) ReadAt(p []byte, off int64) (int, error) {
	<-g.gate
	return g.Image.ReadAt(p, off)
}

// TestDropOfBusySpool: the folder is free while a file is dropped whose content
// comes from a slow provider and is being read.
func TestDropOfBusySpool(t *testing.T) {
	raw, _ := formats.ByName("raw")
	for name, drop := range map[string]func(f *folder, g *staged) error{
		"rename": func(f *folder, g *staged) error {
			next := newStaged(f, ".y", "b/images/.y", process{})
			if err := f.add(next); err != nil {
				return err
			}
			return f.rename(".y", g.key, g.path, false)
		},
		"sweep": func(f *folder, g *staged) error {
			g.format, g.made = &raw, time.Now().Add(-2*claimTime)
			return f.add(newStaged(f, ".y", "b/images/.y", process{}))
		},
		"yield": func(f *folder, g *staged) error {
			g.format, g.made, g.opened = &raw, time.Now().Add(-2*claimTime), true
			return f.add(newStaged(f, g.key, g.path, process{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			gate := make(chan struct{})
			m := mountSites(t, func(m *testMount, _ *Options) {
				writeImage(t, filepath.Join(m.a, "web.raw"), pattern(1, 1<<20))
			}, func(o *pipeline.Options) {
				o.Sites[0].Provider = gated{o.Sites[0].Provider.(*local.Provider), gate}
			})
			f := m.tree.folder("b", views()[0])
			g := newStaged(f, ".x", "b/images/.x", process{})
			if err := f.add(g); err != nil {
				t.Fatal(err)
			}
			entries, err := m.tree.p.List(context.Background(), "a", providers.Images)
			if err != nil {
				t.Fatal(err)
			}
			v, err := m.tree.p.View(context.Background(), pipeline.Ref{Site: "a", Entry: entries.Entries[0], Format: "raw"})
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			if err := g.spool.Bind(v, 0, 0, v.Size()); err != nil {
				t.Fatal(err)
			}
			read := make(chan struct{})
			go func() { defer close(read); g.spool.ReadAt(make([]byte, 1), 0) }()
			time.Sleep(50 * time.Millisecond) // it waits at the gate by now
			dropped, free := make(chan error, 1), make(chan struct{})
			go func() { dropped <- drop(f, g) }()
			eventually(t, "the file is not dropped", func() bool {
				if !f.mu.TryLock() {
					return true // by who drops it
				}
				defer f.mu.Unlock()
				return f.files[".x"] != g
			})
			go func() { defer close(free); f.hidden("x") }()
			select {
			case <-free:
			case <-time.After(2 * time.Second):
				t.Error("the folder waits for the provider")
			}
			close(gate)
			<-read
			if err := <-dropped; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAllocateTooFar: what ends beyond all numbers is refused.
func TestAllocateTooFar(t *testing.T) {
	m, content := withWeb(t)
	m.unpublished(t, ".x", content)
	w := &writer{g: m.staged(".x"), writable: true}
	for _, c := range [][2]uint64{{1 << 62, 1 << 62}, {1 << 63, 1}, {1, 1 << 62}} {
		if errno := w.Allocate(context.Background(), c[0], c[1], 0); errno != syscall.EFBIG {
			t.Errorf("fallocate(%d, %d): %v", c[0], c[1], errno)
		}
	}
}
