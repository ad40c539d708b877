package pipeline

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// An inOrder provider gives its images from their beginning only.
type inOrder struct {
	remote
	opened atomic.Int64
	fault  atomic.Int64 // where a read fails; 0 is nowhere
	hang   atomic.Int64 // where a read waits for the end; 0 is nowhere
}

func (p *inOrder) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	src, err := p.remote.Open(ctx, e, n)
	if err == nil {
		src.InOrder = true
		src.Image = &orderedImage{Image: src.Image, p: p, closed: make(chan struct{})}
	}
	return src, err
}

type orderedImage struct {
	disk.Image
	p      *inOrder
	next   int64
	once   sync.Once
	closed chan struct{}
}

func (i *orderedImage) Close() error {
	i.once.Do(func() { close(i.closed) })
	return i.Image.Close()
}

func (i *orderedImage) ReadAt(p []byte, off int64) (int, error) {
	if off == 0 {
		i.p.opened.Add(1)
	}
	if off != i.next {
		return 0, disk.Errorf(disk.Other, "read at %d, where %d comes next", off, i.next)
	}
	if at := i.p.hang.Load(); at > 0 && off >= at {
		<-i.closed
		return 0, disk.ErrClosed
	}
	if at := i.p.fault.Load(); at > 0 && off >= at {
		return 0, disk.Errorf(disk.Unreachable, "nobody answers")
	}
	n, err := i.Image.ReadAt(p, off)
	i.next += int64(n)
	return n, err
}

func newInOrder(t *testing.T, change ...func(*Options)) (*bench, *inOrder) {
	t.Helper()
	p := &inOrder{}
	b := newBench(t, slices.Concat([]func(*Options){far, func(o *Options) {
		p.remote = o.Sites[0].Provider.(remote)
		o.Sites[0].Provider = p
	}}, change)...)
	return b, p
}

// TestWhole: an image that comes in order only is fetched once, and read in any order.
func TestWhole(t *testing.T) {
	b, p := newInOrder(t)
	guest := disktest.Runs(24<<20, disk.Extent{Len: 1 << 20}, disk.Extent{Off: 9 << 20, Len: 3 << 20})
	b.put("a/web.qcow2", asQcow2(t, guest))
	for _, format := range []string{"raw", "vmdk", "qcow2"} {
		v := b.view("a", "web", format)
		if format == "raw" {
			disktest.Compare(t, v, guest)
		}
		if err := disk.ReadFull(v, make([]byte, 4096), v.Size()-4096); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.opened.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	if _, err := b.copy(CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web"}); err != nil {
		t.Fatal(err)
	}
	if n := p.opened.Load(); n != 1 {
		t.Errorf("with a copy it was fetched %d times", n)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if left := b.files("state/spool"); len(left) > 0 {
		t.Errorf("left in the spool folder: %q", left)
	}
}

// TestWholeFails: what cannot be fetched leaves nothing, and is tried again.
func TestWholeFails(t *testing.T) {
	b, p := newInOrder(t)
	b.put("a/web.raw", disktest.Pattern(8<<20, nil))
	p.fault.Store(5 << 20)
	_, err := b.View(t.Context(), Ref{Site: "a", Entry: b.entry("a", "web"), Format: "vmdk"})
	wantKind(t, err, disk.Unreachable)
	left := b.files("state/spool")
	for end := time.Now().Add(10 * time.Second); len(left) > 0 && time.Now().Before(end); left = b.files("state/spool") {
		time.Sleep(10 * time.Millisecond) // a spool goes behind whoever reads or writes it
	}
	if len(left) > 0 {
		t.Errorf("left in the spool folder: %q", left)
	}
	p.fault.Store(0)
	disktest.Compare(t, b.view("a", "web", "raw"), disktest.Pattern(8<<20, nil))
}

// TestWholeRoom: one that there is no room for is refused before it is read; what
// nobody reads any longer makes room.
func TestWholeRoom(t *testing.T) {
	b, p := newInOrder(t, func(o *Options) { o.SpoolLimit = 12 << 20 })
	b.put("a/large.raw", disktest.Pattern(13<<20, nil))
	b.put("a/one.raw", disktest.Pattern(8<<20, nil))
	b.put("a/two.raw", disktest.Pattern(7<<20, nil))
	_, err := b.View(t.Context(), Ref{Site: "a", Entry: b.entry("a", "large"), Format: "raw"})
	wantKind(t, err, disk.NoSpace)
	if n := p.opened.Load(); n != 0 {
		t.Errorf("it was read %d times", n)
	}
	for _, name := range []string{"one", "two"} {
		if _, err := b.Stat(t.Context(), Ref{Site: "a", Entry: b.entry("a", name), Format: "vmdk"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := p.opened.Load(); n != 2 {
		t.Errorf("they were read %d times", n)
	}
}

// TestWholeMakesRoomForWriters: what is kept for nobody gives way to what is written; what
// somebody reads does not.
func TestWholeMakesRoomForWriters(t *testing.T) {
	b, p := newInOrder(t, func(o *Options) { o.SpoolLimit = 12 << 20 })
	b.put("a/one.raw", disktest.Pattern(8<<20, nil))
	src, err := p.Open(t.Context(), b.entry("a", "one"), 0)
	if err != nil {
		t.Fatal(err)
	}
	v, err := b.fetchWhole(t.Context(), "k", src.Image, false)
	if err != nil {
		t.Fatal(err)
	}
	write := func() error {
		s, err := b.NewSpool(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		data := make([]byte, 1<<20)
		for off := range int64(8) {
			for i := range data {
				data[i] = byte(i) ^ byte(off) | 1
			}
			if _, err := s.WriteAt(data, off<<20); err != nil {
				return err
			}
		}
		return nil
	}
	wantKind(t, write(), disk.NoSpace)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := write(); err != nil {
		t.Errorf("when nobody reads it: %v", err)
	}
	if n := p.opened.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
}

// TestWholeThatNobodyWaitsFor: a fetch ends with the last who waits for it, leaves
// nothing, and is begun anew for the next.
func TestWholeThatNobodyWaitsFor(t *testing.T) {
	b, p := newInOrder(t)
	b.put("a/web.raw", disktest.Pattern(8<<20, nil))
	p.hang.Store(5 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	e := b.entry("a", "web")
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			src, err := p.Open(t.Context(), e, 0)
			if err == nil {
				_, err = b.fetchWhole(ctx, "k", src.Image, false)
			}
			ended <- err
		}()
	}
	waits := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		if w := b.wholes["k"]; w != nil {
			return w.users
		}
		return 0
	}
	for waits() < 2 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	for range 2 {
		wantKind(t, <-ended, disk.Cancelled)
	}
	for end := time.Now().Add(10 * time.Second); len(b.files("state/spool")) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left in the spool folder: %q", b.files("state/spool"))
		}
	}
	p.hang.Store(0)
	disktest.Compare(t, b.view("a", "web", "raw"), disktest.Pattern(8<<20, nil))
}
