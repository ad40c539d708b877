package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// expecting makes a spool that is written under the name of b's image web.
func expecting(t *testing.T, b *bench, format string, strict bool) *Spool {
	t.Helper()
	v, certain, err := b.Existing(context.Background(), "b", "web", 0, format)
	if err != nil || v == nil || !certain {
		t.Fatalf("existing: %v, certain %v, %v", v, certain, err)
	}
	defer v.Close()
	s := newSpool(t, b)
	s.Expect(v, strict)
	return s
}

// recognised is the view that the spool equals, or nil.
func recognised(t *testing.T, s *Spool) *View {
	t.Helper()
	v, ok := s.Source()
	if !ok {
		return nil
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// noScratch fails if the spool has ever stored a byte.
func noScratch(t *testing.T, s *Spool) {
	t.Helper()
	if n := s.Scratch(); n != 0 {
		t.Errorf("the spool took %d bytes", n)
	}
}

func TestExpectTheSameDisk(t *testing.T) {
	b := newBench(t)
	b.put("b/web.raw", holes())
	for _, format := range viewFormats {
		for _, sparse := range []bool{false, true} {
			s := expecting(t, b, format, format == formatRaw)
			write(t, s, b.view("b", "web", format), 48<<10, sparse)
			v := recognised(t, s)
			if v == nil || !s.Expected(v) {
				t.Fatalf("%s sparse %v: the image that is there is not known again", format, sparse)
			}
			noScratch(t, s)
			rec, err := b.copy(CopySpec{From: v, Origin: "outside", Site: "b", Name: "web"})
			if err != nil || !rec.Unchanged || rec.Source != "outside" {
				t.Errorf("%s sparse %v: %v, %+v", format, sparse, err, rec)
			}
		}
	}
}

// TestExpectAnotherDisk: the very write that brings the first byte that differs
// fails, and tells where that is.
func TestExpectAnotherDisk(t *testing.T) {
	b := newBench(t)
	b.put("b/web.raw", holes())
	want, err := disktest.Read(holes())
	if err != nil {
		t.Fatal(err)
	}
	const step = 48 << 10
	for _, at := range []int{0, 5000, 100<<10 - 1, 100 << 10, 1<<20 + 77, 2 << 20, len(want) - 1, len(want), len(want) + step} {
		other := append(bytes.Clone(want), make([]byte, max(0, at+1-len(want)))...)
		other[at] ^= 0x80
		if other[at] == 0 {
			other[at] = 1
		}
		s := expecting(t, b, "raw", true)
		for off := 0; off < len(other); off += step {
			p := other[off:min(len(other), off+step)]
			_, err := s.WriteAt(p, int64(off))
			if off+len(p) <= at {
				if err != nil {
					t.Fatalf("byte %d differs: %v", at, err)
				}
				continue
			}
			wantKind(t, err, disk.Exists)
			if !strings.Contains(err.Error(), fmt.Sprintf("at offset %d", at)) {
				t.Errorf("byte %d differs: %v", at, err)
			}
			break
		}
		noScratch(t, s)
	}
}

// TestExpectZeros: zeros that are overwritten, or cut off, differ in nothing; those
// that stay make another disk, which the commit sees.
func TestExpectZeros(t *testing.T) {
	b := newBench(t)
	b.put("b/web.raw", holes())
	want, err := disktest.Read(holes())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		zeros disk.Extent
		after func(s *Spool) error
		same  bool
	}{
		"header written last": {disk.Extent{Len: 4096}, func(s *Spool) error { _, err := s.WriteAt(want[:4096], 0); return err }, true},
		"header left out":     {disk.Extent{Len: 4096}, func(*Spool) error { return nil }, false},
		"tail cut off":        {disk.Extent{Off: int64(len(want)), Len: 1 << 20}, func(s *Spool) error { return s.Truncate(int64(len(want))) }, true},
		"tail left":           {disk.Extent{Off: int64(len(want)), Len: 1 << 20}, func(*Spool) error { return nil }, false},
		"punched and filled":  {disk.Extent{Off: 1 << 20, Len: 4096}, func(s *Spool) error { _, err := s.WriteAt(want[1<<20:2<<20], 1<<20); return err }, true},
	} {
		s := expecting(t, b, "raw", true)
		write(t, s, disk.Bytes(want), 64<<10, false)
		if _, err := s.WriteAt(make([]byte, c.zeros.Len), c.zeros.Off); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := c.after(s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := recognised(t, s) != nil; got != c.same {
			t.Errorf("%s: the same disk %v, want %v", name, got, c.same)
		}
		noScratch(t, s)
	}
}

// TestExpectIsAFile writes at random places into a strict spool: it reads as a file
// would, or fails for a byte that really differs.
func TestExpectIsAFile(t *testing.T) {
	b := newBench(t)
	b.put("b/web.raw", holes())
	src, err := disktest.Read(holes())
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		s := expecting(t, b, "raw", true)
		var model []byte
		put := func(off int, p []byte) error {
			if end := off + len(p); end > len(model) {
				model = append(model, make([]byte, end-len(model))...)
			}
			copy(model[off:], p)
			_, err := s.WriteAt(p, int64(off))
			return err
		}
		for range 40 {
			off := rnd.IntN(len(src))
			n := rnd.IntN(min(200<<10, len(src)-off)) + 1
			var err error
			switch k := rnd.IntN(8); {
			case k < 4:
				err = put(off, src[off:off+n])
			case k < 6: // whole blocks of zeros
				err = put(off&^(placeholder-1), make([]byte, n&^(placeholder-1)+placeholder))
			case k < 7:
				if err = s.Truncate(int64(off)); off <= len(model) {
					model = model[:off:off]
				} else {
					model = append(model, make([]byte, off-len(model))...)
				}
			default:
				err = s.Discard(int64(off), int64(n))
				if end := min(off+n, len(model)); off < end {
					clear(model[off:end])
				}
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		disktest.Compare(t, s.Image(), disk.Bytes(model))
		if got, want := recognised(t, s) != nil, bytes.Equal(model, src); got != want {
			t.Errorf("seed %d: the same disk %v, want %v", seed, got, want)
		}
		noScratch(t, s)
	}
}

// TestExpectRelaxed: a spool that is not strict stores what differs.
func TestExpectRelaxed(t *testing.T) {
	b := newBench(t)
	b.put("b/web.raw", holes())
	want, err := disktest.Read(holes())
	if err != nil {
		t.Fatal(err)
	}
	for name, begin := range map[string]func() *Spool{
		"from the start": func() *Spool { return expecting(t, b, "raw", false) },
		"later":          func() *Spool { s := expecting(t, b, "raw", true); return s },
	} {
		s := begin()
		write(t, s, disk.Bytes(want), 64<<10, false)
		noScratch(t, s)
		s.Relax()
		other := bytes.Clone(want)
		other[1<<20] ^= 0xff
		if _, err := s.WriteAt(other[1<<20:1<<20+1], 1<<20); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if recognised(t, s) != nil {
			t.Errorf("%s: another disk is taken for the one that is there", name)
		}
		disktest.Compare(t, s.Image(), disk.Bytes(other))
		if s.Scratch() == 0 {
			t.Errorf("%s: nothing was stored", name)
		}
	}
}

// TestExpectBind: copy_file_range compares too, and reads nothing where it is known
// that the disks are the same.
func TestExpectBind(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.put("a/late.raw", differing(t, 2<<20+5))
	b.put("b/web.raw", holes())
	bind := func(name string) (*Spool, error) {
		s, v := expecting(t, b, "raw", true), b.view("a", name, "raw")
		return s, s.Bind(v, 0, 0, v.Size())
	}
	for _, known := range []bool{false, true} {
		before := readBytes(t, b)
		s, err := bind("web")
		if err != nil {
			t.Fatal(err)
		}
		if v := recognised(t, s); v == nil || !s.Expected(v) {
			t.Errorf("known %v: the image that is there is not known again", known)
		}
		if read := readBytes(t, b) - before; known != (read == 0) {
			t.Errorf("known %v: %v bytes were read", known, read)
		}
		s, err = bind("late")
		wantKind(t, err, disk.Exists)
		if !strings.Contains(err.Error(), fmt.Sprintf("at offset %d", 2<<20+5)) {
			t.Error(err)
		}
		noScratch(t, s)
		for _, site := range []string{"a", "b"} {
			if _, err := b.GuestDigest(context.Background(), Ref{Site: site, Entry: b.entry(site, "web"), Format: "raw"}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// differing is holes with one byte changed.
func differing(t *testing.T, at int64) disk.Image {
	t.Helper()
	p, err := disktest.Read(holes())
	if err != nil {
		t.Fatal(err)
	}
	p[at] ^= 0x55
	return disk.Bytes(p)
}

// readBytes is what was read of all providers.
func readBytes(t *testing.T, b *bench) float64 {
	t.Helper()
	var sum float64
	for _, line := range metricLines(t, b.Pipeline, "chromogenic_read_bytes_total") {
		var n float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &n); err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// TestExpectWhatGoes: an image that goes away before anything was compared with it
// is no hindrance; one that does so later is.
func TestExpectWhatGoes(t *testing.T) {
	b := newBench(t)
	want, err := disktest.Read(holes())
	if err != nil {
		t.Fatal(err)
	}
	b.put("b/web.raw", holes())
	early, late := expecting(t, b, "raw", true), expecting(t, b, "raw", true)
	if _, err := late.WriteAt(want[:4096], 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.dir, "b/web.raw")); err != nil {
		t.Fatal(err)
	}
	_, err = late.WriteAt(want[1<<20:2<<20], 1<<20)
	wantKind(t, err, disk.Stale)
	write(t, early, disk.Bytes(want), 64<<10, false)
	disktest.Compare(t, early.Image(), disk.Bytes(want))
	if early.Scratch() == 0 {
		t.Error("nothing was stored, and nothing is there that it could be compared with")
	}
}

func TestExisting(t *testing.T) {
	b := newBench(t)
	b.put("b/web.raw", holes())
	b.put("b/made.raw", holes())
	if err := os.WriteFile(filepath.Join(b.dir, "b/made.json"), []byte(`{"schema":1,"properties":{"chromogenic_source_digest":"00"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.put("b/two.raw", holes())
	b.put("b/two.qcow2", b.view("b", "web", "qcow2"))
	b.put("b/broken.qcow2", disk.Bytes([]byte("QFI\xfb, and nothing more")))
	for name, want := range map[string][2]bool{"web": {true, true}, "made": {true, false}, "two": {}, "none": {}, "broken": {}} {
		v, certain, err := b.Existing(context.Background(), "b", name, 0, "raw")
		if err != nil || (v != nil) != want[0] || certain != want[1] {
			t.Errorf("%s: %v, certain %v, %v", name, v, certain, err)
		}
		if v != nil {
			v.Close()
		}
	}
}

// TestCopyLosesTheRace: of two writers of one name the one that comes later has
// either nothing to do, or fails, and leaves nothing.
func TestCopyLosesTheRace(t *testing.T) {
	for name, c := range map[string]struct {
		winner disk.Image
		same   bool
	}{"same disk": {holes(), true}, "another": {differing(t, 3), false}, "another at the end": {differing(t, 3<<20+511), false}} {
		b := newBench(t)
		b.put("a/web.raw", holes())
		rec, err := b.copy(CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web", Progress: func(p Progress) {
			if p.Stage == stageVerify && p.Total == 0 {
				b.put("b/web.raw", c.winner)
			}
		}})
		if c.same {
			if err != nil || !rec.Unchanged || rec.Entry == nil {
				t.Errorf("%s: %v, %+v", name, err, rec)
			}
		} else {
			wantKind(t, err, disk.Exists)
		}
		if got := b.files("b"); len(got) != 1 {
			t.Errorf("%s: the folder holds %q", name, got)
		}
		disktest.Compare(t, b.view("b", "web", "raw"), c.winner)
	}
}
