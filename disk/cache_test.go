package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

const kib = 1 << 10

// small is a cache of few and small blocks, which turns them over all the time.
func small() *disk.Cache {
	return disk.NewCache(disk.CacheOptions{Budget: 256 * kib, BlockSize: 16 * kib, ReadAhead: 64 * kib})
}

// waitFor waits until a thing that goes on in the background is so.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// scan reads img in order, in pieces of n bytes.
func scan(t testing.TB, img disk.Image, n int) {
	t.Helper()
	p := make([]byte, n)
	for off := int64(0); off < img.Size(); off += int64(n) {
		if err := disk.ReadFull(img, p, off); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCacheKeepsTheContract(t *testing.T) {
	for name, img := range map[string]func() disk.Image{
		"empty":       func() disk.Image { return disktest.Pattern(0, nil) },
		"odd":         func() disk.Image { return oddRuns(3<<20 + 5) },
		"alternating": func() disk.Image { return disktest.Pattern(16<<20+7, func(b int64) bool { return b%2 == 0 }) },
	} {
		t.Run(name, func(t *testing.T) {
			c := small()
			defer c.Close()
			disktest.Suite(t, c.Image(name, img()), img())
		})
	}
}

func TestCacheFetchesOnce(t *testing.T) {
	const size = 2 << 20
	img := disktest.Faulty(disktest.Pattern(size, nil), disktest.Faults{Delay: time.Millisecond})
	c := disk.NewCache(disk.CacheOptions{Budget: 16 << 20, BlockSize: 64 * kib, ReadAhead: 256 * kib})
	defer c.Close()
	a, b := c.Image("x", img), c.Image("x", img)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { scan(t, []disk.Image{a, b}[i%2], (1+i)*7000) })
	}
	wg.Wait()
	if got := img.Bytes(); got != size {
		t.Errorf("fetched %d bytes of an image of %d", got, size)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	again := c.Image("x", disktest.Faulty(disktest.Pattern(size, nil), disktest.Faults{Err: errors.New("fetched again")}))
	scan(t, again, 100000)
}

func TestCacheFetchesNoHoles(t *testing.T) {
	img := disktest.Faulty(disktest.Runs(1<<40, disk.Extent{Off: 1 << 30, Len: 1000}), disktest.Faults{})
	c := disk.NewCache(disk.CacheOptions{})
	defer c.Close()
	m := c.Image("x", img)
	p := make([]byte, 8<<20)
	for off := int64(0); off < 64<<20; off += int64(len(p)) {
		if err := disk.ReadFull(m, p, off); err != nil {
			t.Fatal(err)
		}
	}
	if n := img.Reads(); n != 0 {
		t.Errorf("holes cost %d reads", n)
	}
	if err := disk.ReadFull(m, p, 1<<30-100); err != nil {
		t.Fatal(err)
	}
	if n := img.Bytes(); n != 1000 {
		t.Errorf("1000 bytes of data cost %d bytes", n)
	}
}

// A sequential reader that takes small pieces finds each block fetched once,
// even when the cache has been full of other blocks for long.
func TestCacheStreamsThroughAFullCache(t *testing.T) {
	c := disk.NewCache(disk.CacheOptions{Budget: 1 << 20, BlockSize: 16 * kib, ReadAhead: 64 * kib})
	defer c.Close()
	old := c.Image("old", disktest.Pattern(1<<20, nil))
	for range 20 {
		scan(t, old, 4*kib)
	}
	const size = 8 << 20
	img := disktest.Faulty(disktest.Pattern(size, nil), disktest.Faults{})
	scan(t, c.Image("new", img), 4*kib)
	if got := img.Bytes(); got != size {
		t.Errorf("a stream of %d bytes fetched %d", size, got)
	}
}

func TestCacheReadsAhead(t *testing.T) {
	img := disktest.Faulty(disktest.Pattern(4<<20, nil), disktest.Faults{})
	c := disk.NewCache(disk.CacheOptions{Budget: 4 << 20, BlockSize: 64 * kib, ReadAhead: 256 * kib})
	defer c.Close()
	m := c.Image("x", img)
	p := make([]byte, 1000)
	read := func(off int64) {
		t.Helper()
		if err := disk.ReadFull(m, p, off); err != nil {
			t.Fatal(err)
		}
	}
	for _, off := range []int64{0, 2 << 20, 1 << 20, 3 << 20, 1000} {
		read(off)
	}
	time.Sleep(20 * time.Millisecond)
	if n := img.Reads(); n != 4 {
		t.Errorf("random reads of 4 blocks fetched %d", n)
	}
	read(64 * kib) // goes on behind block 0: blocks 2 to 5 follow
	waitFor(t, "the read-ahead", func() bool { return img.Reads() == 4+1+4 })
}

func TestCacheReadAheadIsParallelAndBounded(t *testing.T) {
	img := &counting{Image: disktest.Faulty(disktest.Pattern(2<<20, nil), disktest.Faults{Delay: 10 * time.Millisecond})}
	c := disk.NewCache(disk.CacheOptions{Budget: 8 << 20, BlockSize: 64 * kib, ReadAhead: 512 * kib, Parallel: 3})
	defer c.Close()
	scan(t, c.Image("x", img), 32*kib)
	if img.most < 3 || img.most > 3+1 {
		t.Errorf("%d fetches at once, want 3, and the reader's own at most", img.most)
	}
}

// counting counts how many reads go on at once.
type counting struct {
	disk.Image
	mu        sync.Mutex
	now, most int
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	c.now++
	c.most = max(c.most, c.now)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.now--
		c.mu.Unlock()
	}()
	return c.Image.ReadAt(p, off)
}

func TestCacheKeepsNoErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, f := range []disktest.Faults{{Nth: 1, Err: broken}, {Nth: 1, Short: 7}} {
		c := small()
		m := c.Image("x", disktest.Faulty(disktest.Pattern(1<<20, nil), f))
		p := make([]byte, 100)
		if n, err := m.ReadAt(p, 0); n != 0 || err == nil {
			t.Errorf("%+v: first read is %d, %v", f, n, err)
		}
		want := make([]byte, 100)
		disktest.Fill(want, 0)
		if err := disk.ReadFull(m, p, 0); err != nil || !bytes.Equal(p, want) {
			t.Errorf("%+v: second read is %x, %v", f, p, err)
		}
		c.Close()
	}
}

func TestCacheCloseEndsBlockedReads(t *testing.T) {
	for name, end := range map[string]func(*disk.Cache, disk.Image){
		"image": func(_ *disk.Cache, m disk.Image) { m.Close() },
		"cache": func(c *disk.Cache, _ disk.Image) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c := small()
			img := disktest.Faulty(disktest.Pattern(1<<20, nil), disktest.Faults{Hang: true})
			defer img.Close()
			m := c.Image("x", img)
			got := make(chan error)
			for range 3 {
				go func() { _, err := m.ReadAt(make([]byte, 10), 0); got <- err }()
			}
			waitFor(t, "the read", func() bool { return img.Reads() > 0 })
			end(c, m)
			for range 3 {
				if err := <-got; !errors.Is(err, disk.ErrClosed) {
					t.Errorf("blocked read gives %v", err)
				}
			}
			if _, err := m.ReadAt(make([]byte, 10), 0); !errors.Is(err, disk.ErrClosed) {
				t.Errorf("later read gives %v", err)
			}
		})
	}
}

// A reader that waits for a fetch through an image that is closed meanwhile is
// served by its own.
func TestCacheCloseLeavesTheOthers(t *testing.T) {
	c := small()
	defer c.Close()
	hangs := disktest.Faulty(disktest.Pattern(1<<20, nil), disktest.Faults{Hang: true})
	a := c.Image("x", hangs)
	b := c.Image("x", disktest.Pattern(1<<20, nil))
	got := make(chan error, 2)
	go func() { _, err := a.ReadAt(make([]byte, 10), 0); got <- err }()
	waitFor(t, "the read", func() bool { return hangs.Reads() > 0 })
	p := make([]byte, 10)
	served := make(chan error)
	go func() { served <- disk.ReadFull(b, p, 8) }()
	time.Sleep(5 * time.Millisecond)
	a.Close()
	if err := <-served; err != nil || p[7] != 8 {
		t.Errorf("the other reader gets %x, %v", p, err)
	}
	if err := <-got; !errors.Is(err, disk.ErrClosed) {
		t.Errorf("the closed reader gets %v", err)
	}
}

func TestCacheStaysInItsBudget(t *testing.T) {
	const budget = 8 << 20
	c := disk.NewCache(disk.CacheOptions{Budget: budget, BlockSize: 256 * kib})
	defer c.Close()
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	m := c.Image("x", disktest.Pattern(128<<20, nil))
	scan(t, m, 128*kib)
	scan(t, disk.Section(m, 0, 20<<20), 128*kib) // some blocks are used more often
	if took := heap() - before; took > budget+budget/4 || took < budget/4 {
		t.Errorf("the cache takes %d bytes of heap with a budget of %d", took, budget)
	}
	runtime.KeepAlive(c)
}

func BenchmarkCache(b *testing.B) {
	for _, n := range []int{4 * kib, 128 * kib} {
		b.Run(fmt.Sprint("hit/", n), func(b *testing.B) {
			c := disk.NewCache(disk.CacheOptions{})
			m := c.Image("x", disktest.Pattern(16<<20, nil))
			scan(b, m, 1<<20)
			p := make([]byte, n)
			off := int64(0)
			b.SetBytes(int64(n))
			for b.Loop() {
				if err := disk.ReadFull(m, p, off); err != nil {
					b.Fatal(err)
				}
				off = (off + int64(n)) % (16 << 20)
			}
		})
	}
	b.Run("stream", func(b *testing.B) {
		c := disk.NewCache(disk.CacheOptions{})
		m := c.Image("x", disktest.Pattern(1<<40, nil))
		p := make([]byte, 128*kib)
		off := int64(0)
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			if err := disk.ReadFull(m, p, off); err != nil {
				b.Fatal(err)
			}
			off += int64(len(p))
		}
	})
}
