package disk_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sync/errgroup"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// noting notes which reads come.
type noting struct {
	disk.Image
	mu    sync.Mutex
	reads []span
	err   error // of the next one
	gate  chan struct{}
}

// A span is a read of n bytes.
type span struct {
	off int64
	n   int
}

func (i *noting) ReadAt(p []byte, off int64) (int, error) {
	i.mu.Lock()
	i.reads = append(i.reads, span{off, len(p)})
	err := i.err
	i.err = nil
	i.mu.Unlock()
	if i.gate != nil {
		<-i.gate
	}
	if err != nil {
		return 0, err
	}
	return i.Image.ReadAt(p, off)
}

// came are the reads since the last call.
func (i *noting) came() []span {
	i.mu.Lock()
	defer i.mu.Unlock()
	defer func() { i.reads = nil }()
	return i.reads
}

// streaming is an image that streams, below a cache as the pipeline has it.
func streaming(t *testing.T, size int64) (disk.Image, *noting) {
	c := disk.NewCache(disk.CacheOptions{Budget: 16 << 20, BlockSize: 256 * kib, ReadAhead: 2 << 20})
	t.Cleanup(func() { c.Close() })
	src := &noting{Image: disktest.Pattern(size, nil)}
	return c.Stream("x", src), src
}

func TestStreamKeepsTheContract(t *testing.T) {
	c := disk.NewCache(disk.CacheOptions{Budget: 1 << 20, BlockSize: 64 * kib})
	defer c.Close()
	disktest.Suite(t, c.Stream("odd", oddRuns(9<<20+5)), oddRuns(9<<20+5))
}

// TestStreamPassesBy: long reads in order are those of the image, each byte once, and
// leave the cache to others.
func TestStreamPassesBy(t *testing.T) {
	const size = 8 << 20
	for _, n := range []int{128 * kib, 1 << 20, 700 * kib} {
		first := 0 // of those that are passed on
		if n <= 256*kib {
			first = 3 // nobody knows yet that it is the first of many
		}
		img, src := streaming(t, size)
		scan(t, img, n)
		var sum int64
		reads := src.came()
		for i, r := range reads {
			sum += int64(r.n)
			if i >= first && i < len(reads)-1 && r.n != n {
				t.Errorf("in pieces of %d: read %d is %+v", n, i, r)
			}
		}
		if sum != size {
			t.Errorf("in pieces of %d: %d bytes of %d were fetched", n, sum, int64(size))
		}
	}
}

// TestStreamOutOfOrder: a kernel that reads ahead has several reads under way, and the
// second may come first.
func TestStreamOutOfOrder(t *testing.T) {
	img, src := streaming(t, 8<<20)
	p := make([]byte, 1<<20)
	var want []span
	for _, off := range []int64{0, 2 << 20, 1 << 20, 3 << 20, 5 << 20, 4 << 20} {
		if err := disk.ReadFull(img, p, off); err != nil {
			t.Fatal(err)
		}
		want = append(want, span{off, len(p)})
	}
	if got := src.came(); !slices.Equal(got, want) {
		t.Errorf("the reads were %v, want %v", got, want)
	}
}

// TestStreamBeginsAtOnce: a long read is one of the image, and what it has whole blocks of
// is kept.
func TestStreamBeginsAtOnce(t *testing.T) {
	img, src := streaming(t, 32<<20)
	p := make([]byte, 1<<20)
	for _, r := range []struct {
		span
		want []span
	}{
		{span{100, 1 << 20}, []span{{100, 1 << 20}}},
		{span{256 * kib, 4 * kib}, nil},
		{span{1024*kib - 10, 10}, nil},
		{span{1024 * kib, 10}, []span{{1024 * kib, 256 * kib}}},
		{span{0, 10}, []span{{0, 256 * kib}}},
		{span{32<<20 - 300*kib, 300 * kib}, []span{{32<<20 - 300*kib, 300 * kib}}},
		{span{32<<20 - 1, 1}, nil},
	} {
		if err := disk.ReadFull(img, p[:r.n], r.off); err != nil {
			t.Fatal(err)
		}
		if got := src.came(); !slices.Equal(got, r.want) {
			t.Errorf("%+v: the reads were %v, want %v", r.span, got, r.want)
		}
	}
}

// TestStreamWaitsForABlock: who asks for more of a block that is on its way begins behind it.
func TestStreamWaitsForABlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := disk.NewCache(disk.CacheOptions{Budget: 16 << 20, BlockSize: 256 * kib})
		src := &noting{Image: disktest.Pattern(8<<20, nil), gate: make(chan struct{})}
		img := c.Stream("x", src)
		var g errgroup.Group
		for _, r := range []span{{0, 10 * kib}, {128 * kib, 512 * kib}} {
			g.Go(func() error { return disk.ReadFull(img, make([]byte, r.n), r.off) })
			synctest.Wait()
		}
		close(src.gate)
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if got, want := src.came(), []span{{0, 256 * kib}, {256 * kib, 384 * kib}}; !slices.Equal(got, want) {
			t.Errorf("the reads were %v, want %v", got, want)
		}
		c.Close()
	})
}

// TestStreamIsCached: short reads, and long ones here and there, are those of any cache.
func TestStreamIsCached(t *testing.T) {
	img, src := streaming(t, 64<<20)
	p := make([]byte, 256*kib)
	for range 2 {
		for _, off := range []int64{40 << 20, 10 << 20, 30 << 20} {
			if err := disk.ReadFull(img, p, off); err != nil {
				t.Fatal(err)
			}
			if err := disk.ReadFull(img, p[:4*kib], off+4*kib); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := src.came(), []span{{40 << 20, len(p)}, {10 << 20, len(p)}, {30 << 20, len(p)}}; !slices.Equal(got, want) {
		t.Errorf("the reads were %v, want %v", got, want)
	}
}

// TestStreamForgetsWhatIsWrong: where the whole turns out to be damaged, nothing that
// was kept of it is given again.
func TestStreamForgetsWhatIsWrong(t *testing.T) {
	img, src := streaming(t, 8<<20)
	p := make([]byte, 1<<20)
	read := func(off int64) error { return disk.ReadFull(img, p, off) }
	if err := read(0); err != nil {
		t.Fatal(err)
	}
	src.err = disk.Errorf(disk.Malformed, "its digest is wrong")
	if err := read(1 << 20); disk.KindOf(err) != disk.Malformed {
		t.Fatalf("got %v", err)
	}
	src.came()
	if err := read(0); err != nil || len(src.came()) == 0 {
		t.Errorf("what was kept is given again: %v", err)
	}
}
