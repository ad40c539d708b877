package pipeline

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

func newSpool(t *testing.T, b *bench) *Spool {
	s, err := b.NewSpool(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// write copies img into s in steps of n bytes, without its holes if sparse.
func write(t *testing.T, s *Spool, img disk.Image, n int64, sparse bool) {
	t.Helper()
	buf := make([]byte, n)
	for e, err := range disk.Extents(img) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Zero && sparse {
			continue
		}
		for off := e.Off; off < e.End(); off += n {
			p := buf[:min(n, e.End()-off)]
			if err := disk.ReadFull(img, p, off); err != nil {
				t.Fatal(err)
			}
			if _, err := s.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Truncate(img.Size()); err != nil {
		t.Fatal(err)
	}
}

func TestSpoolRecognisesItsSource(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.put("a/twin.raw", disktest.Runs(3<<20+512, disk.Extent{Len: 64 << 10})) // begins alike
	for _, format := range viewFormats {
		for _, sparse := range []bool{false, true} {
			v, other := b.view("a", "web", format), b.view("a", "twin", format)
			s := newSpool(t, b)
			write(t, s, v, 32<<10, sparse)
			v.Close()
			other.Close()
			got, ok := s.Source()
			if !ok {
				t.Fatalf("%s sparse %v: not recognised", format, sparse)
			}
			if got.Ref.Entry.Name != "web" || got.Ref.Format != format || s.Allocated() != 0 {
				t.Errorf("%s: recognised as %s.%s with %d bytes of scratch", format, got.Ref.Entry.Name, got.Ref.Format, s.Allocated())
			}
			disktest.Compare(t, s.Image(), got)
			got.Close()
		}
	}
}

func TestSpoolSettlesWhenBytesDiffer(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	v := b.view("a", "web", "raw")
	want, err := disktest.Read(holes())
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 4096, 1 << 20, int64(len(want)) - 1} {
		s := newSpool(t, b)
		write(t, s, v, 16<<10, false)
		changed := bytes.Clone(want)
		changed[at] ^= 0xff
		if _, err := s.WriteAt(changed[at:at+1], at); err != nil {
			t.Fatal(err)
		}
		if got, ok := s.Source(); ok {
			got.Close()
			t.Errorf("byte %d differs and the source is %v", at, got.Ref)
		}
		disktest.Compare(t, s.Image(), disk.Bytes(changed))
	}
}

func TestSpoolLeftOutBytesMustBeZero(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	v := b.view("a", "web", "raw")
	s := newSpool(t, b)
	if err := s.Bind(v, 0, 0, 64<<10); err != nil {
		t.Fatal(err)
	}
	if err := s.Truncate(v.Size()); err != nil {
		t.Fatal(err)
	}
	if got, ok := s.Source(); ok {
		got.Close()
		t.Fatal("a part is taken for the whole")
	}
	if err := s.Bind(v, 64<<10, 64<<10, v.Size()-64<<10); err != nil {
		t.Fatal(err)
	}
	got, ok := s.Source()
	if !ok {
		t.Fatal("the whole is not recognised")
	}
	got.Close()
}

// TestSpoolIsAFile holds a spool against a slice of bytes, with views open that
// some of the writes equal.
func TestSpoolIsAFile(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	src, err := disktest.Read(holes())
	if err != nil {
		t.Fatal(err)
	}
	v := b.view("a", "web", "raw")
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		s := newSpool(t, b)
		var model []byte
		grow := func(n int64) {
			if n > int64(len(model)) {
				model = append(model, make([]byte, n-int64(len(model)))...)
			}
		}
		for step := range 30 {
			off := rnd.Int64N(int64(len(src)))
			n := rnd.Int64N(min(200<<10, int64(len(src))-off)) + 1
			switch k := rnd.IntN(10); {
			case k < 5: // what the source has there
				grow(off + n)
				copy(model[off:], src[off:off+n])
				if _, err := s.WriteAt(src[off:off+n], off); err != nil {
					t.Fatal(err)
				}
			case k < 6:
				grow(off + n)
				copy(model[off:], src[off:off+n])
				if err := s.Bind(v, off, off, n); err != nil {
					t.Fatal(err)
				}
			case k < 7 && seed%2 == 0:
				p := bytes.Repeat([]byte{byte(step)}, int(n))
				grow(off + n)
				copy(model[off:], p)
				if _, err := s.WriteAt(p, off); err != nil {
					t.Fatal(err)
				}
			case k < 8:
				if err := s.Truncate(off); err != nil {
					t.Fatal(err)
				}
				grow(off)
				model = model[:off:off]
			default:
				if err := s.Discard(off, n); err != nil {
					t.Fatal(err)
				}
				if end := min(off+n, int64(len(model))); off < end {
					clear(model[off:end])
				}
			}
			if s.Size() != int64(len(model)) {
				t.Fatalf("seed %d step %d: size %d, want %d", seed, step, s.Size(), len(model))
			}
		}
		disktest.Compare(t, s.Image(), disk.Bytes(model))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.spooled(); n != 0 {
		t.Errorf("%d bytes are still counted as spooled", n)
	}
}

func TestSpoolLimit(t *testing.T) {
	b := newBench(t, func(o *Options) { o.SpoolLimit = 1 << 20 })
	s := newSpool(t, b)
	buf := bytes.Repeat([]byte{1}, 256<<10)
	for range 8 { // the same place: no more scratch than once
		if _, err := s.WriteAt(buf, 0); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	for i := int64(1); i < 8 && err == nil; i++ {
		_, err = s.WriteAt(buf, i*256<<10)
	}
	wantKind(t, err, disk.NoSpace)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := newSpool(t, b).WriteAt(buf, 0); err != nil {
		t.Errorf("a closed spool still counts: %v", err)
	}
}

func TestBlank(t *testing.T) {
	b := newBench(t)
	b.put("a/zero.raw", disktest.Runs(1<<20))
	b.put("a/web.raw", holes())
	for _, format := range viewFormats {
		for name, want := range map[string]bool{"zero": true, "web": false} {
			s := newSpool(t, b)
			write(t, s, b.view("a", name, format), 64<<10, false)
			if got := s.Blank(format); got != want {
				t.Errorf("%s.%s: blank %v", name, format, got)
			}
		}
	}
}

// TestSpoolRecognisesWhatWasClosedLongAgo: rsync has sent small images and closed
// them while it waits for the copy of a big one.
func TestSpoolRecognisesWhatWasClosedLongAgo(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put("a/big.raw", holes())
	b.put("a/small.raw", disktest.Pattern(64<<10, func(int64) bool { return true }))
	b.view("a", "small", "raw").Close()
	copied := make(chan error, 1)
	_, err := b.copy(CopySpec{From: b.view("a", "big", "raw"), Site: "b", Name: "big", Progress: func(p Progress) {
		if p.Stage != stageVerify {
			return
		}
		time.Sleep(lingering + time.Second)
		s := newSpool(t, b)
		write(t, s, disktest.Pattern(64<<10, func(int64) bool { return true }), 32<<10, false)
		if s.Scratch() != 0 {
			t.Errorf("%d bytes of scratch space", s.Scratch())
		}
		copied <- s.Close()
	}})
	if err == nil {
		err = <-copied
	}
	if err != nil {
		t.Fatal(err)
	}
	eventuallyClosed(t, b)
}

// eventuallyClosed waits until no source is kept open for copies to come.
func eventuallyClosed(t *testing.T, b *bench) {
	t.Helper()
	for end := time.Now().Add(3 * lingering); ; time.Sleep(100 * time.Millisecond) {
		b.mu.Lock()
		waiting := len(b.late)
		b.mu.Unlock()
		if waiting == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d sources are still open", waiting)
		}
	}
}
