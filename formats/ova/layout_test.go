package ova

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats/layout"
)

func layOut(t testing.TB, m *disk.Machine) *layout.File {
	t.Helper()
	f, err := Layout(m, layout.Options{Seed: []byte("seed"), Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The layout is the same for every commit: an OVA that was backed up once must
// not change.
func TestLayoutGolden(t *testing.T) {
	m := machine(small(1), pattern{size: 3<<20 + 512})
	m.Meta = disk.Meta{Description: "two disks", Firmware: "uefi", OSDistro: "debian", CPUs: 4, MinRAM: 1023, NIC: "vmxnet3", DiskBus: "sata"}
	f := layOut(t, m)
	got := f.Dump() + "\n" + strings.TrimRight(string(all(t, f)[512:descriptorBase+2*descriptorPerDisk+512]), " \n") + "\n"
	golden := filepath.Join("testdata", "layout.golden")
	if os.Getenv("UPDATE") != "" {
		write(t, golden, []byte(got))
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Fatalf("layout changed; UPDATE=1 writes %s\n%s", golden, d)
	}
}

func TestLayoutReadsBack(t *testing.T) {
	disks := []disk.Image{small(1), pattern{size: 5 << 20}, pattern{size: 70 << 10, to: 70 << 10, key: 7}}
	m := machine(disks...)
	m.Meta = disk.Meta{Description: "a <b> & \"c\"", Firmware: "uefi", SecureBoot: true, OSType: "linux", OSDistro: "ubuntu", CPUs: 3, MinRAM: 512}
	got, err := Open(layOut(t, m))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if len(got.Disks) != len(disks) {
		t.Fatalf("%d disks, want %d", len(got.Disks), len(disks))
	}
	for i, d := range got.Disks {
		same(t, d.Image, disks[i])
	}
	want := m.Meta
	want.Name, want.Arch, want.DiskBus, want.NIC = "web", "x86_64", "scsi", "e1000"
	if d := cmp.Diff(want, got.Meta); d != "" {
		t.Fatal(d)
	}
	if err := got.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The tools that import OVAs are the judges.
func TestLayoutOracles(t *testing.T) {
	for _, tc := range []struct {
		bus   string
		disks []disk.Image
		want  []string // of virt-v2v
	}{
		{"", []disk.Image{small(1)}, []string{`\[scsi\]`}},
		{"ide", []disk.Image{small(1), small(2), small(3)}, []string{`\[ide\]`, `\[ide\]`, `\[ide\]`}},
		{"sata", []disk.Image{pattern{size: 512, to: 512}, small(2)}, []string{`\[sata\]`, `\[sata\]`}},
	} {
		t.Run("bus "+tc.bus, func(t *testing.T) {
			dir := t.TempDir()
			m := machine(tc.disks...)
			m.Meta = disk.Meta{DiskBus: tc.bus, Firmware: "uefi", CPUs: 4, MinRAM: 1024}
			f := layOut(t, m)
			ova := filepath.Join(dir, "web.ova")
			write(t, ova, all(t, f))

			listing := run(t, "tar", "tvf", ova)
			if n := strings.Count(listing, "\n"); n != len(tc.disks)+1 {
				t.Fatalf("tar lists\n%s", listing)
			}
			if !strings.HasPrefix(listing, "-rw-r--r-- 0/0") || !strings.Contains(listing, "1970-01-01 00:00 machine.ovf\n") {
				t.Fatalf("tar lists\n%s", listing)
			}
			for i, d := range tc.disks {
				raw := filepath.Join(dir, fmt.Sprint("raw", i))
				write(t, raw, all(t, d))
				off, size := memberRange(t, f, diskName(i))
				inner := fmt.Sprintf(`json:{"driver":"vmdk","file":{"driver":"raw","offset":%d,"size":%d,"file":{"driver":"file","filename":%q}}}`, off, size, ova)
				run(t, "qemu-img", "compare", "-f", "raw", raw, inner)
			}
			source := run(t, "virt-v2v", "--print-source", "-i", "ova", ova)
			for _, want := range []string{
				`source name: web\n`, `memory: 1073741824 \(bytes\)`, `nr vCPUs: 4`, `firmware: uefi`,
				`disks:\n\s+0 ` + strings.Join(tc.want, `\n\s+\d+ `) + `\n`, `"VM Network" \[e1000\]|Bridge "VM Network"`,
			} {
				if !regexp.MustCompile(want).MatchString(source) {
					t.Errorf("virt-v2v does not print %q:\n%s", want, source)
				}
			}
			if strings.Contains(source, "warning") {
				t.Errorf("virt-v2v warns:\n%s", source)
			}
		})
	}
}

// memberRange finds a member by our own reader.
func memberRange(t *testing.T, img disk.Image, name string) (off, size int64) {
	t.Helper()
	a, err := readArchive(img)
	if err != nil {
		t.Fatal(err)
	}
	m := a.members[a.index[name]]
	return m.off, m.size
}

// No size depends on a text, and the longest of texts fit.
func TestLayoutSizeIsFixed(t *testing.T) {
	base := layOut(t, machine(small(1)))
	for _, text := range []string{"", "x", strings.Repeat("\"", 3000), strings.Repeat("ä&\n", 9000), "\xff\x00]]>", strings.Repeat("&", 99999)} {
		m := machine(small(1))
		m.Meta = disk.Meta{Description: text, NIC: text, OSDistro: text, Firmware: text, DiskBus: text}
		f, err := Layout(m, layout.Options{Seed: []byte("seed"), Name: text})
		if err != nil {
			t.Fatal(err)
		}
		if f.Size() != base.Size() {
			t.Fatalf("size %d with a text of %d bytes, %d without", f.Size(), len(text), base.Size())
		}
		got, err := Open(f)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got.Disks[0].Image, small(1))
	}
	m := machine()
	for i := range maxWritten {
		m.Disks = append(m.Disks, disk.Disk{Image: small(uint64(i))})
	}
	m.Meta.Description = strings.Repeat("&", 99999)
	if _, err := Layout(m, layout.Options{Name: strings.Repeat("&", 9999)}); err != nil {
		t.Fatal(err)
	}
}

func TestLayoutIsDeterministic(t *testing.T) {
	a, b := layOut(t, machine(small(1), small(1))), layOut(t, machine(small(1), small(1)))
	if !bytes.Equal(all(t, a), all(t, b)) {
		t.Fatal("two layouts of the same disks differ")
	}
	off1, size := memberRange(t, a, "disk1.vmdk")
	off2, _ := memberRange(t, a, "disk2.vmdk")
	if bytes.Equal(all(t, disk.Section(a, off1, size)), all(t, disk.Section(a, off2, size))) {
		t.Fatal("two disks of equal content have the same content id")
	}
}

func TestLayoutRefuses(t *testing.T) {
	many := machine()
	for range maxWritten + 1 {
		many.Disks = append(many.Disks, disk.Disk{Image: small(1)})
	}
	for name, tc := range map[string]struct {
		m    *disk.Machine
		kind disk.Kind
	}{
		"no disk":       {machine(), disk.Invalid},
		"empty disk":    {machine(small(1), pattern{}), disk.Invalid},
		"too many":      {many, disk.Invalid},
		"over a vmdk's": {machine(pattern{size: 3 << 40}), disk.TooLarge},
	} {
		if _, err := Layout(tc.m, layout.Options{}); disk.KindOf(err) != tc.kind {
			t.Errorf("%s: kind %v of %v, want %v", name, disk.KindOf(err), err, tc.kind)
		}
	}
}

// A member over 8 GiB has a binary size, and is found and read again. Nothing of
// it is ever written anywhere.
func TestLayoutBigMember(t *testing.T) {
	big := pattern{size: 9 << 30, to: 9 << 30, key: 42}
	f := layOut(t, machine(big, small(2)))
	off, size := memberRange(t, f, "disk1.vmdk")
	if size <= maxOctalSize {
		t.Fatalf("member of %d bytes", size)
	}
	head := make([]byte, tarBlock)
	if err := disk.ReadFull(f, head, off-tarBlock); err != nil {
		t.Fatal(err)
	}
	if head[124] != 0x80 || int64(binary.BigEndian.Uint64(head[128:])) != size || !Probe(head) {
		t.Fatalf("size field % x", head[124:136])
	}
	m, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 5 << 30, 9<<30 - 4096} {
		got, want := make([]byte, 4096), make([]byte, 4096)
		if err := disk.ReadFull(m.Disks[0], got, at); err != nil {
			t.Fatal(err)
		}
		big.ReadAt(want, at)
		if !bytes.Equal(got, want) {
			t.Fatalf("content at %d differs", at)
		}
	}
	same(t, m.Disks[1].Image, small(2))

	// GNU tar follows the same headers. It skips what lies between by seeking.
	sparse := filepath.Join(t.TempDir(), "big.ova")
	w, err := os.Create(sparse)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	next := off + (size+tarBlock-1)/tarBlock*tarBlock
	for _, part := range [][2]int64{{0, off}, {next, f.Size() - next}} {
		p := make([]byte, part[1])
		if err := disk.ReadFull(f, p, part[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt(p, part[0]); err != nil {
			t.Fatal(err)
		}
	}
	listing := run(t, "tar", "tvf", sparse)
	if !strings.Contains(listing, fmt.Sprint(size)) || !strings.Contains(listing, "disk2.vmdk") {
		t.Fatalf("tar lists\n%s", listing)
	}
}

// TestDevicesKeepTheirNames: the names of disks come back, as far as they are plain.
func TestDevicesKeepTheirNames(t *testing.T) {
	names := []string{"", "vdb", "a b", "vdb", "vmdisk1", "vmdisk6", `x"/>`, strings.Repeat("d", 33), strings.Repeat("d", 32)}
	want := []string{"vmdisk1", "vdb", "vmdisk3", "vmdisk4", "vmdisk5", "vmdisk6", "vmdisk7", "vmdisk8", strings.Repeat("d", 32)}
	m := &disk.Machine{}
	for _, name := range names {
		m.Disks = append(m.Disks, disk.Disk{Image: disktest.Pattern(1<<16, nil), Device: name})
	}
	f, err := Layout(m, layout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range again.Disks {
		if d.Device != want[i] {
			t.Errorf("disk %d, %q, is called %q, want %q", i, names[i], d.Device, want[i])
		}
	}
}
