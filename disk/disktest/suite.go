package disktest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"chromogenic/disk"
)

const (
	maxCompared = 64 << 20 // bytes of data that Compare reads in order; of larger images it takes samples of the rest
	maxExtents  = 50000    // runs that the suite walks
	samples     = 120      // random reads of each kind
	maxRead     = 300 << 10
)

// Suite checks that img keeps the contract of disk.Image and holds what want
// holds. It closes img. Want must keep the contract itself, be fast and, unless
// the image is small, know its holes.
func Suite(t *testing.T, img, want disk.Image) {
	t.Helper()
	if img.Size() != want.Size() {
		t.Fatalf("size is %d, want %d", img.Size(), want.Size())
	}
	t.Run("arguments", func(t *testing.T) { arguments(t, img) })
	t.Run("extents", func(t *testing.T) { extents(t, img, want) })
	t.Run("content", func(t *testing.T) { Compare(t, img, want) })
	t.Run("splits", func(t *testing.T) { splits(t, img, want) })
	t.Run("parallel", func(t *testing.T) { parallel(t, img, want) })
	t.Run("close", func(t *testing.T) { closing(t, img) })
}

// arguments checks what lies at the ends and outside of them.
func arguments(t *testing.T, img disk.Image) {
	size := img.Size()
	p := make([]byte, 16)
	for _, tc := range []struct {
		name string
		off  int64
		n    int
		want int
		eof  bool // io.EOF is asked for; without it, nil is
	}{
		{"at the end", size, 16, 0, true},
		{"beyond the end", size + 1000, 16, 0, true},
		{"over the end", size - 5, 16, 5, true},
		{"nothing", 0, 0, 0, false},
		{"nothing before the end", size - 1, 0, 0, false},
	} {
		if tc.off < 0 || size == 0 && !tc.eof {
			continue
		}
		n, err := img.ReadAt(p[:tc.n], tc.off)
		if n != tc.want || tc.eof && err != io.EOF || !tc.eof && err != nil {
			t.Errorf("ReadAt %s is %d, %v; want %d and EOF %v", tc.name, n, err, tc.want, tc.eof)
		}
	}
	if size >= 5 {
		if n, err := img.ReadAt(p[:5], size-5); n != 5 || err != nil && err != io.EOF {
			t.Errorf("ReadAt up to the end is %d, %v", n, err)
		}
	}
	if n, err := img.ReadAt(p, -1); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("ReadAt at -1 is %d, %v; want an error", n, err)
	}
	for _, off := range []int64{size, size + 1, size + 1<<40} {
		if _, err := img.Extent(off, 1); err != io.EOF {
			t.Errorf("Extent at size%+d is %v, want io.EOF", off-size, err)
		}
	}
	for _, arg := range [][2]int64{{-1, 10}, {0, 0}, {0, -1}} {
		if _, err := img.Extent(arg[0], arg[1]); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("Extent(%d, %d) is %v, want an error", arg[0], arg[1], err)
		}
	}
	if n, err := disk.Allocated(img); err != nil || n < 0 {
		t.Errorf("Allocated is %d, %v", n, err)
	}
}

// Walk returns the extents of img, checked to be gapless, ascending and
// maximal. Of more than 50,000 it returns the first.
func Walk(t testing.TB, img disk.Image) []disk.Extent {
	t.Helper()
	var all []disk.Extent
	var end int64
	for e, err := range disk.Extents(img) {
		if err != nil {
			t.Fatalf("extent at %d: %v", end, err)
		}
		if e.Off != end || e.Len < 1 || e.End() > img.Size() {
			t.Fatalf("extent %+v behind offset %d of %d", e, end, img.Size())
		}
		if n := len(all); n > 0 && all[n-1].Zero == e.Zero {
			t.Fatalf("extents %+v and %+v are one run", all[n-1], e)
		}
		end = e.End()
		if all = append(all, e); len(all) == maxExtents {
			return all
		}
	}
	if end != img.Size() {
		t.Fatalf("extents end at %d of %d", end, img.Size())
	}
	return all
}

// extents checks the runs of img: their form, that holes are zero in want, and
// that questions from the middle of a run agree with the walk.
func extents(t *testing.T, img, want disk.Image) {
	all := Walk(t, img)
	rnd := rand.New(rand.NewPCG(1, 2))
	budget := int64(maxCompared)
	for _, e := range all {
		if !e.Zero {
			continue
		}
		for off := e.Off; off < e.End(); {
			w, err := want.Extent(off, e.End()-off)
			if err != nil {
				t.Fatal(err)
			}
			if !w.Zero {
				n := min(w.Len, max(budget, 4096))
				budget -= n
				p := read(t, want, w.Off, n)
				if i := bytes.IndexFunc(p, func(r rune) bool { return r != 0 }); i >= 0 {
					t.Fatalf("extent %+v is a hole, but offset %d holds data", e, w.Off+int64(i))
				}
			}
			off = w.End()
		}
	}
	for range samples {
		if len(all) == 0 {
			break
		}
		e := all[rnd.IntN(len(all))]
		in := rnd.Int64N(e.Len)
		n := 1 + rnd.Int64N(2*e.Len)
		got, err := img.Extent(e.Off+in, n)
		if w := (disk.Extent{Off: e.Off + in, Len: min(n, e.Len-in), Zero: e.Zero}); err != nil || got != w {
			t.Fatalf("Extent(%d, %d) is %+v, %v; want %+v", e.Off+in, n, got, err, w)
		}
	}
}

// Compare checks that img holds the bytes of want: all data of want up to 64
// MiB, and samples at the edges of runs and at random elsewhere.
func Compare(t testing.TB, img, want disk.Image) {
	t.Helper()
	budget := int64(maxCompared)
	runs := 0
	for e, err := range disk.Extents(want) {
		if err != nil {
			t.Fatal(err)
		}
		if runs++; runs > maxExtents {
			break
		}
		if e.Zero || budget <= 0 {
			same(t, img, want, e.Off, min(e.Len, 1000))
			same(t, img, want, max(e.Off, e.End()-1000), min(e.Len, 1000))
		}
		for off := e.Off; off < e.End() && budget > 0 && (!e.Zero || img.Size() <= maxCompared); {
			n := min(e.End()-off, 1<<20)
			same(t, img, want, off, n)
			off += n
			budget -= n
		}
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for range samples {
		off, n := randomRange(rnd, img.Size())
		same(t, img, want, off, n)
	}
}

func randomRange(rnd *rand.Rand, size int64) (off, n int64) {
	if size == 0 {
		return 0, 0
	}
	off = rnd.Int64N(size)
	return off, min(1+rnd.Int64N(maxRead), size-off)
}

// same compares n bytes at off.
func same(t testing.TB, img, want disk.Image, off, n int64) {
	t.Helper()
	got, w := read(t, img, off, n), read(t, want, off, n)
	if bytes.Equal(got, w) {
		return
	}
	for i := range got {
		if got[i] != w[i] {
			j := min(len(got), i+16)
			t.Fatalf("offset %d (of a read of %d bytes at %d) holds % x, want % x", off+int64(i), n, off, got[i:j], w[i:j])
		}
	}
}

// read reads n bytes at off into room that is filled with junk and guarded.
func read(t testing.TB, img disk.Image, off, n int64) []byte {
	t.Helper()
	p := bytes.Repeat([]byte{0xa5}, int(n)+8)
	got, err := img.ReadAt(p[:n:n], off)
	if int64(got) != n || err != nil && !(err == io.EOF && off+n == img.Size()) {
		t.Fatalf("read of %d bytes at %d of %d is %d, %v", n, off, img.Size(), got, err)
	}
	return p[:n]
}

// splits checks that a range reads the same in pieces of any size and order.
func splits(t *testing.T, img, want disk.Image) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		off, n := randomRange(rnd, img.Size())
		whole := read(t, want, off, n)
		var cuts []int64
		for at := int64(0); at < n; {
			cuts = append(cuts, at)
			at += 1 + rnd.Int64N(max(1, n/7))
		}
		got := make([]byte, n)
		for _, i := range rnd.Perm(len(cuts)) {
			end := n
			if i+1 < len(cuts) {
				end = cuts[i+1]
			}
			copy(got[cuts[i]:end], read(t, img, off+cuts[i], end-cuts[i]))
		}
		if !bytes.Equal(got, whole) {
			t.Fatalf("%d bytes at %d read in %d pieces differ from one read", n, off, len(cuts))
		}
	}
}

// parallel checks readers beside each other.
func parallel(t *testing.T, img, want disk.Image) {
	var wg sync.WaitGroup
	for i := range uint64(6) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(7, i))
			for range samples / 6 {
				off, n := randomRange(rnd, img.Size())
				got, w := make([]byte, n), make([]byte, n)
				if err := errors.Join(disk.ReadFull(img, got, off), disk.ReadFull(want, w, off)); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(got, w) {
					t.Errorf("parallel read of %d bytes at %d differs", n, off)
					return
				}
				if n > 0 {
					if _, err := img.Extent(off, n); err != nil {
						t.Errorf("parallel extent at %d: %v", off, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// closing checks that a closed image is closed.
func closing(t *testing.T, img disk.Image) {
	if err := img.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if n, err := img.ReadAt(make([]byte, 1), 0); n != 0 || !errors.Is(err, disk.ErrClosed) {
		t.Errorf("ReadAt after Close is %d, %v; want ErrClosed", n, err)
	}
	if err := img.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}
