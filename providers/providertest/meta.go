package providertest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/providers"
)

// someMetadata has values of every sort.
func someMetadata() providers.Metadata {
	return providers.Metadata{
		Meta:     disk.Meta{Firmware: "uefi", MinDisk: 10, Tags: []string{"a", "b"}, OSType: "linux"},
		Props:    map[string]string{"hw_x": "1"},
		MetaTime: time.Unix(1600000000, 0),
	}
}

// says checks what the listing says of an image.
func (f Fixture) says(t *testing.T, e providers.Entry, want providers.Metadata) {
	t.Helper()
	if !e.Same(want) || e.MetaReason != "" || !want.MetaTime.IsZero() && !e.MetaTime.Equal(want.MetaTime) {
		t.Errorf("metadata is %+v (%s), want %+v", e.Metadata, e.MetaReason, want)
	}
	if diff := cmp.Diff(f.image(t, e.Name), e); diff != "" {
		t.Errorf("the listing differs: %s", diff)
	}
}

func setMeta(t *testing.T, f Fixture) {
	setter := role[providers.MetaSetter](t, f)
	need(t, f.Put != nil, "put images")
	f.Put(t, "one", pattern())
	f.Put(t, "two", pattern())
	bare := f.image(t, "one")
	src := f.open(t, bare)
	set := func(e providers.Entry, m providers.Metadata) providers.Entry {
		t.Helper()
		now, err := setter.SetMeta(t.Context(), e, m)
		if err != nil {
			t.Fatal(err)
		}
		if now.ID != e.ID || !now.Updated.Equal(e.Updated) {
			t.Errorf("the image is %+v, was %+v", now, e)
		}
		return now
	}
	e := set(bare, someMetadata())
	f.says(t, e, someMetadata())
	if e.Version == bare.Version {
		t.Errorf("other metadata, and the version is still %q", e.Version)
	}
	again := set(e, someMetadata())
	if diff := cmp.Diff(e, again); diff != "" {
		t.Errorf("the same metadata changes the image: %s", diff)
	}
	later := someMetadata()
	later.MetaTime = later.MetaTime.Add(time.Hour)
	timed := set(e, later)
	if f.says(t, timed, later); timed.Version != e.Version {
		t.Errorf("another time of metadata makes the version %q of %q", timed.Version, e.Version)
	}
	other := someMetadata()
	other.Meta.Firmware, other.Props = "bios", nil
	e = set(bare, other) // an older listing of the same bytes will do
	f.says(t, e, other)
	f.holds(t, e, pattern())
	f.compare(t, src, pattern()) // who reads meanwhile may read on
	if two := f.image(t, "two"); !two.Empty() {
		t.Errorf("the other image has %+v", two.Metadata)
	}
	e = set(e, providers.Metadata{})
	f.says(t, e, providers.Metadata{})
	if e.Version != bare.Version || !e.MetaTime.IsZero() {
		t.Errorf("without metadata the image is %+v, was %+v", e, bare)
	}
	f.clean(t, 2)

	if f.Change == nil {
		return
	}
	f.Change(t, e)
	_, err := setter.SetMeta(t.Context(), e, other)
	wantKind(t, "set metadata of an image that has changed", err, disk.Stale)
}

// uploadMeta sends an image with metadata, renames and deletes it.
func uploadMeta(t *testing.T, f Fixture) {
	role[providers.MetaSetter](t, f)
	img := pattern()
	spec := f.spec("one", img)
	spec.Metadata = someMetadata()
	if err := f.send(t, spec, img).Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.clean(t, 0)
	e, err := f.send(t, spec, img).Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.says(t, e, someMetadata())
	if ren, ok := f.Provider.(providers.Renamer); ok {
		if e, err = ren.Rename(t.Context(), e, "two"); err != nil {
			t.Fatal(err)
		}
		f.says(t, e, someMetadata())
	}
	if del, ok := f.Provider.(providers.Deleter); ok {
		if err := del.Delete(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		f.clean(t, 0)
		if e, err = f.send(t, f.spec(e.Name, img), img).Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.says(t, e, providers.Metadata{}) // nothing of the one before
	}
	f.clean(t, 1)
}
