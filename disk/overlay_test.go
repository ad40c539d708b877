package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"

	"github.com/google/go-cmp/cmp"
)

const page = 4096

// A model is an overlay done naively: all bytes, and for each whether it lies
// in a hole.
type model struct {
	p    []byte
	hole []bool
}

func newModel(t *testing.T, base disk.Image) *model {
	t.Helper()
	p, err := disktest.Read(base)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{p: p, hole: make([]bool, len(p))}
	for _, e := range disktest.Walk(t, base) {
		for i := e.Off; i < e.End(); i++ {
			m.hole[i] = e.Zero
		}
	}
	return m
}

func (m *model) write(p []byte, off int64) {
	copy(m.p[off:], p)
	m.data(off, off+int64(len(p)))
}

// data marks the pages that [from, to) touches.
func (m *model) data(from, to int64) {
	if from >= to {
		return
	}
	for i := from / page * page; i < min((to+page-1)/page*page, int64(len(m.p))); i++ {
		m.hole[i] = false
	}
}

func (m *model) discard(off, n int64) {
	end, size := off+n, int64(len(m.p))
	clear(m.p[off:end])
	first, last := (off+page-1)/page*page, end/page*page
	if end == size {
		last = end
	}
	if first >= last {
		m.zeroed(off, end)
		return
	}
	m.zeroed(off, first)
	m.zeroed(last, end)
	for i := first; i < last; i++ {
		m.hole[i] = true
	}
}

// zeroed marks the pages of zeros that were written, which are none where all
// was a hole already.
func (m *model) zeroed(from, to int64) {
	for i := from; i < to; i++ {
		if !m.hole[i] {
			m.data(from, to)
			return
		}
	}
}

func (m *model) extents() []disk.Extent {
	var all []disk.Extent
	for i, h := range m.hole {
		if n := len(all); n > 0 && all[n-1].Zero == h {
			all[n-1].Len++
		} else {
			all = append(all, disk.Extent{Off: int64(i), Len: 1, Zero: h})
		}
	}
	return all
}

func TestOverlayAgainstModel(t *testing.T) {
	const leaf = 4 << 20 // what one leaf of the page table spans
	sizes := []int64{0, 1, 511, page, page + 1, 3*page - 1, 300 << 10, leaf + 12345}
	for i, size := range sizes {
		for _, budget := range []int64{0, 8 * page} {
			t.Run(fmt.Sprint(size, "/", budget), func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(uint64(i), uint64(budget)))
				overlayAgainstModel(t, rnd, size, budget)
			})
		}
	}
}

func overlayAgainstModel(t *testing.T, rnd *rand.Rand, size, budget int64) {
	var runs []disk.Extent // odd runs of base data, about as many as holes
	for off := rnd.Int64N(3 * page); off < size; {
		n := min(1+rnd.Int64N(5*page), size-off)
		runs = append(runs, disk.Extent{Off: off, Len: n})
		off += n + 1 + rnd.Int64N(5*page)
	}
	base := disktest.Runs(size, runs...)
	m := newModel(t, base)
	o := disk.NewOverlay(base, disk.OverlayOptions{Budget: budget, Scratch: t.TempDir()})
	for step := range 48 {
		if size == 0 {
			break
		}
		off := rnd.Int64N(size)
		n := min(1+rnd.Int64N(1<<rnd.IntN(23)), size-off)
		if rnd.IntN(3) == 0 {
			off = off / page * page
			n = min((n+page-1)/page*page, size-off)
		}
		if rnd.IntN(2) == 0 {
			m.discard(off, n)
			if err := o.Discard(off, n); err != nil {
				t.Fatal(err)
			}
		} else {
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(step + 1)
			}
			m.write(p, off)
			if got, err := o.WriteAt(p, off); got != len(p) || err != nil {
				t.Fatalf("write of %d bytes at %d is %d, %v", n, off, got, err)
			}
		}
		if step%12 != 11 {
			continue
		}
		if diff := cmp.Diff(m.extents(), disktest.Walk(t, o)); diff != "" {
			t.Fatalf("step %d: extents (-want +got):\n%s", step, diff)
		}
		if got, err := disktest.Read(o); err != nil || !bytes.Equal(got, m.p) {
			t.Fatalf("step %d: content differs (%v)", step, err)
		}
	}
	var data int64
	for _, h := range m.hole {
		if !h {
			data++
		}
	}
	if got := o.Allocated(); got != data {
		t.Errorf("allocated is %d, want %d", got, data)
	}
	disktest.Suite(t, o, disk.Bytes(m.p))
	if p, err := disktest.Read(base); err != nil || size > 0 && len(p) == 0 {
		t.Errorf("the base is closed with its overlay: %v", err)
	}
}

func TestOverlayOfHugeBase(t *testing.T) {
	for _, size := range []int64{2 << 40, 1<<62 + 12345, 1<<63 - 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			o := disk.NewOverlay(disktest.Runs(size, disk.Extent{Off: 0, Len: size / 2}), disk.OverlayOptions{Budget: 1 << 20})
			defer o.Close()
			for _, off := range []int64{0, size/2 - 1, size - 2} {
				if _, err := o.WriteAt([]byte{1, 2}, off); err != nil {
					t.Fatal(err)
				}
			}
			if got := o.Stored(); got > 4*page {
				t.Errorf("three small writes store %d bytes", got)
			}
			start := time.Now()
			if err := o.Discard(1, size-2); err != nil { // all but a byte at each end
				t.Fatal(err)
			}
			want := []disk.Extent{{Off: 0, Len: page}, {Off: page, Len: (size-1)/page*page - page, Zero: true}, {Off: (size - 1) / page * page, Len: (size-1)%page + 1}}
			if diff := cmp.Diff(want, disktest.Walk(t, o)); diff != "" {
				t.Errorf("extents (-want +got):\n%s", diff)
			}
			if err := o.Discard(0, size); err != nil {
				t.Fatal(err)
			}
			if got := o.Stored(); got != 0 {
				t.Errorf("a discarded overlay stores %d bytes", got)
			}
			if diff := cmp.Diff([]disk.Extent{{Len: size, Zero: true}}, disktest.Walk(t, o)); diff != "" {
				t.Errorf("extents (-want +got):\n%s", diff)
			}
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("discards of everything take %v", d)
			}
		})
	}
}

func TestOverlayDiscardInHoleStoresNothing(t *testing.T) {
	o := disk.NewOverlay(disktest.Runs(1<<20), disk.OverlayOptions{Budget: 1 << 20})
	defer o.Close()
	for _, r := range [][2]int64{{1, 10}, {page - 1, 2}, {100, 500000}} {
		if err := o.Discard(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	if got := o.Stored(); got != 0 {
		t.Errorf("discards in a hole store %d bytes", got)
	}
}

func TestOverlayReusesSlots(t *testing.T) {
	folder := t.TempDir()
	o := disk.NewOverlay(disktest.Pattern(8<<20, nil), disk.OverlayOptions{Budget: 1 << 20, Scratch: folder})
	defer o.Close()
	for range 5 {
		if _, err := o.WriteAt(make([]byte, 4<<20), 1<<20); err != nil {
			t.Fatal(err)
		}
		if got := o.Stored(); got != 4<<20 {
			t.Fatalf("overlay stores %d bytes, want %d", got, 4<<20)
		}
		if err := o.Discard(1<<20, 4<<20); err != nil {
			t.Fatal(err)
		}
	}
	names, err := os.ReadDir(folder)
	if err != nil || len(names) > 0 {
		t.Errorf("the scratch file has a name: %v, %v", names, err)
	}
}

func TestOverlayErrors(t *testing.T) {
	broken := errors.New("broken")
	base := disktest.Faulty(disktest.Pattern(1<<20, nil), disktest.Faults{Range: disk.Extent{Off: 0, Len: page}, Err: broken})
	o := disk.NewOverlay(base, disk.OverlayOptions{Budget: 1 << 20})
	for _, r := range [][2]int64{{-1, 1}, {1<<20 - 1, 2}, {1 << 20, 1}, {1 << 40, 1}} {
		if n, err := o.WriteAt(make([]byte, r[1]), r[0]); n != 0 || disk.KindOf(err) != disk.Invalid {
			t.Errorf("write of %d bytes at %d is %d, %v", r[1], r[0], n, err)
		}
		if err := o.Discard(r[0], r[1]); disk.KindOf(err) != disk.Invalid {
			t.Errorf("discard of %d bytes at %d is %v", r[1], r[0], err)
		}
	}
	if err := o.Discard(0, -1); err == nil {
		t.Error("discard of -1 bytes succeeds")
	}
	// A part of a page cannot be written where the rest cannot be read; a whole one can.
	if _, err := o.WriteAt([]byte{1}, 5); !errors.Is(err, broken) {
		t.Errorf("write into an unreadable page is %v", err)
	}
	if o.Stored() != 0 {
		t.Error("a failed write stores a page")
	}
	if _, err := o.WriteAt(make([]byte, page), 0); err != nil {
		t.Errorf("write over an unreadable page is %v", err)
	}
	missing := disk.NewOverlay(base, disk.OverlayOptions{Scratch: t.TempDir() + "/missing"})
	if _, err := missing.WriteAt(make([]byte, page), 0); err == nil {
		t.Error("write without room for a scratch file succeeds")
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := o.WriteAt([]byte{1}, 0); !errors.Is(err, disk.ErrClosed) {
		t.Errorf("write after close is %v", err)
	}
	if err := o.Discard(0, 1<<20); !errors.Is(err, disk.ErrClosed) {
		t.Errorf("discard after close is %v", err)
	}
}

// Writers of neighbouring bytes share pages, beside readers and discards.
func TestOverlayConcurrent(t *testing.T) {
	const writers, size = 8, 1 << 20
	o := disk.NewOverlay(disktest.Pattern(2*size, nil), disk.OverlayOptions{Budget: size / 2, Scratch: t.TempDir()})
	defer o.Close()
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(1 + i%writers)
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { // each writes every eighth byte of the first half
			for i := w; i < size; i += writers * 61 {
				for j := i; j < min(i+writers*61, size); j += writers {
					if _, err := o.WriteAt(want[j:j+1], int64(j)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
		wg.Go(func() { // and the second half comes and goes
			rnd := rand.New(rand.NewPCG(9, uint64(w)))
			p := make([]byte, 64<<10)
			for range 100 {
				off := size + rnd.Int64N(size-int64(len(p)))
				_, err := o.WriteAt(p, off)
				err = errors.Join(err, o.Discard(off, rnd.Int64N(int64(len(p)))), disk.ReadFull(o, p, off))
				if _, e := o.Extent(0, 2*size); errors.Join(err, e) != nil {
					t.Error(errors.Join(err, e))
					return
				}
			}
		})
	}
	wg.Wait()
	got := make([]byte, size)
	if err := disk.ReadFull(o, got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("neighbouring writes lost bytes (%v)", err)
	}
}

func TestOverlaySlowBaseStopsNobodyElse(t *testing.T) {
	base := disktest.Faulty(disktest.Pattern(1<<20, nil), disktest.Faults{Hang: true})
	o := disk.NewOverlay(base, disk.OverlayOptions{Budget: 1 << 20})
	hung := make(chan error)
	go func() { _, err := o.ReadAt(make([]byte, 1), 0); hung <- err }()
	go func() { _, err := o.WriteAt([]byte{1}, 10*page+1); hung <- err }()
	for base.Reads() < 2 {
		time.Sleep(time.Millisecond)
	}
	p := bytes.Repeat([]byte{7}, page)
	if _, err := o.WriteAt(p, page); err != nil {
		t.Fatal(err)
	}
	if err := disk.ReadFull(o, p, page); err != nil {
		t.Fatal(err)
	}
	base.Close()
	for range 2 {
		if err := <-hung; !errors.Is(err, disk.ErrClosed) {
			t.Errorf("what hung gives %v", err)
		}
	}
	o.Close()
}

func BenchmarkOverlay(b *testing.B) {
	const size = 256 << 20
	for _, budget := range []int64{size, 0} {
		o := disk.NewOverlay(disktest.Runs(size), disk.OverlayOptions{Budget: budget, Scratch: b.TempDir()})
		p := bytes.Repeat([]byte{1}, 128<<10)
		off := int64(0)
		b.Run(fmt.Sprintf("write/memory=%v", budget > 0), func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				if _, err := o.WriteAt(p, off); err != nil {
					b.Fatal(err)
				}
				off = (off + int64(len(p))) % size
			}
		})
		b.Run(fmt.Sprintf("read/memory=%v", budget > 0), func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				if err := disk.ReadFull(o, p, off); err != nil {
					b.Fatal(err)
				}
				off = (off + int64(len(p))) % size
			}
		})
		o.Close()
	}
}
