package pipeline

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"chromogenic/providers/local"
)

// BenchmarkCopy copies a dense raw disk from one folder to another, to the end.
func BenchmarkCopy(b *testing.B) {
	const size = 512 << 20
	dir := b.TempDir()
	o := Options{StateDir: filepath.Join(dir, "state")}
	for _, name := range []string{"a", "b"} {
		images := filepath.Join(dir, name)
		if err := os.Mkdir(images, 0o755); err != nil {
			b.Fatal(err)
		}
		p, err := local.New(local.Options{Name: name, Images: images, Formats: map[string]string{"raw": "raw"}})
		if err != nil {
			b.Fatal(err)
		}
		o.Sites = append(o.Sites, Site{Provider: p})
	}
	f, err := os.Create(filepath.Join(dir, "a/web.raw"))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{})
	for range size / len(buf) {
		random.Read(buf)
		if _, err := f.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	p, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	l, err := p.List(b.Context(), "a", "images")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		v, err := p.View(b.Context(), Ref{Site: "a", Entry: l.Entries[0], Format: "raw"})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Copy(b.Context(), CopySpec{From: v, Site: "b", Name: "web"}); err != nil {
			b.Fatal(err)
		}
		v.Close()
		b.StopTimer()
		if err := os.Remove(filepath.Join(dir, "b/web.raw")); err != nil {
			b.Fatal(err)
		}
		p.Forget("b")
		b.StartTimer()
	}
}
