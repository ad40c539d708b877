package pipeline

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// A bundled provider gives its images as a whole only, as clouds give bundles.
type bundled struct {
	remote
	fills atomic.Int64
	fault atomic.Int64 // where a fill fails; 0 is nowhere
	wait  chan struct{}
}

func (p *bundled) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	src, err := p.remote.Open(ctx, e, n)
	if err == nil {
		src.InOrder, src.Image = true, bundledImage{src.Image, p}
	}
	return src, err
}

type bundledImage struct {
	disk.Image
	p *bundled
}

func (bundledImage) ReadAt([]byte, int64) (int, error) {
	return 0, disk.Errorf(disk.Unsupported, "no part of a bundle can be had")
}

// Extent knows of no holes.
func (i bundledImage) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, i.Size())
	return disk.Extent{Off: off, Len: n}, err
}

// Fill fetches a tenth of the size, as if it was compressed.
func (i bundledImage) Fill(ctx context.Context, to providers.Spool, progress func(done int64)) error {
	if err := to.Begin(i.Size(), i.Size()/10); err != nil {
		return err
	}
	i.p.fills.Add(1)
	if i.p.wait != nil {
		select {
		case <-i.p.wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for e, err := range disk.Extents(i.Image) {
		if err != nil {
			return err
		}
		if at := i.p.fault.Load(); at > 0 && e.Off+e.Len > at {
			return disk.Errorf(disk.Malformed, "part 3: its SHA-1 is another one")
		}
		p := make([]byte, e.Len)
		if err := disk.ReadFull(i.Image, p, e.Off); err != nil {
			return err
		}
		if !e.Zero {
			if _, err := to.WriteAt(p, e.Off); err != nil {
				return err
			}
		}
		progress((e.Off + e.Len) / 10)
	}
	return nil
}

func newBundled(t *testing.T, change ...func(*Options)) (*bench, *bundled) {
	t.Helper()
	p := &bundled{}
	b := newBench(t, slices.Concat([]func(*Options){far, p.serve}, change)...)
	return b, p
}

func (p *bundled) serve(o *Options) {
	p.remote = o.Sites[0].Provider.(remote)
	o.Sites[0].Provider = p
}

func runs() disk.Image {
	return disktest.Runs(24<<20, disk.Extent{Len: 1 << 20}, disk.Extent{Off: 9 << 20, Len: 3 << 20})
}

// TestFilled: an image that comes as a whole only has its sizes before it is fetched, is
// fetched once for all who read it, later processes too, and arrives with its holes.
func TestFilled(t *testing.T) {
	b, p := newBundled(t)
	b.put("a/web.raw", runs())
	full, sizes := newBench(t), map[string]int64{}
	full.put("a/web.raw", disktest.Pattern(24<<20, nil))
	for _, format := range []string{"raw", "qcow2", "vmdk", "ova"} {
		st, err := b.Stat(t.Context(), Ref{Site: "a", Entry: b.entry("a", "web"), Format: format})
		if err != nil {
			t.Fatal(err)
		}
		want, err := full.Stat(t.Context(), Ref{Site: "a", Entry: full.entry("a", "web"), Format: format})
		if err != nil || st != want {
			t.Errorf("%s is %+v, and one without holes %+v: %v", format, st, want, err)
		}
		sizes[format] = st.Size
	}
	if n := p.fills.Load(); n != 0 {
		t.Errorf("to know its sizes it was fetched %d times", n)
	}
	before := b.sum("a", "web", "qcow2")
	v := b.view("a", "web", "raw")
	disktest.Compare(t, v, runs())
	if e, err := v.Extent(2<<20, 22<<20); err != nil || !e.Zero || e.Len < 6<<20 {
		t.Errorf("when it was fetched it has %+v where there is a hole: %v", e, err)
	}
	for format, size := range sizes {
		if v := b.view("a", "web", format); v.Size() != size {
			t.Errorf("%s has %d bytes, and had %d", format, v.Size(), size)
		}
	}
	if _, err := b.copy(CopySpec{From: v, Site: "b", Name: "web", Store: "qcow2"}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(b.dir, "b/web.qcow2")); err != nil || info.Size() > 6<<20 {
		t.Errorf("4 MiB of data have arrived as %v: %v", info.Size(), err)
	}
	disktest.Compare(t, b.view("b", "web", "raw"), runs())
	if got := b.traffic("a").Fetched; got < 24<<20/10-10 || got > 24<<20/10 {
		t.Errorf("fetched %d bytes", got)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open(far, p.serve)
	if after := b.sum("a", "web", "qcow2"); after != before {
		t.Error("later its bytes are others")
	}
	if n := p.fills.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	if left := b.files("state/spool"); len(left) > 0 {
		t.Errorf("left in the spool folder: %q", left)
	}
	if n := allocated(filepath.Join(b.dir, "state/whole", b.files("state/whole")[0])); n > 5<<20 {
		t.Errorf("4 MiB of data take %d bytes", n)
	}
}

// TestFilledCleaned: where cleaning has written into a hole, there is none.
func TestFilledCleaned(t *testing.T) {
	b, _ := newBundled(t, cleans(t))
	b.put("a/web.raw", guestDisk(t, nil))
	r := b.Cleaned(Ref{Site: "a", Entry: b.entry("a", "web"), Format: "raw"})
	v, err := b.View(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	all := make([]byte, v.Size())
	if err := disk.ReadFull(v, all, 0); err != nil {
		t.Fatal(err)
	}
	for e, err := range disk.Extents(v) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Zero && len(bytes.TrimLeft(all[e.Off:e.Off+e.Len], "\x00")) > 0 {
			t.Fatalf("%+v is told, and there is data", e)
		}
	}
	first, err := b.copy(CopySpec{From: v, Site: "b", Name: "one", Store: "qcow2"})
	if err != nil {
		t.Fatal(err)
	}
	if second, err := b.copy(CopySpec{From: v, Site: "b", Name: "two", Store: "raw"}); err != nil || second.GuestDigest != first.GuestDigest {
		t.Errorf("the second copy: %v", err)
	}
}

// TestFilledGoes: what was fetched goes when its image does, but for who reads it.
func TestFilledGoes(t *testing.T) {
	b, _ := newBundled(t)
	b.put("a/web.raw", runs())
	b.put("a/other.raw", runs())
	b.sum("a", "web", "raw")
	b.sum("a", "other", "raw")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	p := &bundled{}
	b.open(far, p.serve)
	if n := len(b.files("state/whole")); n != 2 {
		t.Fatalf("%d are kept", n)
	}
	v := b.view("a", "other", "raw")
	if err := disk.ReadFull(v, make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "other"} {
		if err := os.Remove(filepath.Join(b.dir, "a", name+".raw")); err != nil {
			t.Fatal(err)
		}
	}
	b.Forget("a")
	if _, err := b.List(t.Context(), "a", providers.Images); err != nil {
		t.Fatal(err)
	}
	if n := len(b.files("state/whole")); n != 1 {
		t.Errorf("%d are kept, and one is open", n)
	}
	if err := disk.ReadFull(v, make([]byte, 1<<20), 9<<20); err != nil {
		t.Errorf("who has it open: %v", err)
	}
	if p.fills.Load() != 0 {
		t.Error("it was fetched again")
	}
}

// TestFilledFails: a bundle that is damaged gives its own error and leaves nothing, and
// is tried again.
func TestFilledFails(t *testing.T) {
	b, p := newBundled(t)
	b.put("a/web.raw", runs())
	p.fault.Store(10 << 20)
	v := b.view("a", "web", "raw")
	wantKind(t, disk.ReadFull(v, make([]byte, 1), 0), disk.Malformed)
	_, err := b.copy(CopySpec{From: v, Site: "b", Name: "web"})
	wantKind(t, err, disk.Malformed)
	if left := b.all("b"); len(left) > 0 {
		t.Errorf("left at the destination: %q", left)
	}
	for end := time.Now().Add(10 * time.Second); len(b.files("state/spool"))+len(b.files("state/whole")) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left: %q %q", b.files("state/spool"), b.files("state/whole"))
		}
	}
	p.fault.Store(0)
	disktest.Compare(t, v, runs())
}

// TestFilledRoom: one that there is no room for is refused before anything is fetched,
// what nobody reads gives way, and a budget that does not do is kept.
func TestFilledRoom(t *testing.T) {
	b, p := newBundled(t, func(o *Options) { o.SpoolLimit = 30 << 20 })
	b.put("a/large.raw", disktest.Pattern(31<<20, nil))
	b.put("a/one.raw", disktest.Pattern(20<<20, nil))
	b.put("a/two.raw", disktest.Pattern(20<<20, nil))
	wantKind(t, disk.ReadFull(b.view("a", "large", "raw"), make([]byte, 1), 0), disk.NoSpace)
	if n := p.fills.Load(); n != 0 {
		t.Errorf("it was fetched %d times", n)
	}
	b.sum("a", "one", "raw")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open(far, p.serve, func(o *Options) { o.SpoolLimit = 30 << 20 })
	b.sum("a", "two", "raw") // for which the first goes
	if n := len(b.files("state/whole")); n != 1 {
		t.Errorf("%d are kept", n)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open(far, p.serve, limited(Limits{Budget: daily(3 << 20)}))
	fills := p.fills.Load()
	b.sum("a", "one", "raw")
	v := b.view("a", "large", "raw")
	wantKind(t, disk.ReadFull(v, make([]byte, 1), 0), disk.Quota)
	if n := p.fills.Load() - fills; n != 1 {
		t.Errorf("fetched %d images, and the budget was for one", n)
	}
}

// TestFilledOnce: all who read an image meanwhile wait for one fetch, which ends when
// nobody does any longer.
func TestFilledOnce(t *testing.T) {
	b, p := newBundled(t)
	b.put("a/web.raw", runs())
	p.wait = make(chan struct{})
	done := make(chan error, 8)
	for _, format := range []string{"raw", "qcow2", "vmdk", "ova", "raw", "qcow2", "vmdk", "ova"} {
		v := b.view("a", "web", format)
		go func() { done <- disk.ReadFull(v, make([]byte, 1<<20), v.Size()/2) }()
	}
	for p.fills.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(p.wait)
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := p.fills.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
}
