package providertest

import (
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

func openBytes(t *testing.T, f Fixture) {
	need(t, f.Put != nil, "put images")
	f.Put(t, "one", pattern())
	f.Put(t, "other", disktest.Pattern(1<<20, nil))
	e := f.image(t, "one")
	first, second := f.open(t, e), f.open(t, e)
	if first.Format != f.Format && first.Format != "" {
		t.Errorf("format is %q, want %q", first.Format, f.Format)
	}
	img := first.Image
	if f.Slow {
		cache := disk.NewCache(disk.CacheOptions{BlockSize: 64 << 10})
		defer cache.Close()
		img = cache.Image(e.ID, img)
	}
	disktest.Suite(t, img, pattern()) // and closes it
	f.compare(t, second, pattern())
	f.holds(t, f.image(t, "other"), disktest.Pattern(1<<20, nil))
}

func openUnknown(t *testing.T, f Fixture) {
	need(t, f.Put != nil, "put images")
	f.Put(t, "one", pattern())
	e := f.image(t, "one")
	_, err := f.Provider.Open(t.Context(), e, 1)
	wantKind(t, "open the second disk of one", err, disk.NotFound)
	e.ID += "-not"
	_, err = f.Provider.Open(t.Context(), e, 0)
	wantKind(t, "open an unknown image", err, disk.NotFound)
	e = f.image(t, "one")
	e.Kind = "nonsense"
	_, err = f.Provider.Open(t.Context(), e, 0)
	wantKind(t, "open an image of an unknown kind", err, disk.NotFound)
}

// wantStale checks that no byte of src can be read any more.
func wantStale(t *testing.T, src providers.Source) {
	t.Helper()
	n, err := src.ReadAt(make([]byte, 512), 0)
	wantKind(t, "read", err, disk.Stale)
	if n != 0 {
		t.Errorf("a stale read gave %d bytes", n)
	}
}

func openChanged(t *testing.T, f Fixture) {
	need(t, f.Put != nil && f.Change != nil, "change images")
	f.Put(t, "one", pattern())
	old := f.image(t, "one")
	src := f.open(t, old)
	f.compare(t, src, pattern())
	f.Change(t, old)
	wantStale(t, src)
	_, err := f.Provider.Open(t.Context(), old, 0)
	wantKind(t, "open the old version", err, disk.Stale)
	changed := f.image(t, "one")
	if changed.Version == old.Version {
		t.Errorf("version is %q still", old.Version)
	}
	f.open(t, changed)
}

func openRemoved(t *testing.T, f Fixture) {
	need(t, f.Put != nil && f.Remove != nil, "remove images")
	f.Put(t, "one", pattern())
	old := f.image(t, "one")
	src := f.open(t, old)
	f.Remove(t, old)
	wantStale(t, src)
	_, err := f.Provider.Open(t.Context(), old, 0)
	wantKind(t, "open a removed image", err, disk.NotFound)
	f.clean(t, 0)
}
