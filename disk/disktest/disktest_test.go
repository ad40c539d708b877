package disktest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
)

// imageSize is that of the images that are broken on purpose.
const imageSize = 1<<20 + 100

// good has a hole in the middle, in no multiple of anything.
func good() disk.Image {
	return Runs(imageSize, disk.Extent{Off: 0, Len: 70_001}, disk.Extent{Off: 500_003, Len: imageSize - 500_003})
}

// An altered image answers as its functions say, where they are set.
type altered struct {
	disk.Image
	extent func(off, n int64) (disk.Extent, error)
	read   func(p []byte, off int64) (int, error)
	size   int64
}

func (a altered) Extent(off, n int64) (disk.Extent, error) {
	if a.extent != nil {
		return a.extent(off, n)
	}
	return a.Image.Extent(off, n)
}

func (a altered) ReadAt(p []byte, off int64) (int, error) {
	if a.read != nil {
		return a.read(p, off)
	}
	return a.Image.ReadAt(p, off)
}

func (a altered) Size() int64 {
	if a.size != 0 {
		return a.size
	}
	return a.Image.Size()
}

// broken are images that do not keep the contract, and what the suite is to
// say of each.
func broken() map[string]struct {
	img  disk.Image
	says string
} {
	type row = struct {
		img  disk.Image
		says string
	}
	img := good()
	return map[string]row{
		"size":    {altered{Image: good(), size: imageSize - 1}, "size is"},
		"flipped": {Faulty(good(), Faults{Range: disk.Extent{Off: 600_000, Len: 1}, Flipped: true}), "holds"},
		"short":   {Faulty(good(), Faults{Nth: 50, Short: 1}), "read of"},
		"failing": {Faulty(good(), Faults{Range: disk.Extent{Off: 30_000, Len: 1}, Err: errors.New("broken")}), "broken"},
		"shifted": {altered{Image: good(), read: func(p []byte, off int64) (int, error) {
			if off > 0 && off < imageSize-20 {
				off++
			}
			return img.ReadAt(p, off)
		}}, "read of"},
		"hole over data": {altered{Image: good(), extent: func(off, n int64) (disk.Extent, error) {
			n, err := disk.CheckRange(off, n, imageSize)
			return disk.Extent{Off: off, Len: n, Zero: true}, err
		}}, "is a hole, but"},
		"runs not maximal": {altered{Image: good(), extent: func(off, n int64) (disk.Extent, error) {
			return img.Extent(off, min(n, 4096-off%4096))
		}}, "are one run"},
		"hole that ends late": {altered{Image: good(), extent: func(off, n int64) (disk.Extent, error) {
			e, err := img.Extent(off, n)
			if e.Zero {
				e.Len++
			}
			return e, err
		}}, "want {Off:"},
		"negative offsets": {altered{Image: good(), extent: func(off, n int64) (disk.Extent, error) {
			return img.Extent(max(off, 0), max(n, 1))
		}}, "want an error"},
		"no EOF": {altered{Image: good(), read: func(p []byte, off int64) (int, error) {
			n, err := img.ReadAt(p, off)
			if off > 0 {
				err = nil
			}
			return n, err
		}}, "over the end"},
		"never closed": {altered{Image: good(), read: img.ReadAt}, "want ErrClosed"},
	}
}

// TestSuiteOfBroken is what TestSuiteFindsFaults runs, in a process of its own.
func TestSuiteOfBroken(t *testing.T) {
	row, ok := broken()[os.Getenv("DISKTEST_BROKEN")]
	if !ok {
		t.Skip("run by TestSuiteFindsFaults")
	}
	Suite(t, row.img, good())
}

func TestSuiteFindsFaults(t *testing.T) {
	for name, row := range broken() {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestSuiteOfBroken$")
			cmd.Env = append(os.Environ(), "DISKTEST_BROKEN="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), row.says) {
				t.Errorf("the suite gives %v and does not say %q:\n%s", err, row.says, out)
			}
		})
	}
}

func TestPatternHoldsOffsets(t *testing.T) {
	p := make([]byte, 20)
	if err := disk.ReadFull(Pattern(1<<40, nil), p, 1<<33+5); err != nil {
		t.Fatal(err)
	}
	want := []byte{0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 16, 0}
	if !bytes.Equal(p, want) {
		t.Errorf("pattern is % x, want % x", p, want)
	}
}

func TestFaulty(t *testing.T) {
	fail := errors.New("fail")
	p := make([]byte, 100)
	img := Faulty(good(), Faults{Nth: 2, Err: fail})
	for i, want := range []error{nil, fail, nil} {
		if _, err := img.ReadAt(p, 0); !errors.Is(err, want) {
			t.Errorf("read %d gives %v, want %v", i+1, err, want)
		}
	}
	if img.Reads() != 3 || img.Bytes() != 300 {
		t.Errorf("%d reads of %d bytes are counted", img.Reads(), img.Bytes())
	}
	img = Faulty(good(), Faults{Range: disk.Extent{Off: 100, Len: 1}, Short: 30, Err: fail})
	if n, err := img.ReadAt(p, 0); n != 100 || err != nil {
		t.Errorf("read before the range is %d, %v", n, err)
	}
	if n, err := img.ReadAt(p, 100); n != 70 || err != fail {
		t.Errorf("read in the range is %d, %v", n, err)
	}
	img = Faulty(good(), Faults{Hang: true})
	got := make(chan error)
	go func() { _, err := img.ReadAt(p, 0); got <- err }()
	select {
	case err := <-got:
		t.Errorf("a read that hangs gives %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	img.Close()
	if err := <-got; !errors.Is(err, disk.ErrClosed) {
		t.Errorf("a read that hung gives %v", err)
	}
}
