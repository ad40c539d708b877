package qcow2

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

const benchSize = 64 << 20

// benchDisk is a disk of benchSize bytes of text, of which percent in a hundred
// 1 MiB pieces are data.
func benchDisk(b *testing.B, percent int) disk.Image {
	b.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, benchSize)
	for piece := 0; piece < benchSize; piece += 1 << 20 {
		if piece>>20*50%100 >= percent {
			continue
		}
		for i := range p[piece : piece+1<<20] {
			p[piece+i] = "etaoin shrdlu"[rnd.IntN(13)]
		}
	}
	return disk.Bytes(p)
}

// readAll reads img in pieces of 1 MiB, again and again.
func readAll(b *testing.B, open func() disk.Image) {
	p := make([]byte, 1<<20)
	b.SetBytes(benchSize)
	for b.Loop() {
		img := open()
		for off := int64(0); off < img.Size(); off += int64(len(p)) {
			if err := disk.ReadFull(img, p[:min(int64(len(p)), img.Size()-off)], off); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkRead reads the disk of a file in the page cache in order; each pass
// opens it anew.
func BenchmarkRead(b *testing.B) {
	need(b, "qemu-img")
	for _, percent := range []int{0, 50, 100} {
		dir := b.TempDir()
		materialise(b, benchDisk(b, percent), filepath.Join(dir, "x.raw"))
		for name, options := range map[string]string{"plain": "", "zlib": "-c", "zstd": "-c -o compression_type=zstd"} {
			b.Run(fmt.Sprintf("%s/%d%%", name, percent), func(b *testing.B) {
				shell(b, dir, "qemu-img convert -f raw -O qcow2 "+options+" x.raw x.qcow2")
				file := openFile(b, filepath.Join(dir, "x.qcow2"))
				readAll(b, func() disk.Image {
					m, err := Open(file, nil)
					if err != nil {
						b.Fatal(err)
					}
					return m.Disks[0]
				})
			})
		}
	}
}

// BenchmarkRandomRead reads 4 KiB at random places.
func BenchmarkRandomRead(b *testing.B) {
	need(b, "qemu-img")
	dir := b.TempDir()
	materialise(b, benchDisk(b, 100), filepath.Join(dir, "x.raw"))
	for name, options := range map[string]string{"plain": "", "zlib": "-c", "zstd": "-c -o compression_type=zstd"} {
		b.Run(name, func(b *testing.B) {
			shell(b, dir, "qemu-img convert -f raw -O qcow2 "+options+" x.raw x.qcow2")
			img := openDisk(b, filepath.Join(dir, "x.qcow2"))
			rnd := rand.New(rand.NewPCG(1, 2))
			p := make([]byte, 4096)
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				if _, err := img.ReadAt(p, rnd.Int64N(img.Size()/4096)*4096); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLayout reads a file that is laid out, in order.
func BenchmarkLayout(b *testing.B) {
	for _, percent := range []int{0, 50, 100} {
		b.Run(fmt.Sprintf("%d%%", percent), func(b *testing.B) {
			src := disktest.Pattern(benchSize, func(block int64) bool { return block%2*50 < int64(percent) })
			f := lay(b, src)
			readAll(b, func() disk.Image { return f })
		})
	}
}

// BenchmarkOpen opens disks of 1 TiB from a sparse file whose tables are all
// there: what ls of a large image costs.
func BenchmarkOpen(b *testing.B) {
	for name, data := range map[string]func(int64) bool{
		"sparse": func(block int64) bool { return block%(1<<20) == 0 },
		"full":   func(int64) bool { return true },
	} {
		b.Run(name, func(b *testing.B) {
			src := lay(b, disktest.Pattern(1<<40, data))
			file := tablesOf(b, src, filepath.Join(b.TempDir(), "x.qcow2"))
			b.ReportAllocs()
			for b.Loop() {
				m, err := Open(file, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := disk.Allocated(m.Disks[0].Image); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// tablesOf writes all of a laid out file but its clusters, which become a hole.
func tablesOf(b *testing.B, f disk.Image, name string) disk.Image {
	b.Helper()
	h, err := readHeader(f)
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 1<<20)
	end := int64(h.l1Offset) + 2<<16 + 2048<<16 // L1 and L2 tables of at most 1 TiB
	out, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	for off := int64(0); off < min(end, f.Size()); off += int64(len(p)) {
		if err := disk.ReadFull(f, p, off); err != nil {
			b.Fatal(err)
		}
		if _, err := out.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
	}
	if err := out.Truncate(f.Size()); err != nil {
		b.Fatal(err)
	}
	return openFile(b, name)
}
