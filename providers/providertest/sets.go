package providertest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// dataDisk is the content of a data disk, another for each number.
func dataDisk(number int) disk.Image {
	return disktest.Pattern(1<<20+int64(number)*disk.SectorSize, func(block int64) bool { return block%5 != int64(number)%5 })
}

// diskSpec is that of an upload of a data disk.
func (f Fixture) diskSpec(name string, number int, img disk.Image) providers.Spec {
	spec := f.spec(name, img)
	spec.Disk, spec.Device = number, "vd"+string(rune('a'+number))
	return spec
}

// addDisk sends a data disk and gives what is listed of it then.
func (f Fixture) addDisk(t *testing.T, name string, number int) providers.Entry {
	t.Helper()
	img := dataDisk(number)
	e, err := f.send(t, f.diskSpec(name, number, img), img).Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// waiting is the listing of the data disks that wait.
func (f Fixture) waiting(t *testing.T) []providers.Entry {
	t.Helper()
	entries, err := f.Provider.List(t.Context(), providers.Disks)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// wait checks which numbers wait for an image of the name, and reads them.
func (f Fixture) wait(t *testing.T, name string, numbers ...int) {
	t.Helper()
	waiting := f.waiting(t)
	if len(waiting) != len(numbers) {
		t.Errorf("%d disks wait, want %v: %+v", len(waiting), numbers, waiting)
		return
	}
	for i, e := range waiting {
		w := e.Waiting
		if e.Kind != providers.Disks || e.Name != name || e.ID == "" || e.Version == "" || w == nil || w.Number != numbers[i] || w.Device != "vd"+string(rune('a'+w.Number)) {
			t.Errorf("the entry that waits is %+v of %+v, want number %d of %q", e, w, numbers[i], name)
			continue
		}
		f.holds(t, e, dataDisk(w.Number))
	}
}

// holdsSet checks that the image of a name is a boot disk and so many data disks.
func (f Fixture) holdsSet(t *testing.T, name string, boot disk.Image, data int) providers.Entry {
	t.Helper()
	e := f.image(t, name)
	if want := data + 1; len(e.Disks) != want && (data > 0 || len(e.Disks) != 0) {
		t.Fatalf("image %q has %d disks, want %d: %+v", name, len(e.Disks), want, e.Disks)
	}
	f.holds(t, e, boot)
	for n := 1; n <= data; n++ {
		f.holdsDisk(t, e, n, dataDisk(n))
		if got := e.Disks[n].Device; got != "vd"+string(rune('a'+n)) {
			t.Errorf("disk %d of %q is called %q", n, name, got)
		}
	}
	_, err := f.Provider.Open(t.Context(), e, data+1)
	wantKind(t, "open a disk that is not there", err, disk.NotFound)
	return e
}

func (f Fixture) holdsDisk(t *testing.T, e providers.Entry, n int, want disk.Image) {
	t.Helper()
	src, err := f.Provider.Open(t.Context(), e, n)
	if err != nil {
		t.Fatalf("open disk %d of %q: %v", n, e.Name, err)
	}
	defer src.Close()
	if src.Size() != want.Size() {
		t.Fatalf("disk %d of %q has %d bytes, want %d", n, e.Name, src.Size(), want.Size())
	}
	disktest.Compare(t, src, want)
}

// uploadDisks makes a machine of several disks, which come in any order.
func uploadDisks(t *testing.T, f Fixture) {
	up := role[providers.SetKeeper](t, f)
	img := pattern()
	first := f.addDisk(t, "web", 1)
	f.addDisk(t, "web", 3)
	f.wait(t, "web", 1, 3)
	f.clean(t, 0)
	if diff := cmp.Diff(f.waiting(t)[0], first); diff != "" {
		t.Errorf("the listing differs from what was committed: %s", diff)
	}

	// The boot disk makes the machine, up to the number that is missing.
	two := f.upload(t, "web", img)
	if diff := cmp.Diff(f.holdsSet(t, "web", img, 1), two); diff != "" {
		t.Errorf("the listing differs from what was committed: %s", diff)
	}
	f.wait(t, "web", 3)
	src, err := f.Provider.Open(t.Context(), two, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	four := f.addDisk(t, "web", 2)
	if diff := cmp.Diff(f.holdsSet(t, "web", img, 3), four); diff != "" {
		t.Errorf("the listing differs from what was committed: %s", diff)
	}
	f.wait(t, "web")
	if four.ID != two.ID || four.Version == two.Version {
		t.Errorf("with two disks more version %q of %q is %q of %q", two.Version, two.ID, four.Version, four.ID)
	}
	_, err = f.Provider.Open(t.Context(), two, 1)
	wantKind(t, "open a disk of the machine as it was", err, disk.Stale)
	disktest.Compare(t, src, img) // who reads the boot disk may read on
	f.clean(t, 1)

	for _, number := range []int{-1, providers.MaxDisks} {
		u, err := up.Begin(t.Context(), f.diskSpec("web", number, img))
		if err == nil {
			u.Abort(t.Context())
		}
		wantKind(t, "a disk of an impossible number", err, disk.Invalid)
	}
	_, err = up.Begin(t.Context(), f.diskSpec("web", 2, img))
	wantKind(t, "a disk whose number is taken", err, disk.Exists)

	// Names of devices that are hard to keep.
	for i, device := range []string{"", "a/b", "größe 大", "..", "x.raw", "1-2", "%2F"} {
		spec := f.diskSpec("names", i+1, img)
		spec.Device = device
		if _, err := f.send(t, spec, img).Commit(t.Context()); err != nil {
			t.Fatalf("device %q: %v", device, err)
		}
		if e := f.waiting(t)[i]; e.Waiting.Device != device || e.Waiting.Number != i+1 {
			t.Errorf("device %q is listed as %+v", device, e.Waiting)
		}
	}
}

// uploadDisksUndone ends uploads of data disks early: nothing of them is there.
func uploadDisksUndone(t *testing.T, f Fixture) {
	up := role[providers.SetKeeper](t, f)
	img := dataDisk(1)
	u := f.send(t, f.diskSpec("web", 1, img), img)
	f.wait(t, "web")
	if err := u.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wait(t, "web")
	f.clean(t, 0)

	// Of two of one number the later withdraws.
	slow := f.send(t, f.diskSpec("web", 1, img), img)
	f.addDisk(t, "web", 1)
	_, err := slow.Commit(t.Context())
	wantKind(t, "the later commit", err, disk.Exists)
	if err := slow.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	f.wait(t, "web", 1)

	// One that was suspended is taken up by its number.
	img = dataDisk(2)
	spec := f.diskSpec("web", 2, img)
	if u, err = up.Begin(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	token := u.Token()
	if err := u.Suspend(); err != nil {
		t.Fatal(err)
	}
	if u, err = up.Resume(t.Context(), spec, token); err != nil {
		t.Fatal(err)
	}
	if err := u.Send(t.Context(), img, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wait(t, "web", 1, 2)
	f.upload(t, "web", pattern())
	f.holdsSet(t, "web", pattern(), 2)
	f.clean(t, 1)
}

// changeDisks replaces, retimes, renames and removes disks of a machine.
func changeDisks(t *testing.T, f Fixture) {
	keeper := role[providers.SetKeeper](t, f)
	boot, other := pattern(), disktest.Pattern(3<<20, nil)
	f.upload(t, "web", boot)
	f.addDisk(t, "web", 1)
	e := f.addDisk(t, "web", 2)
	replace := func(spec providers.Spec, img disk.Image) providers.Entry {
		t.Helper()
		old := f.image(t, "web")
		spec.Replaces = &old
		now, err := f.send(t, spec, img).Commit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return now
	}

	// Only the disk that is meant.
	now := replace(f.diskSpec("web", 1, other), other)
	f.holdsDisk(t, now, 1, other)
	f.holdsDisk(t, now, 2, dataDisk(2))
	f.holds(t, now, boot)
	spec := f.diskSpec("web", 1, dataDisk(1))
	spec.Replaces = &e
	late := f.send(t, spec, dataDisk(1))
	_, err := late.Commit(t.Context())
	wantKind(t, "replace a disk of an image that has changed", err, disk.Stale)
	if err := late.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	replace(f.diskSpec("web", 1, dataDisk(1)), dataDisk(1))
	replace(f.spec("web", other), other)
	e = f.holdsSet(t, "web", other, 2)

	// The time of each.
	when := time.Unix(1600000000, 0)
	for n := range 3 {
		if e, err = keeper.SetDiskMtime(t.Context(), e, n, when.Add(time.Duration(n)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(f.holdsSet(t, "web", other, 2), e); diff != "" {
		t.Errorf("the listing differs from what was set: %s", diff)
	}
	for n, d := range e.Disks {
		if !d.Updated.Equal(when.Add(time.Duration(n) * time.Hour)) {
			t.Errorf("disk %d is of %v", n, d.Updated)
		}
	}
	if !e.Updated.Equal(when.Add(2 * time.Hour)) {
		t.Errorf("the machine is of %v, want the time of its newest disk", e.Updated)
	}

	if ren, ok := f.Provider.(providers.Renamer); ok {
		if e, err = ren.Rename(t.Context(), e, "db"); err != nil {
			t.Fatal(err)
		}
		f.holdsSet(t, "db", other, 2)
		if e, err = ren.Rename(t.Context(), e, "web"); err != nil {
			t.Fatal(err)
		}
	}

	// One that goes leaves those behind it waiting.
	if err := keeper.DeleteDisk(t.Context(), e, 1); err != nil {
		t.Fatal(err)
	}
	f.holdsSet(t, "web", other, 0)
	f.wait(t, "web", 2)
	wantKind(t, "delete a disk of an image that has changed", keeper.DeleteDisk(t.Context(), e, 2), disk.Stale)
	wantKind(t, "delete a boot disk", keeper.DeleteDisk(t.Context(), f.image(t, "web"), 0), disk.NotFound)
	f.addDisk(t, "web", 1)
	f.holdsSet(t, "web", other, 2)

	// All of the old machine goes.
	spec = f.spec("web", boot)
	spec.Whole = true
	replace(spec, boot)
	f.holdsSet(t, "web", boot, 0)
	f.wait(t, "web")
	f.addDisk(t, "web", 1)
	f.addDisk(t, "db", 1)
	f.wait(t, "db", 1)
	if err := keeper.DeleteDisk(t.Context(), f.waiting(t)[0], 0); err != nil {
		t.Fatal(err)
	}
	f.wait(t, "db")
	if del, ok := f.Provider.(providers.Deleter); ok {
		f.addDisk(t, "web", 3)
		if err := del.Delete(t.Context(), f.image(t, "web")); err != nil {
			t.Fatal(err)
		}
		f.wait(t, "web", 3) // it was no part of the image
		if err := keeper.DeleteDisk(t.Context(), f.waiting(t)[0], 0); err != nil {
			t.Fatal(err)
		}
		f.wait(t, "web")
		f.clean(t, 0)
	}
}

// snapshotSet captures a machine of several disks.
func snapshotSet(t *testing.T, f Fixture) {
	snapper := role[providers.Snapshotter](t, f)
	need(t, f.Machine != nil, "make machines of several disks")
	f.Machine(t, "web", pattern(), dataDisk(1), dataDisk(2))
	live, _ := f.instances(t)
	if len(live.Disks) != 3 {
		t.Fatalf("the machine is %+v, want three disks", live)
	}
	s, err := snapper.Snapshot(t.Context(), live, providers.SnapSpec{Job: "20261121T030000Z-0a1b2c"})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Disks) != 3 {
		t.Fatalf("the snapshot has %d disks", len(s.Disks))
	}
	for i, src := range s.Disks {
		want := pattern()
		if i > 0 {
			want = dataDisk(i)
		}
		if src.Size() != want.Size() {
			t.Fatalf("disk %d has %d bytes, want %d", i, src.Size(), want.Size())
		}
		disktest.Compare(t, src, want)
		src.Close()
	}
	if ids, err := snapper.Leftovers(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("a snapshot in use is a leftover: %q, %v", ids, err)
	}
	for range 2 {
		if err := snapper.Release(t.Context(), s.ID); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	f.clean(t, 0)

	keeper := role[providers.Keeper](t, f)
	var kept []providers.Entry
	for range 2 {
		e, err := keeper.Keep(t.Context(), live, providers.SnapSpec{Job: "20261121T030000Z-0a1b2c"})
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, e)
	}
	for _, e := range kept {
		if len(e.Disks) != 3 || e.Capture == nil {
			t.Fatalf("the capture is %+v, want three disks", e)
		}
		f.holds(t, e, pattern())
		f.holdsDisk(t, e, 1, dataDisk(1))
		f.holdsDisk(t, e, 2, dataDisk(2))
		if e.Disks[1].Device != live.Disks[1].Device {
			t.Errorf("disk 1 of the capture is called %q, it was %q", e.Disks[1].Device, live.Disks[1].Device)
		}
	}
	if err := keeper.DeleteCapture(t.Context(), kept[0]); err != nil {
		t.Fatal(err)
	}
	if _, left := f.instances(t); len(left) != 1 || left[0].ID != kept[1].ID {
		t.Errorf("left are %+v", left)
	}
	f.holdsDisk(t, kept[1], 2, dataDisk(2))
	f.clean(t, 0)
}
