package qcow2

import (
	"runtime"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// FuzzOpen opens any bytes as an image, walks its extents and reads a little of
// each. Whatever they are, that ends soon and takes little memory.
func FuzzOpen(f *testing.F) {
	f.Add(craft())
	f.Add(craft(set32(4, 2)))
	f.Add(craft(pack(512)))
	f.Add(craft(pack(512), set64(craftL2+8, 0))[:craftData+50])
	f.Add(craft(set64(24, 64<<10), set32(36, 2)))
	f.Add(craft(set64(craftL2+16, bitZero)))
	f.Add(craft(set64(72, 1<<40), set32(112, extensionFeatureNames), set32(116, featureNameSize)))
	f.Add(craft(set64(72, uint64(featureCompression)), pack(512), func(p []byte) {
		p[compressionOff] = compressionZstd
		copy(p[craftData:], "\x28\xb5\x2f\xfd\x00\x58\x03\x10\x00x")
	}))
	f.Add(craftExtended(4<<14, 0xf0f0_0f0f))
	backing := disk.Bytes([]byte("backing"))
	f.Fuzz(func(t *testing.T, file []byte) {
		disktest.Within(t)
		start := time.Now()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for _, b := range []disk.Image{nil, backing} {
			if m, err := Open(disk.Bytes(file), b); err == nil {
				explore(t, m.Disks[0])
			}
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 192<<20 {
			t.Errorf("%d bytes were allocated for a file of %d", n, len(file))
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// explore walks the first extents of img and reads at their ends.
func explore(t *testing.T, img disk.Image) {
	runs, end := 0, int64(0)
	p := make([]byte, 600)
	for e, err := range disk.Extents(img) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Off != end || e.Len < 1 || e.End() > img.Size() {
			t.Fatalf("extent %+v behind %d of %d", e, end, img.Size())
		}
		end = e.End()
		if runs++; runs > 20 {
			return
		}
		for _, off := range []int64{e.Off, max(0, end-int64(len(p)))} {
			if n, err := img.ReadAt(p, off); n == 0 && err == nil {
				t.Fatalf("read of nothing at %d", off)
			}
		}
	}
}
