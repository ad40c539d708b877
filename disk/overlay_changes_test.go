package disk

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestChanges replays the changes of an overlay on another one of the same base.
func TestChanges(t *testing.T) {
	const size = 3<<20 + 777
	content := make([]byte, size)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range content {
		content[i] = byte(random.Uint32())
	}
	base := Bytes(content)
	a := NewOverlay(base, OverlayOptions{Budget: 1 << 20, Scratch: t.TempDir()})
	defer a.Close()
	for e := range a.Changes() {
		t.Fatalf("an overlay that holds nothing has changed %+v", e)
	}
	for range 200 {
		off := random.Int64N(size)
		n := random.Int64N(min(40_000, size-off)) + 1
		if random.IntN(2) == 0 {
			if err := a.Discard(off, n); err != nil {
				t.Fatal(err)
			}
			continue
		}
		p := bytes.Repeat([]byte{byte(random.Uint32())}, int(n))
		if _, err := a.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	b := NewOverlay(base, OverlayOptions{Budget: 1 << 20, Scratch: t.TempDir()})
	defer b.Close()
	last := int64(0)
	for e := range a.Changes() {
		if e.Off < last || e.Len <= 0 || e.End() > size {
			t.Fatalf("extent %+v behind offset %d", e, last)
		}
		last = e.End()
		p := make([]byte, e.Len)
		if err := ReadFull(a, p, e.Off); err != nil {
			t.Fatal(err)
		}
		if e.Zero {
			if err := b.Discard(e.Off, e.Len); err != nil {
				t.Fatal(err)
			}
		} else if _, err := b.WriteAt(p, e.Off); err != nil {
			t.Fatal(err)
		}
	}
	ours, theirs := make([]byte, size), make([]byte, size)
	if err := ReadFull(a, ours, 0); err != nil {
		t.Fatal(err)
	}
	if err := ReadFull(b, theirs, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ours, theirs) {
		t.Error("the changes make another disk of the same base")
	}
	if a.Stored() != b.Stored() {
		t.Errorf("%d bytes are stored, and %d of its changes", a.Stored(), b.Stored())
	}
}
