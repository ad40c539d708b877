package qcow2

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats/layout"
)

func machine(img disk.Image) *disk.Machine {
	return &disk.Machine{Disks: []disk.Disk{{Image: img}}}
}

func lay(t testing.TB, img disk.Image) *layout.File {
	t.Helper()
	f, err := Layout(machine(img), layout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func everyThird(b int64) bool { return b%3 == 0 }

// disks are the shapes that are laid out: each edge of a sector, a cluster, and
// the reach of an L2 table.
func disks() map[string]disk.Image {
	return map[string]disk.Image{
		"size 0":                    disktest.Pattern(0, nil),
		"one byte":                  disktest.Pattern(1, nil),
		"one sector":                disktest.Pattern(512, nil),
		"one cluster":               disktest.Pattern(65536, nil),
		"one sector over a cluster": disktest.Pattern(66048, nil),
		"all zero":                  disktest.Pattern(1<<30+512, func(int64) bool { return false }),
		"dense":                     disktest.Pattern(5<<20+100, nil),
		"every third block":         disktest.Pattern(64<<20, everyThird),
		"odd runs": disktest.Runs(600<<20, disk.Extent{Off: 1, Len: 1}, disk.Extent{Off: 100_000, Len: 100_000},
			disk.Extent{Off: 512<<20 - 512, Len: 1024}, disk.Extent{Off: 600<<20 - 7, Len: 7}),
		"3 GiB and a sector": disktest.Pattern(3<<30+512, func(b int64) bool { return b%8192 == 8191 || b == 3<<14 || b/8192 == 2 && b%100 == 0 }),
	}
}

func TestLayoutIsReadByQEMU(t *testing.T) {
	need(t, "qemu-img", "qcowinfo")
	for name, img := range disks() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			f := lay(t, img)
			materialise(t, f, filepath.Join(dir, "x.qcow2"))
			materialise(t, img, filepath.Join(dir, "x.raw"))
			size := (img.Size() + 511) / 512 * 512
			shell(t, dir, fmt.Sprintf(`
				qemu-img check -q x.qcow2
				truncate -s %[1]d x.raw
				qemu-img compare -q -f qcow2 -F raw x.qcow2 x.raw
				qemu-img info x.qcow2 | grep -F 'virtual size' | grep -F '(%[1]d bytes)'
				test $(stat -c %%s x.qcow2) = %[2]d`, size, f.Size()))
			if size > 0 { // libqcow takes no empty disk
				shell(t, dir, "qcowinfo x.qcow2 | grep 'Media size' | grep -w "+fmt.Sprint(size))
			}
			disktest.Suite(t, f, openFile(t, filepath.Join(dir, "x.qcow2")))
		})
	}
}

func TestLayoutReadsBack(t *testing.T) {
	for name, img := range disks() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := Open(lay(t, img), nil)
			if err != nil {
				t.Fatal(err)
			}
			want := disk.Image(img)
			if img.Size()%512 != 0 {
				p, err := disktest.Read(img)
				if err != nil {
					t.Fatal(err)
				}
				want = disk.Bytes(append(p, make([]byte, 512-img.Size()%512)...))
			}
			if img.Size() > 1<<30 { // the suite reads much of a hole that is not one below
				disktest.Compare(t, m.Disks[0], want)
				return
			}
			disktest.Suite(t, m.Disks[0].Image, want)
		})
	}
}

// The map of what is read back is the map that was laid out.
func TestLayoutKeepsTheMap(t *testing.T) {
	img := disktest.Pattern(700<<20, func(b int64) bool { return b%5 == 0 || b > 9000 })
	m, err := Open(lay(t, img), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(disktest.Walk(t, img), disktest.Walk(t, m.Disks[0])); diff != "" {
		t.Error(diff)
	}
}

func TestLayoutDump(t *testing.T) {
	tests := []struct {
		name string
		img  disk.Image
		want string
	}{
		{"empty", disktest.Pattern(0, nil), `
             0            104  data    header sha256:b3d9127c9741742b
           104          65432  zero    padding
         65536          65536  func    refcount table
        131072          65536  func    refcount blocks
        196608          65536  func    L1 table
        262144
`},
		{"sparse", disktest.Pattern(3<<30+512, func(b int64) bool { return b%8192 == 8191 || b == 3<<14 }), `
             0            104  data    header sha256:307a0189e0df0024
           104          65432  zero    padding
         65536          65536  func    refcount table
        131072          65536  func    refcount blocks
        196608          65536  func    L1 table
        262144         458752  func    L2 tables
        720896         458752  mapped  clusters
       1179648
`},
		{"full, 2 TiB", disktest.Pattern(2<<40, nil), `
             0            104  data    header sha256:0c94d370241bcdb2
           104          65432  zero    padding
         65536          65536  func    refcount table
        131072       67174400  func    refcount blocks
      67305472          65536  func    L1 table
      67371008      268435456  func    L2 tables
     335806464  2199023255552  mapped  clusters
 2199359062016
`},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want[1:], lay(t, test.img).Dump()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", test.name, diff)
		}
	}
}

func TestLayoutLimits(t *testing.T) {
	hole := func(int64) bool { return false }
	if _, err := Layout(machine(disktest.Pattern(MaxSize+1, hole)), layout.Options{}); disk.KindOf(err) != disk.TooLarge {
		t.Errorf("a disk over the limit: %v, want a TooLarge error", err)
	}
	if _, err := Layout(&disk.Machine{}, layout.Options{}); disk.KindOf(err) != disk.Invalid {
		t.Errorf("a machine without disks: %v, want an Invalid error", err)
	}
}

// The largest disk, with data at its very end, is laid out and opened at once.
func TestLargestDisk(t *testing.T) {
	img := disktest.Runs(MaxSize, disk.Extent{Off: 16<<40 + 5, Len: 1}, disk.Extent{Off: MaxSize - 1, Len: 1})
	start := time.Now()
	f := lay(t, img)
	m, err := Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	var ends []int64
	for _, e := range disktest.Walk(t, m.Disks[0]) {
		ends = append(ends, e.End())
	}
	want := []int64{16 << 40, 16<<40 + 65536, MaxSize - 65536, MaxSize}
	if diff := cmp.Diff(want, ends); diff != "" {
		t.Error(diff)
	}
	p, last := make([]byte, 8), make([]byte, 8)
	if err := disk.ReadFull(m.Disks[0], p, MaxSize-8); err != nil {
		t.Fatal(err)
	}
	if err := disk.ReadFull(img, last, MaxSize-8); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(last, p); diff != "" {
		t.Error(diff)
	}
	if d := time.Since(start); d > 3*time.Second { // 0.1 s on an idle machine
		t.Errorf("took %v", d)
	}
}
