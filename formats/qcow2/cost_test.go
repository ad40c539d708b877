package qcow2

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// Open reads tables and no content; clusters that are neighbours in the file are
// read at once.
func TestReadsOfTheFile(t *testing.T) {
	src := disktest.Faulty(lay(t, disktest.Pattern(64<<20, nil)), disktest.Faults{})
	m, err := Open(src, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, most := src.Bytes(), int64(headerKnown+8+65536); got > most {
		t.Errorf("open read %d bytes, want at most %d", got, most)
	}
	before := src.Reads()
	if _, err := disk.Allocated(m.Disks[0].Image); err != nil {
		t.Fatal(err)
	}
	if got := src.Reads() - before; got != 0 {
		t.Errorf("extents of a full disk took %d reads, want none", got)
	}
	p := make([]byte, 1<<20)
	before = src.Reads()
	for off := int64(3000); off < 8<<20; off += 1 << 20 {
		if err := disk.ReadFull(m.Disks[0], p, off); err != nil {
			t.Fatal(err)
		}
	}
	if got := src.Reads() - before; got != 8+1 {
		t.Errorf("8 reads of neighbours took %d reads of the file, want 8 and the L2 table", got)
	}
}

// A compressed cluster that many ask for is decompressed once.
func TestCompressedClusterOnce(t *testing.T) {
	src := disktest.Faulty(disk.Bytes(craft(pack(512))), disktest.Faults{Delay: 1e6})
	m, err := Open(src, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := src.Reads()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			p := make([]byte, 4)
			if _, err := m.Disks[0].ReadAt(p, 8); err != nil || string(p) != "text" {
				t.Errorf("read %q, %v", p, err)
			}
		})
	}
	wg.Wait()
	if got := src.Reads() - before; got != 2 {
		t.Errorf("20 readers took %d reads of the file, want the L2 table and the cluster", got)
	}
}

func TestLRU(t *testing.T) {
	c := newLRU(5000, 1000)
	var loads atomic.Int64
	load := func() ([]byte, error) {
		loads.Add(1)
		return make([]byte, 1000), nil
	}
	want := func(n int64) {
		t.Helper()
		if got := loads.Load(); got != n {
			t.Errorf("%d loads, want %d", got, n)
		}
	}
	for key := range int64(5) {
		c.get(key, load)
	}
	c.get(0, load)
	want(5)
	c.get(5, load) // in the place of 1, for 0 was used since
	c.get(0, load)
	want(6)
	c.get(1, load)
	want(7)
	if n := c.order.Len(); n != 5 || len(c.byKey) != n {
		t.Errorf("%d items in order and %d by key, want 5", n, len(c.byKey))
	}

	boom := errors.New("boom")
	if _, err := c.get(9, func() ([]byte, error) { return nil, boom }); !errors.Is(err, boom) {
		t.Errorf("failing load: %v", err)
	}
	if p, err := c.get(9, load); err != nil || len(p) != 1000 {
		t.Errorf("load after a failing one: %d bytes, %v", len(p), err)
	}
}
