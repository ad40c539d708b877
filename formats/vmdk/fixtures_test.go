package vmdk

import (
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk/disktest"
)

// TestQemuImages reads what qemu-img writes, with every option of its vmdk
// driver that changes the file.
func TestQemuImages(t *testing.T) {
	options := []string{
		"subformat=monolithicSparse",
		"subformat=monolithicSparse,zeroed_grain=on",
		"subformat=monolithicSparse,adapter_type=lsilogic,hwversion=14",
		"subformat=monolithicSparse,compat6=on,adapter_type=buslogic",
		"subformat=monolithicSparse,toolsversion=10341,adapter_type=legacyESX",
		"subformat=monolithicFlat",
		"subformat=twoGbMaxExtentSparse",
		"subformat=twoGbMaxExtentSparse,zeroed_grain=on",
		"subformat=twoGbMaxExtentFlat",
		"subformat=streamOptimized",
	}
	for _, s := range samples() {
		dir := t.TempDir()
		raw := filepath.Join(dir, "disk.raw")
		writeImage(t, s.disk, raw)
		for i, o := range options {
			if s.name != "sparse" && s.name != "one sector over a grain" && i != 0 && i < len(options)-2 && i != 6 {
				continue // the rarer options with two of the disks
			}
			t.Run(s.name+"/"+strings.ReplaceAll(o, "subformat=", ""), func(t *testing.T) {
				dir := t.TempDir()
				run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", o, raw, "disk.vmdk")
				img := openFile(t, filepath.Join(dir, "disk.vmdk"))
				disktest.Suite(t, openDisk(t, img, folder(dir)), s.disk)
			})
		}
	}
}

// TestQemuZeroedGrains reads grains that were written as zeros over data, which
// are entries of 1 with zeroed_grain (VDF, zeroed-grain table entry).
func TestQemuZeroedGrains(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.vmdk")
	run(t, dir, "qemu-img", "create", "-f", "vmdk", "-o", "zeroed_grain=on", path, "10M")
	run(t, dir, "qemu-io", "-f", "vmdk", "-c", "write -P 0x5a 0 1M", "-c", "write -z 128k 256k", path)
	run(t, dir, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, "disk.raw")
	d := openDisk(t, openFile(t, path), nil)
	e, err := d.Extent(128*kib, mib)
	if err != nil || !e.Zero || e.Len != 256*kib {
		t.Errorf("extent %+v, %v", e, err)
	}
	disktest.Suite(t, d, openFile(t, filepath.Join(dir, "disk.raw")))
}
