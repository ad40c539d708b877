package vmdk

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats/layout"
)

func layOut(t testing.TB, img disk.Image, bus string) *layout.File {
	t.Helper()
	f, err := Layout(&disk.Machine{Disks: []disk.Disk{{Image: img, Bus: bus}}}, layout.Options{Seed: []byte("seed")})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// padded is img up to a whole sector: what a container of it holds.
func padded(img disk.Image) disk.Image {
	size := (img.Size() + sector - 1) / sector * sector
	return disk.Concat(img, &zeros{size: size - img.Size()})
}

// TestLayoutOracles hands what we write to qemu-img and libvmdk, and to our own
// reader.
func TestLayoutOracles(t *testing.T) {
	odd := sample{"odd size", disktest.Pattern(64*kib+700, nil)}
	for _, s := range append(samples(), odd) {
		t.Run(s.name, func(t *testing.T) {
			dir := t.TempDir()
			want := padded(s.disk)
			writeImage(t, want, filepath.Join(dir, "want.raw"))
			f := layOut(t, s.disk, "")
			writeImage(t, f, filepath.Join(dir, "disk.vmdk"))
			if out := run(t, dir, "qemu-img", "compare", "-f", "raw", "-F", "vmdk", "want.raw", "disk.vmdk"); !strings.Contains(out, "identical") {
				t.Error(out)
			}
			if out := run(t, dir, "qemu-img", "info", "--output=json", "disk.vmdk"); !strings.Contains(out, fmt.Sprintf(`"virtual-size": %d,`, want.Size())) {
				t.Errorf("want a virtual size of %d:\n%s", want.Size(), out)
			}
			run(t, dir, "qemu-img", "check", "-f", "vmdk", "disk.vmdk")
			info := run(t, dir, "vmdkinfo", "disk.vmdk")
			for _, line := range []string{"Stream optimized", "disk1.vmdk"} {
				if !strings.Contains(info, line) {
					t.Errorf("vmdkinfo does not say %q:\n%s", line, info)
				}
			}
			img := openFile(t, filepath.Join(dir, "disk.vmdk"))
			disktest.Compare(t, f, img) // the file is what the layout reads as
			d := openDisk(t, img, nil)
			if d.Bus != "scsi" {
				t.Errorf("bus %q", d.Bus)
			}
			disktest.Suite(t, d, want)
			disktest.Suite(t, f, img)
		})
	}
}

// TestLayoutConstants compares the sizes with those that formats.md measured.
func TestLayoutConstants(t *testing.T) {
	if storedSectors != 129 || compressedSize != 65552 || grainEnd != 65564 {
		t.Errorf("a grain takes %d sectors, %d and %d bytes", storedSectors, compressedSize, grainEnd)
	}
	// VirtualBox, vmdkAllocStreamBuffers and vmdkFileInflateSync.
	if buffer := (layout.BlockSize + 8 + 16 + sector - 1) / sector * sector; storedSectors*sector > buffer {
		t.Errorf("VirtualBox's buffer has %d bytes, a grain %d", buffer, storedSectors*sector)
	}
}

// TestRandomReadsOfLayout compares 20,000 reads with the materialised file, and
// as many of the disk read back.
func TestRandomReadsOfLayout(t *testing.T) {
	src := disktest.Pattern(100*mib+512, func(b int64) bool { return b%7 < 3 || b > 1000 && b < 1540 })
	f := layOut(t, src, "")
	p, err := disktest.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	randomReads(t, f, disk.Bytes(p), 20000)
	randomReads(t, openDisk(t, disk.Bytes(p), nil), src, 5000)
	randomReads(t, openDisk(t, f, nil), src, 2000)
}

// TestLayoutEveryOffset reads around every boundary inside a grain.
func TestLayoutEveryOffset(t *testing.T) {
	f := layOut(t, disktest.Pattern(130*kib, nil), "")
	all, err := disktest.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	edges := []int64{0, grainMarkerLen, 14, grainHead, grainHead + half, secondHalf, checksumAt, grainEnd, storedSectors * sector}
	for _, edge := range edges {
		for from := max(edge-9, 0); from < edge+9; from++ {
			for _, n := range []int64{1, 3, 8, 40000, grainEnd, 70000} {
				off := overheadSectors*sector + from
				p := make([]byte, min(n, f.Size()-off))
				if _, err := f.ReadAt(p, off); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(p, all[off:off+int64(len(p))]) {
					t.Fatalf("read %d at %d differs", n, off)
				}
			}
		}
	}
}

func TestLayoutDump(t *testing.T) {
	got := layOut(t, disktest.Pattern(70*mib, func(b int64) bool { return b < 3 || b == 1025 }), "").Dump()
	want := `             0            512  data    header sha256:9223ddac0a6f4c9e
           512          10240  data    descriptor sha256:595d6febce28e159
         10752          54784  zero    overhead
         65536         269312  func    grains
        334848            512  data    grain directory marker sha256:2942e9dc4f317cc2
        335360            512  func    grain directory
        335872            512  data    footer marker sha256:44351a3f055d651f
        336384            512  data    footer sha256:beaf96e534210062
        336896            512  data    end of stream sha256:076a27c79e5ace2a
        337408
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDescriptorText(t *testing.T) {
	want := `# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=0000beef
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW 6291457 SPARSE "disk1.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "ide"
ddb.geometry.cylinders = "6241"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.virtualHWVersion = "4"
`
	if d := cmp.Diff(want, descriptorText(6291457, "ide", 0xbeef)); d != "" {
		t.Error(d)
	}
}

// TestLayoutBus checks that only the adapter's lines depend on the bus.
func TestLayoutBus(t *testing.T) {
	src := disktest.Pattern(mib, nil)
	f := layOut(t, src, "ide")
	if d := openDisk(t, f, nil); d.Bus != "ide" {
		t.Errorf("bus %q", d.Bus)
	}
	if a, b := f.Size(), layOut(t, src, "virtio").Size(); a != b {
		t.Errorf("sizes %d and %d", a, b)
	}
}

func TestContentID(t *testing.T) {
	a, b := contentID([]byte("a")), contentID([]byte("b"))
	if a == b || a != contentID([]byte("a")) {
		t.Errorf("content ids %08x %08x", a, b)
	}
}

// TestLayoutLimits checks what is refused, and that the largest disks are not.
func TestLayoutLimits(t *testing.T) {
	for _, tc := range []struct {
		name string
		size int64
		full bool
		kind disk.Kind
		text string
	}{
		{"empty", 0, false, disk.Invalid, "size 0"},
		{"sparse at the limit", MaxSize, false, disk.Other, ""},
		{"sparse over the limit", MaxSize + 1, false, disk.TooLarge, "at most 2199023255552"},
		{"full at the limit", MaxSize, true, disk.TooLarge, "32-bit sector"},
		{"full, 17 GiB less", MaxSize - 17*gib, true, disk.Other, ""},
		{"full, 16 GiB less", MaxSize - 16*gib, true, disk.TooLarge, "32-bit sector"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src := disktest.Runs(tc.size, disk.Extent{Off: 0, Len: min(tc.size, 512)})
			if tc.full {
				src = disktest.Pattern(tc.size, nil)
			}
			f, err := Layout(&disk.Machine{Disks: []disk.Disk{{Image: src}}}, layout.Options{})
			if tc.text != "" {
				if err == nil || disk.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("error %v of kind %v", err, disk.KindOf(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if f.Size() > 1<<41 {
				t.Errorf("a file of %d bytes", f.Size())
			}
			d := openDisk(t, f, nil)
			randomReads(t, d, src, 20)
			p := make([]byte, 1)
			if _, err := d.ReadAt(p, tc.size-1); err != nil || tc.full && p[0] != byte((tc.size-8)) {
				t.Errorf("the last byte is %d, %v", p[0], err)
			}
		})
	}
	if _, err := Layout(&disk.Machine{}, layout.Options{}); disk.KindOf(err) != disk.Invalid {
		t.Errorf("no disk: %v", err)
	}
}

// TestLayoutFailure checks that an error of the source is an error of the file.
func TestLayoutFailure(t *testing.T) {
	src := disktest.Faulty(disktest.Pattern(mib, nil), disktest.Faults{Range: disk.Extent{Off: 300 * kib, Len: 1}, Short: 10})
	f := layOut(t, src, "")
	if n, err := f.ReadAt(make([]byte, f.Size()), 0); err == nil || n > 64*kib+5*storedSectors*sector {
		t.Errorf("read %d, %v", n, err)
	}
}
