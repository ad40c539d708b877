// Package providertest is the suite that every provider runs: what callers may
// rely on, whatever the cloud.
package providertest

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// A Fixture is an empty provider, and the ways around it by which a test acts as
// the rest of the world. A way that is nil does not exist there, and what needs
// it is skipped. So is what needs a role that the provider does not have.
type Fixture struct {
	Provider providers.Provider
	Format   string // that images are put and sent in; their bytes are a pattern

	Put    func(t *testing.T, name string, img disk.Image) // makes an image; a second one of a name is another image
	Change func(t *testing.T, e providers.Entry)           // changes the bytes of an image, or of an instance
	Remove func(t *testing.T, e providers.Entry)           // removes an image
	Break  func(t *testing.T) (repair func())              // makes the cloud unreachable

	// Instance makes a machine with one disk.
	Instance func(t *testing.T, name string, img disk.Image)

	// Machine makes a machine of several disks, the boot disk first, which the
	// provider keeps apart.
	Machine func(t *testing.T, name string, disks ...disk.Image)

	// Debris names whatever is in the cloud besides images and instances.
	Debris func(t *testing.T) []string

	// Slow says that each read costs a request: images are read through a cache, as the
	// pipeline does, where a test makes many.
	Slow bool

	// RefusesEmpty says that the cloud takes no image of 0 bytes.
	RefusesEmpty bool
}

// Suite runs all tests, each on a fixture of its own.
func Suite(t *testing.T, fixture func(t *testing.T) Fixture) {
	tests := []struct {
		name string
		run  func(t *testing.T, f Fixture)
	}{
		{"ListEmpty", listEmpty},
		{"ListStable", listStable},
		{"ListTwins", listTwins},
		{"ListAllOrNothing", listAllOrNothing},
		{"ListCancelled", listCancelled},
		{"Open", openBytes},
		{"OpenUnknown", openUnknown},
		{"OpenChanged", openChanged},
		{"OpenRemoved", openRemoved},
		{"Upload", uploadImages},
		{"UploadNames", uploadNames},
		{"UploadRefused", uploadRefused},
		{"UploadExists", uploadExists},
		{"UploadRace", uploadRace},
		{"UploadAborted", uploadAborted},
		{"UploadFailingSource", uploadFailingSource},
		{"UploadCancelled", uploadCancelled},
		{"Delete", deleteImage},
		{"Rename", renameImage},
		{"Mtime", setMtime},
		{"Meta", setMeta},
		{"UploadMeta", uploadMeta},
		{"UploadDisks", uploadDisks},
		{"UploadDisksUndone", uploadDisksUndone},
		{"ChangeDisks", changeDisks},
		{"UploadTogether", uploadTogether},
		{"UploadCompanions", uploadCompanions},
		{"Snapshot", snapshot},
		{"SnapshotSet", snapshotSet},
		{"Keep", keepCaptures},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, fixture(t)) })
	}
}

// pattern is a small image with data, holes and an odd end.
func pattern() disk.Image {
	return disktest.Pattern(2<<20+512, func(block int64) bool { return block%3 != 1 })
}

// need skips the test where a way around the provider does not exist.
func need(t *testing.T, has bool, way string) {
	t.Helper()
	if !has {
		t.Skipf("the fixture has no way to %s", way)
	}
}

// role is the provider in a role that it may not have.
func role[T any](t *testing.T, f Fixture) T {
	t.Helper()
	r, ok := f.Provider.(T)
	if !ok {
		t.Skipf("provider %q is no %T", f.Provider.Name(), &r)
	}
	return r
}

// list is the listing of the images.
func (f Fixture) list(t *testing.T) []providers.Entry {
	t.Helper()
	entries, err := f.Provider.List(t.Context(), providers.Images)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// named are the images of a name.
func (f Fixture) named(t *testing.T, name string) []providers.Entry {
	t.Helper()
	var found []providers.Entry
	for _, e := range f.list(t) {
		if e.Name == name {
			found = append(found, e)
		}
	}
	return found
}

// image is the one image of a name.
func (f Fixture) image(t *testing.T, name string) providers.Entry {
	t.Helper()
	found := f.named(t, name)
	if len(found) != 1 {
		t.Fatalf("%d images of name %.80q in %d, want one", len(found), name, len(f.list(t)))
	}
	return found[0]
}

func (f Fixture) open(t *testing.T, e providers.Entry) providers.Source {
	t.Helper()
	src, err := f.Provider.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

// compare checks the bytes of img.
func (f Fixture) compare(t *testing.T, img, want disk.Image) {
	t.Helper()
	if f.Slow {
		cache := disk.NewCache(disk.CacheOptions{})
		defer cache.Close()
		img = cache.Image("", img)
	}
	disktest.Compare(t, img, want)
}

// holds checks that an image reads as want.
func (f Fixture) holds(t *testing.T, e providers.Entry, want disk.Image) {
	t.Helper()
	src := f.open(t, e)
	defer src.Close()
	if src.Size() != want.Size() {
		t.Fatalf("image %.80q has %d bytes, want %d", e.Name, src.Size(), want.Size())
	}
	f.compare(t, src, want)
}

// clean checks that nothing unfinished is left, and that images is how many
// images there are.
func (f Fixture) clean(t *testing.T, images int) {
	t.Helper()
	if entries := f.list(t); len(entries) != images {
		t.Errorf("%d images are visible, want %d", len(entries), images)
	}
	if f.Debris != nil {
		if debris := f.Debris(t); len(debris) > 0 {
			t.Errorf("left behind: %q", debris)
		}
	}
}

// wantKind checks the kind of an error.
func wantKind(t *testing.T, what string, err error, kind disk.Kind) {
	t.Helper()
	if err == nil || disk.KindOf(err) != kind {
		t.Errorf("%s: %v of kind %s, want kind %s", what, err, disk.KindOf(err).Code(), kind.Code())
	}
}

func listEmpty(t *testing.T, f Fixture) {
	for _, kind := range []providers.Kind{providers.Images, providers.Instances, providers.Disks, "nonsense"} {
		entries, err := f.Provider.List(t.Context(), kind)
		if err != nil || len(entries) != 0 {
			t.Errorf("listing of %s: %d entries, %v", kind, len(entries), err)
		}
	}
}

func listStable(t *testing.T, f Fixture) {
	need(t, f.Put != nil, "put images")
	names := []string{"one", "two", "three", "größe 大", "50%off"}
	for _, name := range names {
		f.Put(t, name, pattern())
	}
	first := f.list(t)
	if diff := cmp.Diff(first, f.list(t)); diff != "" {
		t.Errorf("a second listing differs: %s", diff)
	}
	seen := map[string]bool{}
	for _, name := range names {
		e := f.image(t, name)
		if e.Kind != providers.Images || e.ID == "" || e.Version == "" || e.Reason != "" || e.Format != f.Format && e.Format != "" {
			t.Errorf("entry %+v", e)
		}
		if e.Size != pattern().Size() && e.Size != -1 {
			t.Errorf("image %q has %d bytes, want %d", name, e.Size, pattern().Size())
		}
		if e.Created.IsZero() || e.Updated.IsZero() {
			t.Errorf("image %q was created %v and updated %v", name, e.Created, e.Updated)
		}
		if seen[e.ID] {
			t.Errorf("id %q is there twice", e.ID)
		}
		seen[e.ID] = true
	}
	if len(first) != len(names) {
		t.Errorf("%d entries, want %d", len(first), len(names))
	}
}

// listTwins checks that a newcomer changes nothing about its namesake.
func listTwins(t *testing.T, f Fixture) {
	need(t, f.Put != nil, "put images")
	f.Put(t, "twin", pattern())
	before := f.image(t, "twin")
	time.Sleep(20 * time.Millisecond) // the grain of clocks
	f.Put(t, "twin", pattern())
	after := f.named(t, "twin")
	if len(after) != 2 || after[0].ID == after[1].ID {
		t.Fatalf("twins are %+v", after)
	}
	if after[0].ID != before.ID {
		after[0], after[1] = after[1], after[0]
	}
	if diff := cmp.Diff(before, after[0]); diff != "" {
		t.Errorf("the newcomer changed its namesake: %s", diff)
	}
	if after[1].Created.Before(before.Created) {
		t.Errorf("the newcomer was created %v, before its namesake %v", after[1].Created, before.Created)
	}
}

func listAllOrNothing(t *testing.T, f Fixture) {
	need(t, f.Put != nil && f.Break != nil, "break the cloud")
	f.Put(t, "one", pattern())
	f.Put(t, "two", pattern())
	before := f.list(t)
	repair := f.Break(t)
	entries, err := f.Provider.List(t.Context(), providers.Images)
	wantKind(t, "listing of a broken cloud", err, disk.Unreachable)
	if len(entries) != 0 {
		t.Errorf("a listing that failed has %d entries", len(entries))
	}
	_, err = f.Provider.Open(t.Context(), before[0], 0)
	wantKind(t, "open in a broken cloud", err, disk.Unreachable)
	repair()
	if diff := cmp.Diff(before, f.list(t)); diff != "" {
		t.Errorf("the listing of the repaired cloud differs: %s", diff)
	}
}

func listCancelled(t *testing.T, f Fixture) {
	need(t, f.Put != nil, "put images")
	f.Put(t, "one", pattern())
	e := f.image(t, "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Provider.List(ctx, providers.Images)
	wantKind(t, "cancelled listing", err, disk.Cancelled)
	_, err = f.Provider.Open(ctx, e, 0)
	wantKind(t, "cancelled open", err, disk.Cancelled)
}
