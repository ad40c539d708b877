package bundle

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha1"
	"errors"
	"math/rand/v2"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers/internal/crypt"
)

// noise is n bytes that do not compress.
func noise(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}

// disks are what is bundled: sizes in no multiple of anything, holes, and more than
// one part.
func disks() map[string]disk.Image {
	mixed := noise(14 << 20)
	clear(mixed[3<<20 : 5<<20])
	clear(mixed[13<<20:])
	return map[string]disk.Image{
		"one byte":   disk.Bytes([]byte("x")),
		"one chunk":  disktest.Pattern(chunkSize, nil),
		"odd":        disktest.Runs(3*chunkSize+777, disk.Extent{Off: 5000, Len: 700}, disk.Extent{Off: chunkSize + 100_000, Len: chunkSize}),
		"a hole":     disktest.Runs(8*chunkSize + 512),
		"holes":      disktest.Pattern(9*chunkSize+100, func(b int64) bool { return b%48 < 20 }),
		"many parts": disk.Bytes(mixed),
	}
}

func TestBundleAndBack(t *testing.T) {
	for name, img := range disks() {
		t.Run(name, func(t *testing.T) {
			b := bundleOf(t, img, true)
			want := content(t, img)
			if !bytes.Equal(b.unbundle(t), want) {
				t.Error("the disk is not what was bundled")
			}
			back, err := Open(t.Context(), b.m, b.secret, b.index, b.parts.fetch)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content(t, back), want) {
				t.Error("the disk is not what was bundled, read by the index")
			}
			if name == "odd" { // every read inflates a MiB
				disktest.Suite(t, back, disk.Bytes(want))
			}
		})
	}
}

// What the sink is told is true, and the last part is not full.
func TestWritten(t *testing.T) {
	parts := 0
	var sum int64
	img := disk.Bytes(noise(11 << 20))
	s := crypt.AES128CBC{}.NewSecret()
	m, index, err := Bundle(t.Context(), img, Spec{Name: "a", Secret: s}, func(_ context.Context, w Written, body []byte) error {
		if w.Index != parts || w.Size != int64(len(body)) || w.SHA1 != sha1.Sum(body) || w.MD5 != md5.Sum(body) {
			t.Errorf("part %d is %+v of %d bytes", parts, w, len(body))
		}
		if want := []string{"a.part.00", "a.part.01"}[parts]; w.Name != want {
			t.Errorf("part is %q, want %q", w.Name, want)
		}
		if w.Done < sum*9/10 || w.Done > img.Size() || parts == 1 && w.Done != img.Size() {
			t.Errorf("part %d: %d bytes of the disk are done", parts, w.Done)
		}
		parts++
		sum += w.Size
		return nil
	})
	if err != nil || index != nil {
		t.Fatal(index, err)
	}
	if len(m.Parts) != 2 || m.BundledSize != sum || m.Size != img.Size() || m.Type != Machine {
		t.Errorf("manifest of %d parts, %d bytes of %d", len(m.Parts), m.BundledSize, m.Size)
	}
}

// A bundle that is made again has the same parts, with an index or without: one
// that was cut off is taken up.
func TestDeterministic(t *testing.T) {
	img := disks()["holes"]
	spec := Spec{Name: "a", Secret: crypt.AES128CBC{}.NewSecret()}
	var made [3]store
	for i := range made {
		made[i] = store{}
		spec.Index = i == 2
		if _, _, err := Bundle(t.Context(), img, spec, made[i].sink); err != nil {
			t.Fatal(err)
		}
	}
	for i := range made[1:] {
		for name, p := range made[0] {
			if !bytes.Equal(p, made[i+1][name]) || len(made[0]) != len(made[i+1]) {
				t.Errorf("%s differs", name)
			}
		}
	}
}

func TestBundleFails(t *testing.T) {
	s := crypt.AES128CBC{}.NewSecret()
	broken := errors.New("broken")
	good := disktest.Pattern(5*chunkSize, nil)
	none := func(context.Context, Written, []byte) error { t.Error("a part was made"); return nil }
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, row := range map[string]struct {
		ctx  context.Context
		img  disk.Image
		spec Spec
		sink Sink
		want disk.Kind
		err  error
	}{
		"name":      {spec: Spec{Name: "a/b", Secret: s}, want: disk.Invalid},
		"no name":   {spec: Spec{Secret: s}, want: disk.Invalid},
		"no secret": {spec: Spec{Name: "a"}, want: disk.Malformed},
		"empty":     {img: disk.Bytes(nil), spec: Spec{Name: "a", Secret: s}, want: disk.TooLarge},
		"read":      {img: disktest.Faulty(good, disktest.Faults{Range: disk.Extent{Off: 4 * chunkSize, Len: 1}, Err: broken}), err: broken},
		"sink":      {sink: func(context.Context, Written, []byte) error { return broken }, err: broken},
		"cancelled": {ctx: gone, want: disk.Cancelled},
	} {
		t.Run(name, func(t *testing.T) {
			if row.ctx == nil {
				row.ctx = t.Context()
			}
			if row.img == nil {
				row.img = good
			}
			if row.spec.Name == "" && name != "no name" {
				row.spec = Spec{Name: "a", Secret: s}
			}
			if row.sink == nil {
				row.sink = none
			}
			_, _, err := Bundle(row.ctx, row.img, row.spec, row.sink)
			if err == nil || row.err != nil && !errors.Is(err, row.err) || row.err == nil && disk.KindOf(err) != row.want {
				t.Errorf("%v of kind %v", err, disk.KindOf(err))
			}
		})
	}
}

// Holes are neither read nor compressed, and zeros are not written.
func TestHolesAreCheap(t *testing.T) {
	img := disktest.Faulty(disktest.Runs(1<<28, disk.Extent{Off: 100 << 20, Len: 100}), disktest.Faults{})
	b := bundleOf(t, img, false)
	if n := img.Bytes(); n > chunkSize {
		t.Errorf("%d bytes were read for a disk of 100", n)
	}
	if b.m.BundledSize > 1<<19 {
		t.Errorf("the bundle has %d bytes", b.m.BundledSize)
	}
	var s spool
	if err := Unbundle(t.Context(), b.m, b.secret, b.parts.fetch, &s, nil); err != nil {
		t.Fatal(err)
	}
	if s.written > 2*spoolBlock {
		t.Errorf("%d bytes were written", s.written)
	}
}

func TestTool(t *testing.T) {
	b := bundleOf(t, disktest.Pattern(100_000, nil), false)
	tool := InstanceStore{Keys: []*rsa.PrivateKey{keys().other, keys().cloud}}
	if !tool.Accepts(b.text) || tool.Accepts([]byte("<html/>")) || tool.Accepts(nil) {
		t.Error("accepts what it should not, or does not what it should")
	}
	var s spool
	var last int64
	err := tool.Run(t.Context(), b.text, b.parts.fetch, &s, func(done int64) { last = done })
	if err != nil || last != b.m.BundledSize || s.bundled != last {
		t.Errorf("run: %v; %d of %d bytes are done", err, last, b.m.BundledSize)
	}
	if !bytes.Equal(s.p, content(t, disktest.Pattern(100_000, nil))) {
		t.Error("the disk is another")
	}
	err = tool.Run(t.Context(), b.text, b.parts.fetch, &spool{limit: 99_999}, nil)
	if disk.KindOf(err) != disk.NoSpace {
		t.Errorf("no room: %v", err)
	}
	full := errors.New("full")
	if err := tool.Run(t.Context(), b.text, b.parts.fetch, &brokenSpool{err: full}, nil); !errors.Is(err, full) {
		t.Errorf("a write that fails: %v", err)
	}
}

type brokenSpool struct {
	spool
	err error
}

func (s *brokenSpool) WriteAt([]byte, int64) (int, error) { return 0, s.err }
