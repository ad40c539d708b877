package vmdk

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// tool returns the path of a program that serves as an oracle. Without it the
// test is skipped, except in CI, where it fails.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("SKIPPED WITHOUT AN ORACLE: %s is not installed", name)
	}
	return path
}

// run runs a program in dir and returns what it printed.
func run(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tool(t, name), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// folder opens the files of dir, as a local provider does.
func folder(dir string) disk.Resolver {
	return func(name string) (disk.Image, error) {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		return disk.OpenFile(f)
	}
}

// memory resolves names to bytes.
func memory(files map[string][]byte) disk.Resolver {
	return func(name string) (disk.Image, error) {
		p, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("open %q: %w", name, fs.ErrNotExist)
		}
		return disk.Bytes(p), nil
	}
}

// openFile opens a file as an image, closed when the test ends.
func openFile(t testing.TB, path string) disk.Image {
	t.Helper()
	img, err := folder(filepath.Dir(path))(filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// openDisk opens the one disk of a VMDK.
func openDisk(t testing.TB, img disk.Image, resolve disk.Resolver) disk.Disk {
	t.Helper()
	m, err := Open(img, resolve)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { m.Close() })
	if len(m.Disks) != 1 {
		t.Fatalf("%d disks", len(m.Disks))
	}
	return m.Disks[0]
}

// writeImage writes img to a new sparse file.
func writeImage(t testing.TB, img disk.Image, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for e, err := range disk.Extents(img) {
		if err != nil {
			t.Fatal(err)
		}
		for off := e.Off; !e.Zero && off < e.End(); {
			p := buf[:min(int64(len(buf)), e.End()-off)]
			if err := disk.ReadFull(img, p, off); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
			off += int64(len(p))
		}
	}
	if err := f.Truncate(img.Size()); err != nil {
		t.Fatal(err)
	}
}

// noise is an image that no compressor makes smaller: every byte is a function
// of its offset.
type noise struct{ disk.Image }

func (n noise) ReadAt(p []byte, off int64) (int, error) {
	done, err := n.Image.ReadAt(p, off)
	for i := range p[:done] {
		x := uint64(off+int64(i)) * 0x9e3779b97f4a7c15
		p[i] = byte((x ^ x>>29) * 0xbf58476d1ce4e5b9 >> 56)
	}
	return done, err
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// sample is a raw disk that the tables of tests convert.
type sample struct {
	name string
	disk disk.Image
}

// samples are the disks that every pair of reader and writer must carry.
func samples() []sample {
	run := func(off, n int64) disk.Extent { return disk.Extent{Off: off, Len: n} }
	sparse := int64(3*gib + 512)
	return []sample{
		{"one sector", disktest.Pattern(512, nil)},
		{"one sector over a grain", disktest.Pattern(64*kib+512, nil)},
		{"zero", disktest.Runs(5 * mib)},
		{"dense", noise{disktest.Pattern(9*mib+1024, nil)}},
		{"every other block", disktest.Pattern(70*mib, func(b int64) bool { return b%2 == 0 })},
		{"sparse", disktest.Runs(sparse, run(0, 4096), run(65*kib, 200*kib), run(gib-7*kib, 14*kib), run(2*gib-kib, 90*kib), run(sparse-512, 512))},
	}
}

func TestProbe(t *testing.T) {
	for head, want := range map[string]bool{
		"KDMV\x01\x00\x00\x00":                             true,
		"COWD\x01\x00\x00\x00":                             true,
		"# Disk DescriptorFile\nversion=1\n":               true,
		"\xef\xbb\xbf# Disk DescriptorFile\r\n":            true,
		"\n  #disk descriptorfile\n":                       true,
		"# comment\n# Disk DescriptorFile\n":               true,
		"version=1\nCID=0\ncreateType=\"vmfs\"":            true,
		"version=1\nname=something else\n":                 false,
		"kdmv\x01\x00\x00\x00":                             false, // open-vmdk's unfinished file
		"QFI\xfb":                                          false,
		"":                                                 false,
		"#!/bin/sh\nversion=1\necho # Disk DescriptorFile": false,
	} {
		if got := Probe([]byte(head)); got != want {
			t.Errorf("Probe(%q) is %v", head, got)
		}
	}
}

// randomReads compares many reads of odd ranges, of a disk of all kinds of
// grains, with its content.
func randomReads(t *testing.T, got, want disk.Image, n int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(7, 11))
	size := want.Size()
	a, b := make([]byte, 300*kib), make([]byte, 300*kib)
	for range n {
		off := rnd.Int64N(size)
		p := a[:min(size-off, 1+rnd.Int64N(1<<(1+rnd.IntN(18))))]
		q := b[:len(p)]
		if err := disk.ReadFull(want, q, off); err != nil {
			t.Fatal(err)
		}
		if k, err := got.ReadAt(p, off); k != len(p) || err != nil && off+int64(k) < size {
			t.Fatalf("read %d at %d: %d, %v", len(p), off, k, err)
		}
		if string(p) != string(q) {
			t.Fatalf("read %d at %d: wrong bytes", len(p), off)
		}
	}
}
