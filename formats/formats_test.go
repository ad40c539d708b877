package formats_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats"
	"chromogenic/formats/formattest"
	"chromogenic/formats/layout"
)

// Every reader × every writer on every disk.
func TestMatrix(t *testing.T) {
	dir := t.TempDir()
	for _, d := range formattest.Disks(t, dir) {
		t.Run(d.Name, func(t *testing.T) { formattest.Matrix(t, d) })
	}
}

// Other programs than qemu read a partitioned disk in our containers.
func TestIndependentReaders(t *testing.T) {
	dir := t.TempDir()
	d := formattest.Disks(t, dir)[0]
	m := machine(formattest.OpenFile(t, d.Path))
	path := func(format string) string {
		p := filepath.Join(dir, "web."+format)
		formattest.WriteFile(t, p, formattest.LayOut(t, format, m))
		return p
	}
	for _, tc := range []struct {
		tool string
		args []string
		want []string
	}{
		{"vmdkinfo", []string{path("vmdk")}, []string{"Disk type:\t\t\tStream optimized", fmt.Sprintf("(%d bytes)", d.Size)}},
		{"qcowinfo", []string{path("qcow2")}, []string{"Format version\t\t: 3", fmt.Sprintf("(%d bytes)", d.Size)}},
		{"virt-v2v", []string{"--print-source", "-i", "ova", path("ova")}, []string{"source name: test", "[scsi]"}},
		{"tar", []string{"tvf", path("ova")}, []string{"machine.ovf", "disk1.vmdk"}},
	} {
		t.Run(tc.tool, func(t *testing.T) {
			out := formattest.Run(t, tc.tool, tc.args...)
			for _, want := range tc.want {
				if !strings.Contains(out, want) {
					t.Errorf("%s does not print %q:\n%s", tc.tool, want, out)
				}
			}
		})
	}
}

func machine(imgs ...disk.Image) *disk.Machine {
	m := &disk.Machine{}
	for _, img := range imgs {
		m.Disks = append(m.Disks, disk.Disk{Image: img})
	}
	return m
}

// A disk of no bytes is a disk in raw and qcow2 and Invalid elsewhere; a machine
// without a disk is Invalid everywhere.
func TestSizeZero(t *testing.T) {
	for _, row := range formats.Table() {
		if row.Layout == nil {
			continue
		}
		if _, err := row.Layout(machine(), layout.Options{}); disk.KindOf(err) != disk.Invalid {
			t.Errorf("%s: no disk: %v", row.Name, err)
		}
		f, err := row.Layout(machine(disk.Bytes(nil)), layout.Options{})
		switch row.Name {
		case "raw", "qcow2":
			if err != nil {
				t.Errorf("%s: %v", row.Name, err)
				continue
			}
			p, err := disktest.Read(f)
			if err != nil {
				t.Fatal(err)
			}
			m, err := row.Open(disk.Bytes(p), formats.OpenOptions{})
			if err != nil || m.Disks[0].Size() != 0 {
				t.Errorf("%s: opened as %v, %v", row.Name, m, err)
			}
		default:
			if disk.KindOf(err) != disk.Invalid {
				t.Errorf("%s: %v", row.Name, err)
			}
		}
	}
}

// A raw disk stays as long as it is; every other format fills up the last sector
// with zeros.
func TestPadding(t *testing.T) {
	for _, size := range []int64{1, 511, 512, 513, 65535, 65537} {
		img := disktest.Pattern(size, nil)
		for _, format := range []string{"raw", "qcow2", "vmdk", "ova"} {
			want := (size + 511) / 512 * 512
			if format == "raw" {
				want = size
			}
			p, err := disktest.Read(formattest.LayOut(t, format, machine(img)))
			if err != nil {
				t.Fatal(err)
			}
			row, _ := formats.ByName(format)
			m, err := row.Open(disk.Bytes(p), formats.OpenOptions{})
			if err != nil {
				t.Fatalf("%s of %d bytes: %v", format, size, err)
			}
			got, err := disktest.Read(m.Disks[0])
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(got)) != want {
				t.Errorf("%s of %d bytes reads as %d bytes", format, size, len(got))
			}
			whole := make([]byte, want)
			disktest.Fill(whole[:size], 0)
			if string(got) != string(whole) {
				t.Errorf("%s of %d bytes reads as other bytes", format, size)
			}
		}
	}
}

// A format's limit is an error before any work.
func TestMaxSize(t *testing.T) {
	for _, row := range formats.Table() {
		if row.Layout == nil || row.MaxSize == 0 {
			continue
		}
		if _, err := row.Layout(machine(disktest.Runs(row.MaxSize+512)), layout.Options{}); disk.KindOf(err) != disk.TooLarge {
			t.Errorf("%s of %d bytes: %v", row.Name, row.MaxSize+512, err)
		}
		if _, err := row.Layout(machine(disktest.Runs(row.MaxSize)), layout.Options{}); err != nil {
			t.Errorf("%s of %d bytes: %v", row.Name, row.MaxSize, err)
		}
	}
}

func TestByExt(t *testing.T) {
	for file, want := range map[string]string{
		"a.qcow2": "qcow2 a", "a.VMDK": "vmdk a", "a.b.ova": "ova a.b", "a.Ovf": "ovf a", "a.raw": "raw a", "a.img": "raw a", ".raw": "raw ",
		"a": "", "a.": "", "a.txt": "", "qcow2": "", "": "", "a.qcow2 ": "", "a.raw.gz": "",
	} {
		f, stem, ok := formats.ByExt(file)
		got := ""
		if ok {
			got = f.Name + " " + stem
		} else if stem != file {
			t.Errorf("%q: stem %q of an unknown extension", file, stem)
		}
		if got != want {
			t.Errorf("%q is %q, want %q", file, got, want)
		}
	}
}

func TestByName(t *testing.T) {
	for _, row := range formats.Table() {
		got, ok := formats.ByName(row.Name)
		if !ok || got.Name != row.Name || len(got.Exts) == 0 || got.Open == nil {
			t.Errorf("%q: %+v, %v", row.Name, got, ok)
		}
	}
	if _, ok := formats.ByName("vhdx9"); ok {
		t.Error("found a format that is none")
	}
	if last := formats.Table()[len(formats.Table())-1]; last.Name != "raw" || last.Probe != nil {
		t.Errorf("the last row is %q", last.Name)
	}
}

// What has no magic is raw, however short; a read that fails is an error.
func TestDetect(t *testing.T) {
	ovf := []byte(`<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"/>`)
	for name, tc := range map[string]struct {
		head []byte
		want string
	}{
		"nothing": {nil, "raw"}, "a byte": {[]byte("Q"), "raw"}, "zeros": {make([]byte, 4096), "raw"},
		"qcow2": {[]byte("QFI\xfb\x00\x00\x00\x03"), "qcow2"}, "sparse vmdk": {[]byte("KDMV\x01\x00\x00\x00"), "vmdk"},
		"descriptor": {[]byte("# Disk DescriptorFile\nversion=1\n"), "vmdk"}, "ovf": {ovf, "ovf"}, "a page": {[]byte("<html></html>"), "raw"},
		"a boot sector": {append(make([]byte, 510), 0x55, 0xaa), "raw"},
	} {
		row, err := formats.Detect(disk.Bytes(tc.head))
		if err != nil || row.Name != tc.want {
			t.Errorf("%s: %q, %v; want %q", name, row.Name, err, tc.want)
		}
	}
	if _, err := formats.Detect(disktest.Faulty(disk.Bytes(ovf), disktest.Faults{Err: os.ErrPermission})); disk.KindOf(err) != disk.Denied {
		t.Errorf("unreadable: %v", err)
	}
}
