package formattest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// A Disk is a raw file to be wrapped.
type Disk struct {
	Name string
	Path string
	Size int64 // bytes
}

// cluster is the cluster of qcow2 files and the grain of VMDKs, in bytes.
const cluster = 64 << 10

// Disks makes the disks below dir. What has a filesystem needs mkfs.ext4, mkfs.xfs,
// sgdisk and sfdisk.
func Disks(t testing.TB, dir string) []Disk {
	t.Helper()
	var disks []Disk
	add := func(name string, img disk.Image) {
		path := filepath.Join(dir, name)
		WriteFile(t, path, img)
		disks = append(disks, Disk{name, path, img.Size()})
	}
	disks = append(disks, gpt(t, dir), mbr(t, dir))
	add("dense", random(7<<20+512))
	add("sparse", disktest.Pattern(80<<20, func(b int64) bool { return b%37 == 5 || b == 1279 }))
	add("zeros", disk.Bytes(make([]byte, 2<<20))) // allocated, as a copy without --sparse leaves it
	add("hole", disktest.Runs(16<<20))
	add("sector", disktest.Pattern(512, nil))
	add("cluster-and-sector", disktest.Pattern(cluster+512, nil))
	const large = 3<<30 + 512
	add("3GiB", disktest.Runs(large, disk.Extent{Len: 1}, disk.Extent{Off: 1<<31 - 100, Len: 5000}, disk.Extent{Off: large - 512, Len: 512}))
	add("odd", random(3*cluster+101)) // no whole number of sectors
	return disks
}

// random is a disk of noise, the same in each run.
func random(n int) disk.Image {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(p)
	return disk.Bytes(p)
}

// gpt makes a disk with a GUID partition table and ext4 with files in it.
func gpt(t testing.TB, dir string) Disk {
	t.Helper()
	const size, start = 40 << 20, 1 << 20
	path := filepath.Join(dir, "gpt-ext4")
	WriteFile(t, path, disktest.Runs(size))
	Run(t, "sgdisk", "-n", "1:2048:0", "-c", "1:root", path)
	Run(t, "mkfs.ext4", "-q", "-F", "-d", tree(t, dir), "-E", fmt.Sprintf("offset=%d", start), path, "38M")
	return Disk{"gpt-ext4", path, size}
}

// mbr makes a disk with a master boot record and xfs with files in it.
func mbr(t testing.TB, dir string) Disk {
	t.Helper()
	const size, start = 302 << 20, 1 << 20 // mkfs.xfs makes nothing below 300 MiB
	path := filepath.Join(dir, "mbr-xfs")
	WriteFile(t, path, disktest.Runs(size))
	Need(t, "sfdisk")
	cmd := exec.Command("sfdisk", "-q", path)
	cmd.Stdin = strings.NewReader("label: dos\nstart=2048, type=83, bootable\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	proto, fs := filepath.Join(dir, "proto"), filepath.Join(dir, "xfs")
	text := fmt.Sprintf("/\n0 0\nd--755 0 0\nnoise ---644 0 0 %s\nsh ---755 0 0 /bin/sh\n$\n", filepath.Join(tree(t, dir), "noise"))
	if err := os.WriteFile(proto, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	Run(t, "mkfs.xfs", "-q", "-p", proto, "-d", "file,size=300m,name="+fs)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := disk.Copy(t.Context(), io.NewOffsetWriter(f, start), OpenFile(t, fs), disk.CopyOptions{SkipZeros: true}); err != nil {
		t.Fatal(err)
	}
	return Disk{"mbr-xfs", path, size}
}

// tree is a folder of real files: a program, noise, a symlink, a sparse file.
func tree(t testing.TB, dir string) string {
	t.Helper()
	root := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	sh, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "sh"), sh, 0o755); err != nil {
		t.Fatal(err)
	}
	WriteFile(t, filepath.Join(root, "noise"), random(1<<20))
	WriteFile(t, filepath.Join(root, "sparse"), disktest.Runs(9<<20, disk.Extent{Off: 5 << 20, Len: 4096}))
	if err := os.Symlink("bin/sh", filepath.Join(root, "link")); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	return root
}
