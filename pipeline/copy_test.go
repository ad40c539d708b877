package pipeline

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/formats/layout"
	"chromogenic/formats/ova"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

func (b *bench) copy(spec CopySpec) (*jobs.Record, error) {
	return b.Copy(context.Background(), spec)
}

func TestCopyKeepsTheSourcesContainer(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	mtime := time.Unix(1_600_000_000, 5)
	for _, format := range viewFormats {
		rec, err := b.copy(CopySpec{From: b.view("a", "web", format), Site: "b", Name: "web", Mtime: mtime})
		if err != nil {
			t.Fatal(err)
		}
		if rec.State != jobs.Done || rec.Unchanged != (format != "raw") || rec.Format != "raw" && !rec.Unchanged {
			t.Errorf("%s: record %+v", format, rec)
		}
		if got := rec.Entry.Updated; !got.Equal(mtime) {
			t.Errorf("%s: mtime %v, want %v", format, got, mtime)
		}
	}
	if got := b.files("b"); !slices.Equal(got, []string{"web.raw"}) {
		t.Errorf("the destination holds %v", got)
	}
	disktest.Compare(t, b.view("b", "web", "raw"), holes())
	if got, want := b.view("b", "web", "raw").Allocated(), b.view("a", "web", "raw").Allocated(); got != want {
		t.Errorf("the copy takes %d bytes, its source %d", got, want)
	}
}

func TestCopyStoresWhatIsAskedFor(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	for _, format := range viewFormats {
		rec, err := b.copy(CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: format, Store: format})
		if err != nil {
			t.Fatal(err)
		}
		if rec.Format != format {
			t.Errorf("stored as %s, want %s", rec.Format, format)
		}
		if want, _ := disk.Sum(context.Background(), holes(), nil); rec.GuestDigest != want {
			t.Errorf("%s: guest digest %s, want %s", format, rec.GuestDigest, want)
		}
		disktest.Compare(t, b.view("b", format, "raw"), holes())
	}
}

func TestCopyFromOutside(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	for _, format := range viewFormats {
		rec, err := b.copy(CopySpec{Image: b.view("a", "web", format), Format: format, Origin: "outside", Site: "b", Name: format})
		if err != nil {
			t.Fatal(err)
		}
		if rec.Format != format {
			t.Errorf("%s was handed over and %s is stored", format, rec.Format)
		}
		disktest.Compare(t, b.view("b", format, format), b.view("a", "web", format))
	}
	_, err := b.copy(CopySpec{Image: b.view("a", "web", "qcow2"), Format: "raw", Site: "b", Name: "wrong"})
	wantKind(t, err, disk.Malformed)
	_, err = b.copy(CopySpec{Image: b.view("a", "web", "raw"), Format: "qcow2", Site: "b", Name: "wrong"})
	wantKind(t, err, disk.Malformed)
}

func TestCopyOntoATakenName(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.put("b/web.qcow2", b.view("a", "web", "qcow2"))
	rec, err := b.copy(CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web"})
	if err != nil || !rec.Unchanged {
		t.Fatalf("the same disk in another container: %v, %+v", err, rec)
	}
	b.put("a/other.raw", disktest.Pattern(3<<20+512, func(int64) bool { return true }))
	_, err = b.copy(CopySpec{From: b.view("a", "other", "raw"), Site: "b", Name: "web"})
	wantKind(t, err, disk.Exists)
	if got := b.files("b"); !slices.Equal(got, []string{"web.qcow2"}) {
		t.Errorf("the destination holds %v", got)
	}
}

func TestFailedCopyLeavesNothing(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	for name, f := range map[string]disktest.Faults{
		"read error": {Range: disk.Extent{Off: 1 << 20, Len: 1}, Err: errors.New("bad sector")},
		"short read": {Range: disk.Extent{Off: 1 << 20, Len: 1}, Short: 1},
	} {
		src := disktest.Faulty(holes(), f)
		rec, err := b.copy(CopySpec{Image: src, Format: "raw", Site: "b", Name: "web"})
		if err == nil || rec.State != jobs.Failed || rec.Error == nil {
			t.Errorf("%s: error %v, record %+v", name, err, rec)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	rec, err := b.Copy(ctx, CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web", Progress: func(p Progress) {
		if p.Stage == "verify" {
			cancel()
		}
	}})
	wantKind(t, err, disk.Cancelled)
	if rec.State != jobs.Cancelled {
		t.Errorf("state %s", rec.State)
	}
	_, err = b.copy(CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web", Clean: "require"})
	wantKind(t, err, disk.Unsupported)
	if got := b.files("b"); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

// TestCopyNoticesASourceThatChangesItsMind copies an image whose storage gives
// other bytes than it did before, without any sign.
func TestCopyNoticesASourceThatChangesItsMind(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	e := b.entry("a", "web")
	if _, err := b.GuestDigest(context.Background(), Ref{Site: "a", Entry: e}); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(b.dir, "a/web.raw"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1}, 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Chtimes(f.Name(), e.Updated, e.Updated); err != nil {
		t.Fatal(err)
	}
	_, err = b.copy(CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web"})
	wantKind(t, err, disk.Malformed)
	if got := b.files("b"); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestReplacesWithdrawsTheWritersOwn(t *testing.T) {
	b := newBench(t)
	blank := disktest.Runs(1 << 20)
	first, err := b.copy(CopySpec{Image: blank, Format: "raw", Site: "b", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.copy(CopySpec{Image: holes(), Format: "raw", Site: "b", Name: "web", Replaces: first.Entry})
	if err != nil {
		t.Fatal(err)
	}
	disktest.Compare(t, b.view("b", "web", "raw"), holes())
}

func TestPlanChangesNothing(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	rec, err := b.Plan(context.Background(), CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web", Store: "qcow2"})
	if err != nil {
		t.Fatal(err)
	}
	want := b.view("a", "web", "qcow2").Allocated()
	if rec.State != jobs.Planned || rec.Format != "qcow2" || rec.Bytes != want || len(rec.Stages) == 0 {
		t.Errorf("plan %+v, want %d bytes", rec, want)
	}
	if got := b.files("b"); len(got) > 0 {
		t.Errorf("the plan made %v", got)
	}
	l, err := b.List(context.Background(), "b", providers.Images)
	if err != nil || len(l.Entries) > 0 {
		t.Errorf("%v, %v", l, err)
	}
}

// two makes an ova of two disks and gives them.
func two(b *bench) (first, second disk.Image) {
	b.t.Helper()
	first = holes()
	second = disktest.Runs(2<<20, disk.Extent{Off: 1 << 20, Len: 64 << 10})
	file, err := ova.Layout(&disk.Machine{Disks: []disk.Disk{{Image: first}, {Image: second}}}, layout.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.put("a/two.ova", file)
	return first, second
}

// TestCopyOneOfSeveralDisks copies the second disk of a machine: its bytes and
// its digest, and never the machine's boot disk.
func TestCopyOneOfSeveralDisks(t *testing.T) {
	for _, store := range []string{"source", "raw", "qcow2", "ova"} {
		b := newBench(t)
		_, second := two(b)
		v, err := b.View(context.Background(), Ref{Site: "a", Entry: b.entry("a", "two"), Format: "raw", Disk: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		disktest.Compare(t, v, second)
		rec, err := b.copy(CopySpec{From: v, Site: "b", Name: "data", Store: store})
		if err != nil {
			t.Fatal(err)
		}
		want, err := disk.Sum(context.Background(), second, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rec.GuestDigest != want {
			t.Errorf("store %s: guest digest %s, want %s", store, rec.GuestDigest, want)
		}
		disktest.Compare(t, b.view("b", "data", "raw"), second)
		_, err = b.copy(CopySpec{From: b.view("a", "two", "raw"), Site: "b", Name: "data"})
		wantKind(t, err, disk.Exists)
		_, err = b.copy(CopySpec{From: v, Site: "a", Name: "two"})
		wantKind(t, err, disk.Exists)
	}
}

// TestManyFileImagesAreLookedAtAgain changes the data of an image beside its
// descriptor, which stays as it is.
func TestManyFileImagesAreLookedAtAgain(t *testing.T) {
	b := newBench(t)
	const text = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 4096 FLAT \"m-flat.vmdk\" 0\n"
	flat := func(data ...disk.Extent) disk.Image { return disktest.Runs(2<<20, data...) }
	b.put("a/m-flat.vmdk", flat(disk.Extent{Len: 64 << 10}))
	b.put("a/m.vmdk", disk.Bytes([]byte(text)))
	e := b.entry("a", "m")
	if _, err := b.GuestDigest(context.Background(), Ref{Site: "a", Entry: e}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	after := flat(disk.Extent{Off: 1 << 20, Len: 128 << 10})
	b.put("a/m-flat.vmdk", after)
	b.open()
	if _, err := b.copy(CopySpec{From: b.view("a", "m", "qcow2"), Site: "b", Name: "m", Store: "qcow2"}); err != nil {
		t.Fatal(err)
	}
	disktest.Compare(t, b.view("b", "m", "raw"), after)
}

// TestClosedSpoolIsNoDisk reads a spool that was dropped: an error, never zeros.
func TestClosedSpoolIsNoDisk(t *testing.T) {
	b := newBench(t)
	s := newSpool(t, b)
	if _, err := s.WriteAt([]byte("bytes"), 0); err != nil {
		t.Fatal(err)
	}
	img := s.Image()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := disk.ReadFull(img, make([]byte, 5), 0); !errors.Is(err, disk.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := img.Extent(0, 5); !errors.Is(err, disk.ErrClosed) {
		t.Errorf("extent: %v", err)
	}
}

// TestSeveralDisksAreNotDropped copies a machine in one file to where another format
// is kept.
func TestSeveralDisksAreNotDropped(t *testing.T) {
	b := newBench(t)
	first, second := two(b)
	v := b.view("a", "two", "ova")
	for _, store := range []string{"raw", "qcow2", "vmdk"} {
		for i, spec := range []CopySpec{{From: v}, {Image: v, Format: "ova", Origin: "outside"}} {
			spec.Site, spec.Name, spec.Store = "b", store+string(rune('0'+i)), store
			if rec, err := b.copy(spec); err != nil || rec.Format != store || len(rec.Disks) != 2 {
				t.Fatalf("%+v, %v", rec, err)
			}
			b.holdsSet("b", spec.Name, first, second)
		}
	}
	rec, err := b.copy(CopySpec{From: v, Site: "b", Name: "two"})
	if err != nil || rec.Format != "ova" {
		t.Errorf("with store: source: %v, %+v", err, rec)
	}
}

// TestReplace puts another disk in the place of an image: only when it is asked
// for, and only when the new one is there.
func TestReplace(t *testing.T) {
	for _, store := range []string{"raw", "qcow2"} { // the old file's name is taken over, or another
		b := newBench(t)
		b.put("a/web.raw", holes())
		b.put("b/web.raw", disktest.Runs(1<<20, disk.Extent{Len: 1 << 20}))
		old := b.view("b", "web", "raw")
		spec := CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web", Store: store}
		_, err := b.copy(spec)
		wantKind(t, err, disk.Exists)

		// One that fails leaves the old one alone.
		spec.Replace = true
		ctx, cancel := context.WithCancel(context.Background())
		spec.Progress = func(p Progress) {
			if p.Stage == stageVerify {
				cancel()
			}
		}
		_, err = b.Copy(ctx, spec)
		wantKind(t, err, disk.Cancelled)
		disktest.Compare(t, b.view("b", "web", "raw"), disktest.Runs(1<<20, disk.Extent{Len: 1 << 20}))

		spec.Progress = nil
		rec, err := b.copy(spec)
		if err != nil || rec.Unchanged {
			t.Fatalf("%+v, %v", rec, err)
		}
		disktest.Compare(t, b.view("b", "web", "raw"), holes())
		if got := b.all("b"); len(got) != 1 {
			t.Errorf("store %s: there is %v", store, got)
		}
		if _, err := disk.FlatSum(context.Background(), old); disk.KindOf(err) != disk.Stale {
			t.Errorf("the view of the old image: %v", err)
		}
		if rec, err = b.copy(spec); err != nil || !rec.Unchanged {
			t.Errorf("again: %+v, %v", rec, err)
		}
	}
}
