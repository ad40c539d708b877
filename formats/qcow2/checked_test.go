package qcow2

import (
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats/layout"
)

// TestOpenChecked reads a file whose tables are not walked again, and then one
// that was cut off in spite of what is known of it: an error, never zeros.
func TestOpenChecked(t *testing.T) {
	want := disktest.Pattern(1<<30+512, func(b int64) bool { return b%3 == 0 && b < 300 || b > 16000 })
	file, err := Layout(&disk.Machine{Disks: []disk.Disk{{Image: want}}}, layout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := disktest.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	m, err := OpenChecked(disk.Bytes(whole), nil)
	if err != nil {
		t.Fatal(err)
	}
	disktest.Compare(t, m.Disks[0], layout.Frozen(want, must(layout.MapOf(want))))
	for _, keep := range []int{len(whole) - 64<<10, len(whole) / 2, 6 << 16} {
		m, err := OpenChecked(disk.Bytes(whole[:keep]), nil)
		if err != nil {
			continue
		}
		if err := disk.ReadFull(m.Disks[0], make([]byte, 512), m.Disks[0].Size()-512); disk.KindOf(err) != disk.Malformed {
			t.Errorf("cut to %d of %d bytes: %v", keep, len(whole), err)
		}
	}
}

func must(m *layout.Map, err error) *layout.Map {
	if err != nil {
		panic(err)
	}
	return m
}
