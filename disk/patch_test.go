package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// patched makes an overlay of a base of 5 MiB, and its patch.
func patched(t testing.TB, dir string) (base Image, o *Overlay, path string) {
	t.Helper()
	content := bytes.Repeat([]byte("base"), 5<<20/4)
	base = Bytes(content)
	o = NewOverlay(base, OverlayOptions{Budget: 1 << 20, Scratch: dir})
	t.Cleanup(func() { o.Close() })
	if _, err := o.WriteAt(bytes.Repeat([]byte("new"), 1<<20), 12345); err != nil {
		t.Fatal(err)
	}
	if err := o.Discard(4<<20+77, 300_000); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "x.patch")
	if _, err := WritePatch(path, o); err != nil {
		t.Fatal(err)
	}
	return base, o, path
}

// TestPatch makes the same disk of the same base.
func TestPatch(t *testing.T) {
	base, o, path := patched(t, t.TempDir())
	again := NewOverlay(base, OverlayOptions{Budget: 1 << 20, Scratch: t.TempDir()})
	defer again.Close()
	if _, err := ApplyPatch(path, again); err != nil {
		t.Fatal(err)
	}
	a, b := make([]byte, o.Size()), make([]byte, o.Size())
	if err := ReadFull(o, a, 0); err != nil {
		t.Fatal(err)
	}
	if err := ReadFull(again, b, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the patch makes another disk")
	}
	if e, err := again.Extent(4<<20+8192, 100_000); err != nil || !e.Zero {
		t.Errorf("what was discarded is no hole: %+v, %v", e, err)
	}
}

// TestPatchDamaged flips a bit of each part of a patch, cuts it off, and applies it to
// a disk of another size: nothing is changed.
func TestPatchDamaged(t *testing.T) {
	dir := t.TempDir()
	base, _, path := patched(t, dir)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(name string, p []byte, base Image) {
		t.Helper()
		bad := filepath.Join(dir, "bad")
		if err := os.WriteFile(bad, p, 0o600); err != nil {
			t.Fatal(err)
		}
		o := NewOverlay(base, OverlayOptions{Budget: 1 << 20, Scratch: dir})
		defer o.Close()
		if _, err := ApplyPatch(bad, o); KindOf(err) != Malformed {
			t.Errorf("%s: %v", name, err)
		}
		for e := range o.Changes() {
			t.Errorf("%s: %+v was changed", name, e)
		}
	}
	for _, at := range []int{0, len(patchHead), len(patchHead) + 8, len(patchHead) + 24, len(good) / 2, len(good) - 40, len(good) - 1} {
		p := bytes.Clone(good)
		p[at] ^= 4
		try("a bit", p, base)
	}
	for _, n := range []int{0, 10, 40, len(good) / 2, len(good) - 1} {
		try("cut off", good[:n], base)
	}
	try("of another size", good, Bytes(make([]byte, 5<<20-4096)))
}
