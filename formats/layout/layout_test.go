package layout_test

import (
	"errors"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats/layout"

	"github.com/google/go-cmp/cmp"
)

// naiveFile is a file that is built section by section in memory.
type naiveFile struct {
	p    []byte
	data []disk.Extent // what is no hole
}

func (f *naiveFile) add(t *testing.T, img disk.Image) {
	t.Helper()
	p, err := disktest.Read(img)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range disk.Extents(img) {
		if err != nil {
			t.Fatal(err)
		}
		if !e.Zero {
			f.data = append(f.data, disk.Extent{Off: int64(len(f.p)) + e.Off, Len: e.Len})
		}
	}
	f.p = append(f.p, p...)
}

func (f *naiveFile) pad(align int) {
	for len(f.p)%align != 0 {
		f.p = append(f.p, 0)
	}
}

// extents are those of the naive file, from 0 to its end, maximal.
func (f *naiveFile) extents() []disk.Extent {
	var all []disk.Extent
	add := func(off, end int64, zero bool) {
		if n := len(all); n > 0 && all[n-1].Zero == zero {
			all[n-1].Len += end - off
		} else if end > off {
			all = append(all, disk.Extent{Off: off, Len: end - off, Zero: zero})
		}
	}
	at := int64(0)
	for _, e := range f.data {
		if e.Off > at {
			add(at, e.Off, true)
		}
		add(e.Off, e.End(), false)
		at = e.End()
	}
	if end := int64(len(f.p)); end > at {
		add(at, end, true)
	}
	return all
}

// sample builds a file with sections of every kind, and the same naively.
func sample(t *testing.T, align int) (*layout.File, *naiveFile) {
	t.Helper()
	img := disktest.Runs(20*block+700, disk.Extent{Off: 3 * block, Len: 2*block + 1}, disk.Extent{Off: 9*block - 5, Len: 10}, disk.Extent{Off: 20 * block, Len: 700})
	m := mapOf(t, img)
	var want naiveFile
	b := layout.New(int64(align))
	add := func(img disk.Image) {
		want.pad(align)
		if b.Offset() != int64(len(want.p)) {
			t.Fatalf("offset is %d, want %d", b.Offset(), len(want.p))
		}
		want.add(t, img)
	}
	header := []byte("header of odd length")
	add(disk.Bytes(header))
	b.Data("header", header)
	b.Data("empty", nil)
	table := disktest.Pattern(5001, nil)
	add(table)
	b.Func("table", 5001, func(p []byte, off int64) error { disktest.Fill(p, off); return nil })
	add(disktest.Runs(777))
	b.Zero("gap", 777)
	add(disktest.Runs(3))
	b.Zero("gap", 3)
	add(img)
	b.Image("disk", img)
	var packed []disk.Image
	for k := range m.Allocated() {
		p := make([]byte, block)
		if err := disk.ReadFull(img, p, m.Select(k)*block); err != nil {
			t.Fatal(err)
		}
		packed = append(packed, disk.Bytes(p))
	}
	add(disk.Concat(packed...))
	b.Mapped("clusters", img, m)
	add(disktest.Runs(1000))
	b.Zero("tail", 1000)
	return b.File(), &want
}

func TestFile(t *testing.T) {
	for _, align := range []int{1, 512, block} {
		f, want := sample(t, align)
		if diff := cmp.Diff(want.extents(), disktest.Walk(t, f)); diff != "" {
			t.Errorf("extents at alignment %d (-want +got):\n%s", align, diff)
		}
		var data int64
		for _, e := range want.data {
			data += e.Len
		}
		if got := f.Allocated(); got != data {
			t.Errorf("allocated at alignment %d is %d, want %d", align, got, data)
		}
		disktest.Suite(t, f, disk.Bytes(want.p))
	}
}

func TestDump(t *testing.T) {
	f, _ := sample(t, 512)
	want := strings.TrimPrefix(`
             0             20  data    header sha256:1084e0fca748d6df
            20            492  zero    padding
           512           5001  func    table
          5513            119  zero    padding
          5632            777  zero    gap
          6409            247  zero    padding
          6656              3  zero    gap
          6659            509  zero    padding
          7168        1311420  image   disk
       1318588            324  zero    padding
       1318912         393216  mapped  clusters
       1712128           1000  zero    tail
       1713128
`, "\n")
	if diff := cmp.Diff(want, f.Dump()); diff != "" {
		t.Errorf("dump (-want +got):\n%s", diff)
	}
}

func TestEmptyFile(t *testing.T) {
	b := layout.New(4096)
	b.Data("nothing", nil)
	disktest.Suite(t, b.File(), disk.Bytes(nil))
}

func TestFileErrors(t *testing.T) {
	broken := errors.New("broken")
	img := disktest.Faulty(disktest.Pattern(4*block, nil), disktest.Faults{Range: disk.Extent{Off: 2 * block, Len: 1}, Err: broken})
	b := layout.New(1)
	b.Zero("front", 100)
	b.Mapped("clusters", img, layout.FullMap(4*block))
	b.Func("table", 10, func([]byte, int64) error { return broken })
	f := b.File()
	p := make([]byte, 10)
	if n, err := f.ReadAt(p, 100+2*block); n != 0 || !errors.Is(err, broken) || !strings.Contains(err.Error(), "clusters") {
		t.Errorf("read of a broken image is %d, %v", n, err)
	}
	if n, err := f.ReadAt(p, f.Size()-15); n != 5 || !errors.Is(err, broken) || !strings.Contains(err.Error(), "table") {
		t.Errorf("read into a broken table is %d, %v", n, err)
	}
	if err := disk.ReadFull(f, p, 100+block); err != nil {
		t.Errorf("read beside the broken part is %v", err)
	}
}

// Two TiB of alternating blocks cost the bitmap and no more, and any byte is
// found at once.
func TestFileOfHugeFragmentedDisk(t *testing.T) {
	const size = 2 << 40
	img := disktest.Pattern(size, func(b int64) bool { return b%2 == 1 })
	m := mapOf(t, img)
	b := layout.New(block)
	b.Data("header", []byte("header"))
	b.Mapped("clusters", img, m)
	f := b.File()
	if want := int64(block + size/2); f.Size() != want {
		t.Fatalf("size is %d, want %d", f.Size(), want)
	}
	if p, err := m.MarshalBinary(); err != nil || len(p) > 64<<20 {
		t.Errorf("the map is encoded in %d bytes, %v", len(p), err)
	}
	got, want := make([]byte, 24), make([]byte, 24)
	for _, k := range []int64{0, 1, 1000, size/block/2 - 1} {
		if err := disk.ReadFull(f, got, block+k*block+8); err != nil {
			t.Fatal(err)
		}
		disktest.Fill(want, (2*k+1)*block+8)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("packed block %d (-want +got):\n%s", k, diff)
		}
	}
}

func BenchmarkFile(b *testing.B) {
	for name, set := range map[string]func(int64) bool{
		"0%": func(int64) bool { return false }, "50%": func(b int64) bool { return b%2 == 1 }, "100%": nil,
	} {
		b.Run(name, func(b *testing.B) {
			img := disktest.Pattern(64<<20, set)
			bld := layout.New(block)
			bld.Image("disk", img)
			bld.Mapped("clusters", img, mapOf(b, img))
			f := bld.File()
			p := make([]byte, 128<<10)
			off := int64(0)
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				if err := disk.ReadFull(f, p, off); err != nil {
					b.Fatal(err)
				}
				off = (off + int64(len(p))) % f.Size()
			}
		})
	}
}
