package raw

import (
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats/layout"
)

// A raw file is the disk, holes and odd sizes included, both ways.
func TestRaw(t *testing.T) {
	for _, size := range []int64{1, 512, 100_001, 5<<30 + 512} {
		img := func() disk.Image { return disktest.Pattern(size, func(b int64) bool { return b%1000 == 0 }) }
		m, err := Open(img())
		if err != nil {
			t.Fatal(err)
		}
		f, err := Layout(m, layout.Options{Seed: []byte("of no effect")})
		if err != nil {
			t.Fatal(err)
		}
		want, got := disktest.Walk(t, img()), disktest.Walk(t, f)
		if len(want) != len(got) {
			t.Errorf("%d bytes: %d runs, want %d", size, len(got), len(want))
		}
		disktest.Suite(t, f, img())
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLayoutRefuses(t *testing.T) {
	if _, err := Layout(&disk.Machine{}, layout.Options{}); disk.KindOf(err) != disk.Invalid {
		t.Errorf("a machine without a disk: %v", err)
	}
}
