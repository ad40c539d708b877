package disk_test

import (
	"errors"
	"io"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"

	"github.com/google/go-cmp/cmp"
)

// oddRuns is a pattern whose runs begin and end at no multiple of anything.
func oddRuns(size int64) disk.Image {
	return disktest.Runs(size,
		disk.Extent{Off: 0, Len: 5000}, disk.Extent{Off: 9001, Len: 1}, disk.Extent{Off: 70000, Len: 123456},
		disk.Extent{Off: 300000, Len: 4096}, disk.Extent{Off: size - 777, Len: 777})
}

// slice is what a Section must be, by way of memory: its extents are all data.
func slice(t *testing.T, img disk.Image, off, n int64) disk.Image {
	t.Helper()
	p := make([]byte, n)
	if err := disk.ReadFull(img, p, off); err != nil {
		t.Fatal(err)
	}
	return disk.Bytes(p)
}

func TestPatternKeepsTheContract(t *testing.T) {
	for name, size := range map[string]int64{"empty": 0, "one byte": 1, "small": 1 << 20, "partial block": 1<<20 + 513} {
		t.Run(name, func(t *testing.T) {
			half := func(b int64) bool { return b%3 == 0 }
			disktest.Suite(t, disktest.Pattern(size, half), disktest.Pattern(size, half))
		})
	}
	disktest.Suite(t, oddRuns(1<<40), oddRuns(1<<40))
}

func TestBytes(t *testing.T) {
	const size = 100_001
	p, err := disktest.Read(disktest.Pattern(size, nil))
	if err != nil {
		t.Fatal(err)
	}
	disktest.Suite(t, disk.Bytes(p), disktest.Pattern(size, nil))
}

func TestSection(t *testing.T) {
	const size = 1 << 20
	for name, w := range map[string][2]int64{
		"all": {0, size}, "middle": {4999, 200001}, "nothing": {100, 0}, "to the end": {size - 1000, 1000},
		"in a hole": {10000, 100},
	} {
		t.Run(name, func(t *testing.T) {
			img := oddRuns(size)
			want := slice(t, img, w[0], w[1])
			disktest.Suite(t, disk.Section(img, w[0], w[1]), want)
			if _, err := img.ReadAt(make([]byte, 1), 0); err != nil {
				t.Errorf("the image is closed with its section: %v", err)
			}
		})
	}
}

func TestSectionIsCutOff(t *testing.T) {
	img := disktest.Pattern(1000, nil)
	for _, tc := range [][3]int64{{900, 200, 100}, {1000, 1, 0}, {5000, 10, 0}, {-10, 30, 20}, {0, 1 << 62, 1000}, {10, -5, 0}} {
		if got := disk.Section(img, tc[0], tc[1]).Size(); got != tc[2] {
			t.Errorf("section of %d bytes at %d has size %d, want %d", tc[1], tc[0], got, tc[2])
		}
	}
}

func TestSectionErrors(t *testing.T) {
	broken := errors.New("broken")
	img := disktest.Faulty(oddRuns(1<<20), disktest.Faults{Err: broken})
	if _, err := disk.Section(img, 10, 100).ReadAt(make([]byte, 10), 0); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	short := disktest.Faulty(oddRuns(1<<20), disktest.Faults{Short: 1})
	if _, err := disk.Section(short, 10, 100).ReadAt(make([]byte, 10), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a short read gives %v", err)
	}
}

func TestConcat(t *testing.T) {
	whole := oddRuns(1 << 20)
	for name, cuts := range map[string][]int64{
		"none": {}, "one": {1 << 20}, "odd": {4999, 5000, 5000, 9001, 9002, 71000, 100000, 300001, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			var parts []disk.Image
			from := int64(0)
			for _, to := range cuts {
				parts = append(parts, disk.Section(whole, from, to-from))
				from = to
			}
			got := disk.Concat(parts...)
			want := disk.Section(whole, 0, from)
			if diff := cmp.Diff(disktest.Walk(t, want), disktest.Walk(t, got)); diff != "" {
				t.Errorf("extents (-want +got):\n%s", diff)
			}
			disktest.Suite(t, got, want)
			for i, p := range parts {
				if _, err := p.ReadAt(make([]byte, 1), 0); !errors.Is(err, disk.ErrClosed) {
					t.Errorf("part %d is not closed: %v", i, err)
				}
			}
		})
	}
}

func TestConcatError(t *testing.T) {
	broken := errors.New("broken")
	img := disk.Concat(disktest.Pattern(100, nil), disktest.Faulty(disktest.Pattern(100, nil), disktest.Faults{Err: broken}))
	if n, err := img.ReadAt(make([]byte, 150), 0); n != 100 || !errors.Is(err, broken) {
		t.Errorf("read into a broken part is %d, %v", n, err)
	}
}

func TestAllocatedLooksThroughDisk(t *testing.T) {
	img := allocator{oddRuns(1 << 20)}
	if n, err := disk.Allocated(disk.Disk{Image: img}); n != 42 || err != nil {
		t.Errorf("allocated is %d, %v", n, err)
	}
}

type allocator struct{ disk.Image }

func (allocator) Allocated() int64 { return 42 }
