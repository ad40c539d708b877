package disk_test

import (
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// Of an image that turns out to be damaged nothing stays that was fetched before; of
// others all does.
func TestCacheForgetsWhatMayBeWrong(t *testing.T) {
	img := disktest.Faulty(disktest.Pattern(1<<20, nil), disktest.Faults{Nth: 3, Err: disk.Errorf(disk.Malformed, "the sum is wrong")})
	c := disk.NewCache(disk.CacheOptions{BlockSize: 64 * kib, ReadAhead: -1})
	defer c.Close()
	m := c.Image("x", img)
	p := make([]byte, 100)
	other := disktest.Faulty(disktest.Pattern(1<<20, nil), disktest.Faults{})
	o := c.Image("y", other)
	if err := disk.ReadFull(o, p, 0); err != nil {
		t.Fatal(err)
	}
	read := func(block int64) error { return disk.ReadFull(m, p, block*64*kib) }
	for block := range int64(2) {
		if err := read(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := read(2); disk.KindOf(err) != disk.Malformed {
		t.Fatal(err)
	}
	before := img.Reads()
	if err := read(0); err != nil {
		t.Fatal(err)
	}
	if img.Reads() == before {
		t.Error("a block of before is still there")
	}
	before = other.Reads()
	if err := disk.ReadFull(o, p, 0); err != nil {
		t.Fatal(err)
	}
	if other.Reads() != before {
		t.Error("a block of another image is gone")
	}
}
