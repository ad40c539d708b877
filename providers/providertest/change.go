package providertest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

func deleteImage(t *testing.T, f Fixture) {
	del := role[providers.Deleter](t, f)
	need(t, f.Put != nil, "put images")
	f.Put(t, "one", pattern())
	f.Put(t, "kept", pattern())
	survey, foretells := f.Provider.(providers.Surveyor)
	if f.Change != nil {
		old := f.image(t, "one")
		f.Change(t, old)
		wantKind(t, "delete an image that has changed", del.Delete(t.Context(), old), disk.Stale)
		if foretells {
			_, err := survey.Survey(t.Context(), old)
			wantKind(t, "look at an image that has changed", err, disk.Stale)
		}
	}
	e := f.image(t, "one")
	if foretells {
		if r, err := survey.Survey(t.Context(), e); err != nil || len(r.Files) == 0 || len(r.Kept) > 0 {
			t.Errorf("what would go is %+v, %v", r, err)
		}
		f.holds(t, f.image(t, "kept"), pattern())
		f.image(t, "one")
	}
	if err := del.Delete(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	f.clean(t, 1)
	if foretells {
		_, err := survey.Survey(t.Context(), e)
		wantKind(t, "look at what was deleted", err, disk.NotFound)
	}
	wantKind(t, "delete again", del.Delete(t.Context(), e), disk.NotFound)
	_, err := f.Provider.Open(t.Context(), e, 0)
	wantKind(t, "open what was deleted", err, disk.NotFound)
	f.holds(t, f.image(t, "kept"), pattern())

	if f.Instance == nil {
		return
	}
	f.Instance(t, "web", pattern())
	machines, err := f.Provider.List(t.Context(), providers.Instances)
	if err != nil || len(machines) != 1 {
		t.Fatalf("%d instances, %v", len(machines), err)
	}
	wantKind(t, "delete an instance", del.Delete(t.Context(), machines[0]), disk.Unsupported)
}

func renameImage(t *testing.T, f Fixture) {
	ren := role[providers.Renamer](t, f)
	need(t, f.Put != nil, "put images")
	f.Put(t, "one", pattern())
	f.Put(t, "two", disktest.Pattern(1<<20, nil))
	_, err := ren.Rename(t.Context(), f.image(t, "one"), "two")
	wantKind(t, "rename to a name that is taken", err, disk.Exists)
	f.holds(t, f.image(t, "two"), disktest.Pattern(1<<20, nil))
	for _, name := range []string{"three", "three", "a/b", "%2F", ".hidden", "x.qcow2", "one"} {
		before := f.list(t)
		var e providers.Entry
		for _, e = range before {
			if e.Name != "two" {
				break
			}
		}
		renamed, err := ren.Rename(t.Context(), e, name)
		if err != nil {
			t.Fatalf("rename %q to %q: %v", e.Name, name, err)
		}
		if diff := cmp.Diff(f.image(t, name), renamed); diff != "" {
			t.Errorf("the listing differs from what was renamed: %s", diff)
		}
		f.holds(t, renamed, pattern())
		f.clean(t, 2)
	}
}

func setMtime(t *testing.T, f Fixture) {
	timer := role[providers.Timer](t, f)
	need(t, f.Put != nil, "put images")
	f.Put(t, "one", pattern())
	e := f.image(t, "one")
	mtime := time.Unix(1600000000, 0)
	for range 2 { // the second changes nothing
		set, err := timer.SetMtime(t.Context(), e, mtime)
		if err != nil {
			t.Fatal(err)
		}
		if !set.Updated.Equal(mtime) || set.ID != e.ID || !set.Created.Equal(e.Created) {
			t.Errorf("after setting %v the entry is %+v", mtime, set)
		}
		if diff := cmp.Diff(f.image(t, "one"), set); diff != "" {
			t.Errorf("the listing differs: %s", diff)
		}
		f.holds(t, set, pattern())
		e = set
	}
}

func snapshot(t *testing.T, f Fixture) {
	snapper := role[providers.Snapshotter](t, f)
	need(t, f.Instance != nil, "make instances")
	f.Instance(t, "web", pattern())
	list := func() []providers.Entry {
		t.Helper()
		entries, err := f.Provider.List(t.Context(), providers.Instances)
		if err != nil || len(entries) != 1 || entries[0].Name != "web" {
			t.Fatalf("instances are %+v, %v", entries, err)
		}
		return entries
	}
	web := list()[0]
	s, err := snapper.Snapshot(t.Context(), web, providers.SnapSpec{Job: "20261121T030000Z-0a1b2c"})
	if err != nil {
		t.Fatal(err)
	}
	if s.ID == "" || s.Consistency == "" || len(s.Disks) != 1 || time.Since(s.Taken).Abs() > time.Hour {
		t.Fatalf("snapshot is %+v", s)
	}
	list() // does not show it
	f.holdsSnapshot(t, s)
	if ids, err := snapper.Leftovers(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("a snapshot in use is a leftover: %q, %v", ids, err)
	}
	for range 2 {
		if err := snapper.Release(t.Context(), s.ID); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	f.clean(t, 0)
	list()

	for _, spec := range []providers.SnapSpec{{RequireStopped: true}, {RequireFrozen: true}} {
		s, err := snapper.Snapshot(t.Context(), web, spec)
		if err != nil {
			wantKind(t, "a snapshot that must be better", err, disk.Unsupported)
			continue
		}
		if s.Consistency == providers.Crash {
			t.Errorf("for %+v the snapshot is %q", spec, s.Consistency)
		}
		f.holdsSnapshot(t, s)
		if err := snapper.Release(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
	}
	f.clean(t, 0)
}

// holdsSnapshot checks the one disk of a snapshot and closes it.
func (f Fixture) holdsSnapshot(t *testing.T, s providers.Snapshot) {
	t.Helper()
	src := s.Disks[0]
	defer src.Close()
	if src.Size() != pattern().Size() {
		t.Fatalf("snapshot has %d bytes, want %d", src.Size(), pattern().Size())
	}
	f.compare(t, src, pattern())
}
