package pipeline

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats"
	"chromogenic/formats/layout"
	"chromogenic/formats/ova"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// single hides that a provider keeps sets.
type single struct {
	providers.Uploader
	p providers.Provider
}

func (s single) Name() string { return s.p.Name() }

func (s single) List(ctx context.Context, k providers.Kind) ([]providers.Entry, error) {
	return s.p.List(ctx, k)
}

func (s single) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	return s.p.Open(ctx, e, n)
}

func (s single) ProbeOnList() bool { return true }

// singleB makes site b one that keeps one disk in an image.
func singleB(o *Options) {
	p := o.Sites[1].Provider
	o.Sites[1].Provider = single{p.(providers.Uploader), p}
}

// second and third are data disks.
func second() disk.Image {
	return disktest.Runs(2<<20, disk.Extent{Off: 1 << 20, Len: 64 << 10})
}

func third() disk.Image { return disktest.Runs(1<<20+512, disk.Extent{Len: 512}) }

// putSet makes a machine of three disks in a, of two containers.
func putSet(b *bench) {
	b.t.Helper()
	b.put("a/seed.raw", third())
	if err := os.Mkdir(filepath.Join(b.dir, "a/web.disks"), 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.put("a/web.disks/1-vdb.raw", second())
	b.put("a/web.disks/2-vdc.qcow2", b.view("a", "seed", "qcow2"))
	b.put("a/web.raw", holes())
	if err := os.Remove(filepath.Join(b.dir, "a/seed.raw")); err != nil {
		b.t.Fatal(err)
	}
	b.Forget("a")
}

// diskView is a view of one disk.
func (b *bench) diskView(site, name, format string, n int) *View {
	b.t.Helper()
	v, err := b.View(context.Background(), Ref{Site: site, Entry: b.entry(site, name), Format: format, Disk: n})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { v.Close() })
	return v
}

// holdsSet checks the disks of a machine, in every format and in an ova.
func (b *bench) holdsSet(site, name string, disks ...disk.Image) {
	b.t.Helper()
	m, err := b.Machine(context.Background(), Ref{Site: site, Entry: b.entry(site, name), Format: "raw"})
	if err != nil {
		b.t.Fatal(err)
	}
	if len(m.Disks) != len(disks) {
		b.t.Fatalf("%s:%s has %d disks, want %d", site, name, len(m.Disks), len(disks))
	}
	all, err := ova.Open(b.view(site, name, "ova"))
	if err != nil {
		b.t.Fatal(err)
	}
	for n, want := range disks {
		disktest.Compare(b.t, b.diskView(site, name, "raw", n), want)
		for _, format := range []string{"qcow2", "vmdk"} {
			row, _ := rowOf(format)
			m, err := row.Open(b.diskView(site, name, format, n), formats.OpenOptions{})
			if err != nil {
				b.t.Fatalf("%s of disk %d: %v", format, n, err)
			}
			compareDisk(b.t, m.Disks[0], want)
		}
		compareDisk(b.t, all.Disks[n], want)
	}
}

// compareDisk compares a disk in a container, which is padded to sectors.
func compareDisk(t *testing.T, got, want disk.Image) {
	t.Helper()
	a, err := disk.Sum(context.Background(), got, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := disk.Sum(context.Background(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Errorf("the disk has digest %s, want %s", a, b)
	}
}

// TestSetInViews reads a machine of several files in all formats.
func TestSetInViews(t *testing.T) {
	b := newBench(t)
	putSet(b)
	b.holdsSet("a", "web", holes(), second(), third())
	// The container that a disk has is handed on as it is.
	plain, err := os.ReadFile(filepath.Join(b.dir, "a/web.disks/2-vdc.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	disktest.Compare(t, b.diskView("a", "web", "qcow2", 2), disk.Bytes(plain))
	text, _, err := b.Document(context.Background(), "a", b.entry("a", "web"))
	if err != nil || strings.Count(string(text), `"size"`) != 3 || !strings.Contains(string(text), `"vdb"`) {
		t.Errorf("metadata is %s, %v", text, err)
	}
	before := map[string]string{}
	for _, f := range viewFormats {
		before[f] = b.sum("a", "web", f)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open()
	for _, f := range viewFormats {
		if b.sum("a", "web", f) != before[f] {
			t.Errorf("%s is another after a restart", f)
		}
	}
	disktest.Compare(t, b.diskView("a", "web", "qcow2", 2), disk.Bytes(plain))

	// A disk that changes changes the machine.
	old := b.view("a", "web", "ova")
	b.put("a/web.disks/1-vdb.raw", third())
	if _, err := disk.FlatSum(context.Background(), old); disk.KindOf(err) != disk.Stale {
		t.Errorf("the ova of the old disks: %v", err)
	}
	b.holdsSet("a", "web", holes(), third(), third())
}

// TestCopySet copies a machine of several disks as one job.
func TestCopySet(t *testing.T) {
	for store, want := range map[string][]string{
		"":      {"web.raw", "web.disks/1-vdb.raw", "web.disks/2-vdc.qcow2"},
		"qcow2": {"web.qcow2", "web.disks/1-vdb.qcow2", "web.disks/2-vdc.qcow2"},
	} {
		b := newBench(t)
		putSet(b)
		mtime := time.Unix(1_600_000_000, 0)
		spec := CopySpec{From: b.view("a", "web", "ova"), Site: "b", Name: "web", Store: store, Mtime: mtime}
		plan, err := b.Plan(context.Background(), spec)
		if err != nil || len(plan.Disks) != 3 || len(b.files("b")) > 0 {
			t.Errorf("plan %+v, %v", plan, err)
		}
		rec, err := b.copy(spec)
		if err != nil {
			t.Fatal(err)
		}
		if rec.State != jobs.Done || len(rec.Disks) != 3 || len(rec.Notes) != 0 || rec.Format != plan.Format || rec.Bytes != plan.Bytes {
			t.Errorf("record %+v, plan %+v", rec, plan)
		}
		for i, d := range rec.Disks {
			sum, err := b.GuestDigest(context.Background(), Ref{Site: "a", Entry: b.entry("a", "web"), Disk: i})
			if err != nil || d.GuestDigest != sum || d.BytesDigest == "" || d.Number != i || plan.Disks[i].Bytes != d.Bytes {
				t.Errorf("disk %d is %+v, %v", i, d, err)
			}
		}
		for _, file := range want {
			info, err := os.Stat(filepath.Join(b.dir, "b", file))
			if err != nil || !info.ModTime().Equal(mtime) {
				t.Errorf("store %q: %s: %v, %v", store, file, info, err)
			}
		}
		if got := b.files("b"); len(got) != 2 {
			t.Errorf("the destination holds %q", got)
		}
		b.holdsSet("b", "web", holes(), second(), third())

		// Again, as a whole and disk by disk: nothing is done.
		for _, spec := range []CopySpec{
			{From: b.view("a", "web", "ova")},
			{From: b.view("a", "web", "raw")},
			{From: b.view("a", "web", "qcow2"), Machine: true},
			{From: b.diskView("a", "web", "vmdk", 1), Disk: 1, Device: "other"},
			{Image: b.view("a", "web", "ova"), Format: "ova"},
			{Image: second(), Format: "raw", Disk: 1},
		} {
			spec.Site, spec.Name, spec.Store = "b", "web", store
			rec, err := b.copy(spec)
			if err != nil || !rec.Unchanged || len(rec.Notes) != 0 {
				t.Errorf("again: %+v, %v", rec, err)
			}
		}
		// Another disk, in any place, is refused.
		for _, spec := range []CopySpec{
			{Image: third(), Format: "raw", Disk: 1}, {Image: third(), Format: "raw"}, {From: b.diskView("a", "web", "raw", 1)},
		} {
			spec.Site, spec.Name = "b", "web"
			_, err := b.copy(spec)
			wantKind(t, err, disk.Exists)
		}
		b.holdsSet("b", "web", holes(), second(), third())
	}
}

// TestCopyIntoSingleDisks copies where one disk is kept in an image.
func TestCopyIntoSingleDisks(t *testing.T) {
	b := newBench(t, singleB)
	putSet(b)
	two(b)
	machine := CopySpec{From: b.view("a", "web", "ova"), Site: "b", Name: "web", Store: "qcow2"}
	_, err := b.copy(machine)
	wantKind(t, err, disk.Unsupported)
	if disk.AsError(err).Hint == "" {
		t.Error("no hint")
	}
	_, err = b.copy(CopySpec{Image: second(), Format: "raw", Site: "b", Name: "web", Disk: 1})
	wantKind(t, err, disk.Unsupported)
	if got := b.files("b"); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}

	// One file holds them all, where that is kept.
	machine.Store = ""
	rec, err := b.copy(machine)
	if err != nil || rec.Format != "ova" || len(rec.Notes) != 0 {
		t.Errorf("%+v, %v", rec, err)
	}
	b.holdsSet("b", "web", holes(), second(), third())

	// The boot disk alone is one of several, and the record says so.
	for i, name := range []string{"web", "two"} {
		rec, err = b.copy(CopySpec{From: b.view("a", name, "qcow2"), Site: "b", Name: name + "-boot", Store: "qcow2"})
		if err != nil || len(rec.Notes) != 1 || !strings.Contains(rec.Notes[0], "boot disk") || !strings.Contains(rec.Notes[0], []string{"3", "2"}[i]+" disks") {
			t.Errorf("%+v, %v", rec, err)
		}
		compareDisk(t, b.view("b", name+"-boot", "raw"), holes())
	}
}

// TestSetInAnyOrder lets the disks of a machine arrive one by one, and the machine as
// a whole among them.
func TestSetInAnyOrder(t *testing.T) {
	b := newBench(t)
	putSet(b)
	boot := CopySpec{From: b.view("a", "web", "raw")}
	one := CopySpec{From: b.diskView("a", "web", "raw", 1), Disk: 1, Device: "vdb"}
	last := CopySpec{From: b.diskView("a", "web", "raw", 2), Disk: 2, Device: "vdc"}
	all := CopySpec{From: b.view("a", "web", "ova")}
	outside := CopySpec{Image: b.view("a", "web", "ova"), Format: "ova"}
	for i, order := range [][]CopySpec{
		{boot, one, last},
		{last, one, boot},
		{one, boot, last},
		{last, boot, one},
		{boot, last, one},
		{boot, all, last},
		{one, all, boot},
		{last, outside, boot},
		{boot, outside},
		{all, boot, last},
		{boot, last, outside},
	} {
		name := "web" + string(rune('a'+i))
		for _, spec := range order {
			spec.Site, spec.Name = "b", name
			if _, err := b.copy(spec); err != nil {
				t.Fatalf("order %d: %v", i, err)
			}
		}
		b.holdsSet("b", name, holes(), second(), third())
	}
	for _, file := range b.files("b") {
		if strings.HasPrefix(file, ".") || strings.HasSuffix(file, ".ova") {
			t.Errorf("the folder holds %q", file)
		}
	}
	// What is handed over as one file, when nothing else is there, is kept so.
	rec, err := b.copy(CopySpec{Image: b.view("a", "web", "ova"), Format: "ova", Site: "b", Name: "whole"})
	if err != nil || rec.Format != "ova" {
		t.Errorf("%+v, %v", rec, err)
	}
	// No disk can be added to that.
	_, err = b.copy(CopySpec{Image: third(), Format: "raw", Site: "b", Name: "whole", Disk: 3})
	wantKind(t, err, disk.Exists)
}

// TestDiskThatWaits follows a data disk without a boot disk.
func TestDiskThatWaits(t *testing.T) {
	b := newBench(t)
	spec := CopySpec{Image: second(), Format: "raw", Site: "b", Name: "web", Disk: 1, Device: "vdb"}
	rec, err := b.copy(spec)
	if err != nil || rec.Entry.Kind != providers.Disks || len(rec.Notes) != 1 || rec.Destination != "b:images/web.disks/1-vdb" {
		t.Fatalf("%+v, %v", rec, err)
	}
	rec, err = b.copy(spec)
	if err != nil || !rec.Unchanged {
		t.Errorf("again: %+v, %v", rec, err)
	}
	spec.Image = third()
	_, err = b.copy(spec)
	wantKind(t, err, disk.Exists)
	_, err = b.copy(CopySpec{Image: machineOf(t, holes(), third()), Format: "ova", Site: "b", Name: "web"})
	wantKind(t, err, disk.Exists)
	if l, err := b.List(context.Background(), "b", providers.Images); err != nil || len(l.Entries) != 0 {
		t.Errorf("listed is %+v, %v", l.Entries, err)
	}
	spec.Replace = true
	if rec, err = b.copy(spec); err != nil || rec.Unchanged {
		t.Errorf("%+v, %v", rec, err)
	}

	// After an hour it is told of, once, over restarts too; and it stays.
	if got := b.OverdueDisks(context.Background()); len(got) != 0 {
		t.Errorf("overdue are %+v at once", got)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open()
	b.Pipeline.disks[waitingKey("b", providers.Entry{Name: "web", Waiting: &providers.Waiting{Number: 1}})] = time.Now().Add(-2 * heldTime)
	got := b.OverdueDisks(context.Background())
	if len(got) != 1 || got[0].Place != "b:images/web.disks/1-vdb" || got[0].Site != "b" {
		t.Errorf("overdue are %+v", got)
	}
	if got := b.OverdueDisks(context.Background()); len(got) != 0 {
		t.Errorf("told twice: %+v", got)
	}
	rec, err = b.copy(CopySpec{Image: holes(), Format: "raw", Site: "b", Name: "web"})
	if err != nil || len(rec.Entry.Disks) != 2 || len(rec.Notes) != 1 {
		t.Errorf("%+v, %v", rec, err)
	}
	b.holdsSet("b", "web", holes(), third())
}

// disks are the names of a folder but for metadata.
func (b *bench) disks(dir string) []string {
	b.t.Helper()
	return slices.DeleteFunc(b.files(dir), func(name string) bool { return strings.HasSuffix(name, ".json") })
}

// machineOf packs disks in an ova.
func machineOf(t *testing.T, disks ...disk.Image) disk.Image {
	t.Helper()
	m := &disk.Machine{}
	for _, d := range disks {
		m.Disks = append(m.Disks, disk.Disk{Image: d})
	}
	f, err := ova.Layout(m, layout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestReplaceSet puts machines, and single disks, in the place of others.
func TestReplaceSet(t *testing.T) {
	b := newBench(t)
	putSet(b)
	set := CopySpec{From: b.view("a", "web", "ova"), Site: "b", Name: "web"}
	if _, err := b.copy(set); err != nil {
		t.Fatal(err)
	}
	again := func(spec CopySpec) *jobs.Record {
		t.Helper()
		spec.Site, spec.Name = "b", "web"
		_, err := b.copy(spec)
		wantKind(t, err, disk.Exists)
		spec.Replace = true
		rec, err := b.copy(spec)
		if err != nil || rec.Unchanged {
			t.Fatalf("%+v, %v", rec, err)
		}
		return rec
	}
	again(CopySpec{Image: third(), Format: "raw", Disk: 1, Device: "x"})
	b.holdsSet("b", "web", holes(), third(), third())
	rec := again(CopySpec{Image: second(), Format: "raw"})
	if len(rec.Notes) != 1 || !strings.Contains(rec.Notes[0], "2 data disks") {
		t.Errorf("notes %q", rec.Notes)
	}
	b.holdsSet("b", "web", second(), third(), third())
	again(set)
	b.holdsSet("b", "web", holes(), second(), third())
	again(CopySpec{Image: machineOf(t, second(), third()), Format: "ova", Store: "qcow2"})
	b.holdsSet("b", "web", second(), third())
	again(CopySpec{Image: machineOf(t, third(), third(), holes()), Format: "ova"})
	b.holdsSet("b", "web", third(), third(), holes())
	if got := b.disks("b"); !slices.Equal(got, []string{"web.ova"}) {
		t.Errorf("the folder holds %q", got)
	}
	again(CopySpec{From: b.view("a", "web", "ova")})
	b.holdsSet("b", "web", holes(), second(), third())
	if got := b.disks("b"); !slices.Equal(got, []string{"web.disks", "web.raw"}) {
		t.Errorf("the folder holds %q", got)
	}
}

// TestCopyLiveSet copies a live machine whose disks lie apart: all of them at one
// moment, or one of them, which is not of the moment of the others.
func TestCopyLiveSet(t *testing.T) {
	b := newBench(t)
	putSet(b)
	for _, file := range []string{"web.raw", "web.disks"} {
		if err := os.Rename(filepath.Join(b.dir, "a", file), filepath.Join(b.dir, "live", file)); err != nil {
			t.Fatal(err)
		}
	}
	b.Forget("a")
	live := b.find("a", providers.Instances, "web")
	view := func(format string, n int) *View {
		v, err := b.View(context.Background(), Ref{Site: "a", Entry: live, Format: format, Disk: n})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { v.Close() })
		return v
	}
	rec, err := b.copy(CopySpec{From: view("raw", 0), Machine: true, Site: "b", Name: "whole"})
	if err != nil || len(rec.Notes) != 0 || rec.Consistency != "crash" || len(rec.Disks) != 3 {
		t.Errorf("%+v, %v", rec, err)
	}
	b.holdsSet("b", "whole", holes(), second(), third())
	rec, err = b.copy(CopySpec{From: view("raw", 2), Site: "b", Name: "parts", Disk: 1})
	if err != nil || len(rec.Notes) != 2 || !strings.Contains(rec.Notes[0], "at one moment") {
		t.Errorf("%+v, %v", rec, err)
	}
	rec, err = b.Capture(context.Background(), "a", live, CaptureOptions{Keep: 1})
	if err != nil || len(rec.Entry.Disks) != 3 {
		t.Fatalf("%+v, %v", rec, err)
	}
	rec, err = b.Capture(context.Background(), "a", live, CaptureOptions{Image: "made"})
	if err != nil {
		t.Fatalf("%+v, %v", rec, err)
	}
	b.holdsSet("a", "made", holes(), second(), third())
	if err := b.Close(); err != nil { // which ends the views that linger
		t.Fatal(err)
	}
	if left := b.files("live"); len(left) != 4 {
		t.Errorf("the instances hold %q", left)
	}
	b.open()
}
