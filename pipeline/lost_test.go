package pipeline

import (
	"bytes"
	"errors"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// TestLostReads writes what a program has made of a source that it could not read in one
// place, and has put zeros there: no image comes of it. Zeros that somebody else writes
// there are his own.
func TestLostReads(t *testing.T) {
	const n = 64 << 10
	content, err := disktest.Read(disktest.Pattern(3<<20, func(int64) bool { return true }))
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		gap    int64
		failed bool
	}{"could not be read": {1 << 20, true}, "could": {1 << 20, false}, "could not, from its beginning": {0, true}, "could, from its beginning": {0, false}} {
		t.Run(name, func(t *testing.T) {
			gap, failed := x.gap, x.failed
			holed := bytes.Clone(content)
			clear(holed[gap : gap+n])
			b := newBench(t)
			b.put("a/web.raw", disk.Bytes(content))
			v := b.view("a", "web", "raw")
			if failed {
				v.lost.note(gap, n, disk.Errorf(disk.Denied, "read image: 401"))
			}
			s := newSpool(t, b)
			write(t, s, disk.Bytes(holed), 32<<10, false)
			_, err := b.copy(CopySpec{Image: s.Image(), Format: "raw", Site: "b", Name: "web"})
			if failed {
				wantKind(t, err, disk.Denied)
				if got := b.files("b"); len(got) > 0 {
					t.Errorf("there are %v", got)
				}
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLostReadsAreNoted reads a view whose source fails.
func TestLostReadsAreNoted(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	v := b.view("a", "web", "raw")
	v.image = disktest.Faulty(v.image, disktest.Faults{Range: disk.Extent{Off: 4096, Len: 1}, Err: errors.New("bad sector")})
	p := make([]byte, 8192)
	if _, err := v.ReadAt(p, 0); err == nil {
		t.Fatal("the read has not failed")
	}
	if v.lost.under(make([]byte, 100), 5000) == nil || v.lost.under(make([]byte, 100), 9000) != nil || v.lost.under([]byte{1}, 5000) != nil {
		t.Errorf("noted is %+v", v.lost.reads)
	}
}
