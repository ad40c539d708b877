package vmdk

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

func TestCacheBudget(t *testing.T) {
	c := newCache(2*(40+entryCost) + 20)
	loads := map[key]int{}
	get := func(k key, n int) {
		t.Helper()
		p, err := c.get(k, func() ([]byte, error) { loads[k]++; return make([]byte, n), nil })
		if err != nil || len(p) != n {
			t.Fatalf("%d bytes, %v", len(p), err)
		}
	}
	for _, k := range []key{1, 2, 1, 3, 1, 2} { // 3 pushes out 2, the oldest
		get(k, 40)
	}
	if loads[1] != 1 || loads[2] != 2 || loads[3] != 1 {
		t.Errorf("loads %v", loads)
	}
	get(9, 1000)
	get(9, 1000)
	if loads[9] != 1 || len(c.entries) != 1 {
		t.Errorf("an entry above the budget: loads %d, %d entries", loads[9], len(c.entries))
	}
	get(1, 40)
	if c.used != 40+entryCost || len(c.entries) != 1 || c.recent.Len() != 1 {
		t.Errorf("used %d of %d entries", c.used, len(c.entries))
	}
	for k := key(100); k < 200; k++ { // as the tables of a file whose tables have one entry
		get(k, 4)
	}
	if len(c.entries) > 2 {
		t.Errorf("%d entries of 4 bytes", len(c.entries))
	}
}

// TestCacheFlight checks that many who ask at a time cause one load, share its
// error, and that the error is not kept.
func TestCacheFlight(t *testing.T) {
	c := newCache(100)
	broken := errors.New("broken")
	var loads, failed atomic.Int32
	release := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := c.get(5, func() ([]byte, error) {
				loads.Add(1)
				<-release
				return nil, broken
			})
			if errors.Is(err, broken) {
				failed.Add(1)
			}
		})
	}
	for loads.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	close(release)
	wg.Wait()
	if failed.Load() != 8 || loads.Load() > 8 || len(c.entries) != 0 {
		t.Errorf("%d loads, %d failed, %d entries", loads.Load(), failed.Load(), len(c.entries))
	}
	if p, err := c.get(5, func() ([]byte, error) { return []byte{1}, nil }); err != nil || len(p) != 1 {
		t.Errorf("after the error: %v, %v", p, err)
	}
}

// TestReadsOfFile checks what the reader costs its file: grains that are
// neighbours are one read, an inflated grain is read once, and tables without a
// grain are not read at all after opening.
func TestReadsOfFile(t *testing.T) {
	all := func(int64) bool { return true }
	count := func(s spec, use func(d disk.Disk)) int64 {
		img := disktest.Faulty(disk.Bytes(s.build()), disktest.Faults{})
		d := openDisk(t, img, nil)
		opened := img.Reads()
		use(d)
		return img.Reads() - opened
	}
	read := func(d disk.Disk) {
		if _, err := d.ReadAt(make([]byte, mib), 17); err != nil {
			t.Error(err)
		}
	}
	if n := count(spec{data: all}, read); n != 2 {
		t.Errorf("a MiB of plain grains took %d reads, not the table and the data", n)
	}
	if n := count(spec{data: all, kind: marked}, func(d disk.Disk) { read(d); read(d) }); n != 1+2*17 {
		t.Errorf("17 compressed grains, twice, took %d reads", n)
	}
	none := spec{size: gib, allTables: true, data: func(int64) bool { return false }}
	if n := count(none, func(d disk.Disk) {
		if e, err := d.Extent(0, gib); err != nil || e.Len != gib || !e.Zero {
			t.Errorf("extent %+v, %v", e, err)
		}
		read(d)
	}); n != 0 {
		t.Errorf("an empty disk took %d reads", n)
	}
}

func TestAllocated(t *testing.T) {
	s := spec{size: mib + 512, data: func(g int64) bool { return g == 1 || g == 16 }}
	if n, err := disk.Allocated(openDisk(t, disk.Bytes(s.build()), nil).Image); err != nil || n != 64*kib+512 {
		t.Errorf("allocated %d, %v", n, err)
	}
}
