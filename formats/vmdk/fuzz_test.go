package vmdk

import (
	"io"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// FuzzOpen opens any bytes and reads what opens. Nothing may panic, hang, or take
// memory beyond what the file is worth; extents must be gapless.
func FuzzOpen(f *testing.F) {
	small := spec{size: 4 * kib, grain: 1, entries: 4, textLen: 1}
	for _, s := range []spec{
		small,
		{size: 4 * kib, grain: 1, entries: 4, textLen: 1, kind: marked, atEnd: true},
		{size: 4 * kib, grain: 1, entries: 4, textLen: 1, kind: marked},
		{size: 4 * kib, grain: 1, entries: 4, textLen: 1, kind: counted},
		{size: 4 * kib, grain: 1, entries: 4, textLen: 1, kind: bare, redundant: true},
		{size: 4 * kib, grain: 1, entries: 4, textLen: 1, zeroed: func(g int64) bool { return g%4 == 0 }, edit: func(h *header) { h.version, h.flags = 2, h.flags|flagZeroGrain }},
		{size: 3*kib + 512, grain: 4, entries: 2, textLen: 1, clipLast: true},
	} {
		f.Add(s.build())
	}
	f.Add(cowd(64, 0, func(g int64) bool { return g%3 == 0 }))
	f.Add([]byte(text("custom", `RW 8 FLAT "flat" 1`, `RW 8 SPARSE "sparse"`, "RW 9 ZERO", `RW 64 VMFSSPARSE "cowd"`)))
	files := memory(map[string][]byte{
		"flat": make([]byte, 8192), "sparse": small.build(), "cowd": cowd(64, 0, func(g int64) bool { return g%3 == 0 }),
	})
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		m, err := Open(disk.Bytes(p), files)
		if err != nil {
			if k := disk.KindOf(err); k != disk.Malformed && k != disk.Unsupported && k != disk.TooLarge {
				t.Errorf("%v of kind %v", err, k)
			}
			return
		}
		defer m.Close()
		d := m.Disks[0]
		buf := make([]byte, 16*kib)
		var at int64
		for runs := 0; at < d.Size() && runs < 100; runs++ {
			e, err := d.Extent(at, d.Size()-at)
			if err != nil || e.Off != at || e.Len < 1 {
				t.Fatalf("extent at %d: %+v, %v", at, e, err)
			}
			for _, off := range []int64{e.Off, max(e.Off, e.End()-int64(len(buf)))} {
				n, err := d.ReadAt(buf, off)
				if err == nil && n < len(buf) || err == io.EOF && off+int64(n) != d.Size() {
					t.Fatalf("read at %d: %d, %v", off, n, err)
				}
				for _, b := range buf[:min(int64(n), e.End()-off)] {
					if e.Zero && b != 0 {
						t.Fatalf("data in the hole %+v", e)
					}
				}
			}
			at = e.End()
		}
	})
}

// FuzzDescriptor parses any text; names that pass must be plain.
func FuzzDescriptor(f *testing.F) {
	f.Add(text("monolithicSparse", `RW 10240 SPARSE "x.vmdk"`))
	f.Add(text("custom", `RW 8 FLAT "a b" 1`, "RDONLY 1 ZERO", "NOACCESS 1 ZERO", `rw	4	vmfs x 7`))
	f.Add("version=1\r\nencoding=\"windows-1252\"\r\nCID=1\r\nparentCID=12345678\r\nparentFileNameHint=\"x\"\r\n")
	f.Add(`RW 1 FLAT "../../etc/passwd" 0`)
	f.Fuzz(func(t *testing.T, s string) {
		disktest.Within(t)
		d, err := parseDescriptor([]byte(s))
		if err != nil {
			return
		}
		for _, e := range d.extents {
			if e.sectors < 1 || e.offsetSectors < 0 {
				t.Errorf("extent %+v", e)
			}
		}
		m, err := openExtents(disk.Bytes([]byte(s)), d, func(name string) (disk.Image, error) {
			for _, r := range name {
				if r == '/' || r == '\\' || r == 0 {
					t.Errorf("asked for %q", name)
				}
			}
			if name == "" || name == "." || name == ".." {
				t.Errorf("asked for %q", name)
			}
			return disk.Bytes(make([]byte, 100)), nil
		})
		if err == nil {
			m.Close()
		}
	})
}
