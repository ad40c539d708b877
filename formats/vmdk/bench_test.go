package vmdk

import (
	"fmt"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

const benchSize = 64 * mib

// utilised is a disk of which so many per cent are data.
func utilised(percent int64) disk.Image {
	return disktest.Pattern(benchSize, func(b int64) bool { return b*percent/100 != (b+1)*percent/100 })
}

func readAll(b *testing.B, img disk.Image) {
	buf := make([]byte, mib)
	b.SetBytes(img.Size())
	b.ResetTimer()
	for range b.N {
		for off := int64(0); off < img.Size(); off += int64(len(buf)) {
			if err := disk.ReadFull(img, buf, off); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkLayout(b *testing.B) {
	for _, percent := range []int64{0, 50, 100} {
		b.Run(fmt.Sprintf("%d%%", percent), func(b *testing.B) {
			f := layOut(b, utilised(percent), "")
			p, err := disktest.Read(utilised(percent))
			if err != nil {
				b.Fatal(err)
			}
			if percent == 100 {
				f = layOut(b, disk.Bytes(p), "")
			}
			readAll(b, f)
		})
	}
}

func BenchmarkReader(b *testing.B) {
	for name, kind := range map[string]int{"sparse": plain, "stream": marked} {
		for _, percent := range []int64{0, 50, 100} {
			b.Run(fmt.Sprintf("%s/%d%%", name, percent), func(b *testing.B) {
				s := spec{size: benchSize, kind: kind, data: func(g int64) bool { return g*percent/100 != (g+1)*percent/100 }}
				readAll(b, openDisk(b, disk.Bytes(s.build()), nil))
			})
		}
	}
}

// BenchmarkOpen opens a layout of 1 TiB, whose tables are all walked.
func BenchmarkOpen(b *testing.B) {
	for _, percent := range []int64{0, 50, 100} {
		b.Run(fmt.Sprintf("%d%%", percent), func(b *testing.B) {
			src := disktest.Runs(1<<40, disk.Extent{Len: percent * (1 << 40) / 100})
			f := layOut(b, src, "")
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				m, err := Open(f, nil)
				if err != nil {
					b.Fatal(err)
				}
				m.Close()
			}
		})
	}
}
