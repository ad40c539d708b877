package formattest

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats"
	"chromogenic/formats/layout"
)

// A maker wraps a raw disk in a container file.
type maker struct {
	name, format string
	args         []string // of qemu-img convert; nil is our own layout
}

// makers is every container that a disk comes in.
func makers() []maker {
	return []maker{
		{"raw", "raw", nil},
		{"qcow2 of qemu", "qcow2", []string{"-O", "qcow2"}},
		{"compressed qcow2 of qemu", "qcow2", []string{"-c", "-O", "qcow2"}},
		{"vmdk of qemu", "vmdk", []string{"-O", "vmdk"}},
		{"stream of qemu", "vmdk", []string{"-O", "vmdk", "-o", "subformat=streamOptimized"}},
		{"our qcow2", "qcow2", nil},
		{"our vmdk", "vmdk", nil},
		{"our ova", "ova", nil},
	}
}

// seed is that of every layout here: identifiers derive from it alone.
const seed = "formattest"

// Matrix runs every reader with every writer on a disk.
func Matrix(t *testing.T, d Disk) {
	j := &judge{disk: d, want: padded(OpenFile(t, d.Path)), seen: map[string]bool{}}
	for _, m := range makers() {
		t.Run("from "+m.name, func(t *testing.T) {
			container := filepath.Join(t.TempDir(), "container")
			m.make(t, d, container)
			j.writeAll(t, m.format, container)
		})
	}
}

// make writes the container.
func (m maker) make(t *testing.T, d Disk, container string) {
	if m.args != nil {
		Run(t, "qemu-img", append(append([]string{"convert", "-f", "raw"}, m.args...), d.Path, container)...)
		return
	}
	one := &disk.Machine{Disks: []disk.Disk{{Image: OpenFile(t, d.Path)}}}
	WriteFile(t, container, LayOut(t, m.format, one))
}

// LayOut lays the machine out by the row of the table.
func LayOut(t testing.TB, format string, m *disk.Machine) *layout.File {
	t.Helper()
	row, ok := formats.ByName(format)
	if !ok {
		t.Fatalf("no format %q", format)
	}
	f, err := row.Layout(m, layout.Options{Seed: []byte(seed), Name: "test"})
	if err != nil {
		t.Fatalf("lay out %s: %v", format, err)
	}
	return f
}

// Open opens a container file by the row of the table, which must also be the
// one that Detect finds.
func Open(t testing.TB, format, path string) *disk.Machine {
	t.Helper()
	img := OpenFile(t, path)
	row, err := formats.Detect(img)
	if err != nil || row.Name != format {
		t.Fatalf("detected as %q, want %q: %v", row.Name, format, err)
	}
	m, err := row.Open(img, formats.OpenOptions{})
	if err != nil {
		t.Fatalf("open %s: %v", format, err)
	}
	return m
}

// padded is img with zeros up to a whole sector, as every container but raw
// holds it.
func padded(img disk.Image) disk.Image {
	pad := -img.Size() & (disk.SectorSize - 1)
	return disk.Concat(img, disk.Bytes(make([]byte, pad)))
}

// A judge looks at files of one disk. What it has found good it does not look at
// again: the containers of a disk mostly lead to the same bytes.
type judge struct {
	disk Disk
	want disk.Image
	mu   sync.Mutex
	seen map[string]bool
}

// writeAll opens a container and lays its disk out in every format.
func (j *judge) writeAll(t *testing.T, format, container string) {
	m := Open(t, format, container)
	defer m.Close()
	want := j.want
	if format == "raw" {
		want = OpenFile(t, j.disk.Path)
	}
	equal(t, m.Disks[0].Image, want)
	for _, row := range formats.Table() {
		if row.Layout == nil {
			continue
		}
		f := LayOut(t, row.Name, m)
		sum, again := fingerprint(t, f), fingerprint(t, LayOut(t, row.Name, m))
		if sum != again {
			t.Errorf("to %s: two layouts of one disk differ", row.Name)
		}
		if key := row.Name + sum; j.first(key) {
			path := filepath.Join(t.TempDir(), "laid-out")
			WriteFile(t, path, f)
			j.ask(t, row.Name, path, f)
			os.Remove(path)
		}
	}
}

func (j *judge) first(key string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	seen := j.seen[key]
	j.seen[key] = true
	return !seen
}

// ask judges a file that was laid out: by qemu-img, by our reader, and as an image.
func (j *judge) ask(t *testing.T, format, path string, f *layout.File) {
	t.Run("to "+format, func(t *testing.T) {
		node := qemuNode(t, format, path)
		Run(t, "qemu-img", "compare", "-U", "-f", "raw", j.disk.Path, node)
		if format != "raw" { // which qemu-img does not check
			Run(t, "qemu-img", "check", node)
		}
		m := Open(t, format, path)
		defer m.Close()
		want := j.want
		if format == "raw" && f.Size() == j.disk.Size {
			want = OpenFile(t, j.disk.Path) // a raw disk keeps its size
		}
		equal(t, m.Disks[0].Image, want)
		if len(m.Disks) != 1 {
			t.Errorf("%d disks", len(m.Disks))
		}
		if j.disk.Size <= 16<<20 {
			disktest.Suite(t, m.Disks[0].Image, want)
			disktest.Suite(t, f, OpenFile(t, path))
		}
	})
}

// qemuNode is the file as qemu-img opens it: of an OVA the VMDK inside.
func qemuNode(t *testing.T, format, path string) string {
	t.Helper()
	if format != "ova" {
		return fmt.Sprintf(`json:{"driver":%q,"file":{"driver":"file","filename":%q}}`, format, path)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("find disk1.vmdk: %v", err)
		}
		if off, _ := f.Seek(0, io.SeekCurrent); h.Name == "disk1.vmdk" {
			return fmt.Sprintf(`json:{"driver":"vmdk","file":{"driver":"raw","offset":%d,"size":%d,"file":{"driver":"file","filename":%q}}}`, off, h.Size, path)
		}
	}
}

// equal compares two images byte by byte, but for what both call holes.
func equal(t testing.TB, got, want disk.Image) {
	t.Helper()
	if got.Size() != want.Size() {
		t.Fatalf("size %d, want %d", got.Size(), want.Size())
	}
	var a, b [256 << 10]byte
	for off := int64(0); off < want.Size(); {
		x, err := got.Extent(off, want.Size()-off)
		if err != nil {
			t.Fatal(err)
		}
		y, err := want.Extent(off, x.Len)
		if err != nil {
			t.Fatal(err)
		}
		if x.Zero && y.Zero {
			off = y.End()
			continue
		}
		n := min(y.Len, int64(len(a)))
		if err := disk.ReadFull(got, a[:n], off); err != nil {
			t.Fatal(err)
		}
		if err := disk.ReadFull(want, b[:n], off); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(a[:n], b[:n]) {
			t.Fatalf("content differs within [%d, %d)", off, off+n)
		}
		off += n
	}
}

// fingerprint is a digest of the bytes of img and of where its holes are.
func fingerprint(t testing.TB, img disk.Image) string {
	t.Helper()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for e, err := range disk.Extents(img) {
		if err != nil {
			t.Fatal(err)
		}
		binary.Write(h, binary.BigEndian, []int64{e.Off, e.Len}) // a hash never fails
		if !e.Zero {
			digestRun(t, h, img, e, buf)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func digestRun(t testing.TB, h hash.Hash, img disk.Image, e disk.Extent, buf []byte) {
	t.Helper()
	for off := e.Off; off < e.End(); {
		p := buf[:min(int64(len(buf)), e.End()-off)]
		if err := disk.ReadFull(img, p, off); err != nil {
			t.Fatal(err)
		}
		h.Write(p)
		off += int64(len(p))
	}
}
