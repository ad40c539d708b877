package pipeline

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// capture captures the machine vm of site a.
func (b *bench) capture(o CaptureOptions) *jobs.Record {
	b.t.Helper()
	rec, err := b.Capture(context.Background(), "a", b.live(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	return rec
}

// live is the machine vm of site a.
func (b *bench) live() providers.Entry {
	b.t.Helper()
	l, err := b.List(context.Background(), "a", providers.Instances)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range l.Entries {
		if e.Live() && e.Name == "vm" {
			return e
		}
	}
	b.t.Fatalf("no machine in %v", l.Entries)
	panic("unreachable")
}

func stageNames(rec *jobs.Record) string {
	var names []string
	for _, s := range rec.Stages {
		names = append(names, s.Name)
	}
	return strings.Join(names, " ")
}

// TestCaptureIsAnImage reads a capture in all formats while its machine changes.
func TestCaptureIsAnImage(t *testing.T) {
	b := newBench(t)
	b.put("live/vm.raw", holes())
	rec := b.capture(CaptureOptions{})
	if rec.State != jobs.Done || rec.Consistency != "crash" || stageNames(rec) != "capture" || rec.Entry == nil || rec.VirtualSize != holes().Size() {
		t.Fatalf("record %+v", rec)
	}
	e := *rec.Entry
	if want := "a:instances/vm@" + e.Capture.Taken.Format(providers.CaptureLayout); rec.Destination != want || rec.Source != "a:instances/vm" {
		t.Errorf("from %q to %q, want %q", rec.Source, rec.Destination, want)
	}
	b.rewrite("live/vm.raw", []byte("changed"), 0)
	listed, err := b.ListNow(context.Background(), "a", providers.Instances)
	if err != nil || len(listed.Entries) != 2 {
		t.Fatalf("instances are %v, %v", listed.Entries, err)
	}
	sums := map[string]string{}
	for round := range 3 {
		for _, format := range []string{"raw", "qcow2", "vmdk", "ova"} {
			v, err := b.View(context.Background(), Ref{Site: "a", Entry: e, Format: format})
			if err != nil {
				t.Fatal(err)
			}
			if format == "raw" {
				disktest.Compare(t, v, holes())
				if v.Allocated() >= v.Size() {
					t.Errorf("a capture shows no holes: %d of %d bytes", v.Allocated(), v.Size())
				}
			}
			sum, err := disk.FlatSum(context.Background(), v)
			if err != nil || sums[format] != "" && sums[format] != sum {
				t.Errorf("%s in round %d: %s, it was %s; %v", format, round, sum, sums[format], err)
			}
			sums[format] = sum
			v.Close()
		}
		b.Close()
		b.open()
	}
	if got := b.files("live"); len(got) != 2 {
		t.Errorf("reading a capture has made %v", got)
	}
}

// TestCaptureKeepsItsContainer hands the container of a capture on as it is.
func TestCaptureKeepsItsContainer(t *testing.T) {
	b := newBench(t)
	b.put("a/src.raw", holes())
	v := b.view("a", "src", "qcow2")
	b.put("live/vm.qcow2", v)
	rec := b.capture(CaptureOptions{})
	c, err := b.View(context.Background(), Ref{Site: "a", Entry: *rec.Entry, Format: "qcow2"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	disktest.Compare(t, c, v)
	copied, err := b.copy(CopySpec{From: c, Site: "b", Name: "backup"})
	if err != nil || copied.Consistency != "crash" || copied.Format != "qcow2" {
		t.Errorf("copy of a capture: %+v, %v", copied, err)
	}
	live, err := b.View(context.Background(), Ref{Site: "a", Entry: b.live(), Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if copied, err = b.copy(CopySpec{From: live, Site: "b", Name: "other"}); err != nil || copied.Consistency != "crash" {
		t.Errorf("copy of a live machine: %+v, %v", copied, err)
	}
	if copied, err = b.copy(CopySpec{From: b.view("a", "src", "raw"), Site: "b", Name: "third"}); err != nil || copied.Consistency != "" {
		t.Errorf("copy of an image: %+v, %v", copied, err)
	}
}

func TestCaptureRetention(t *testing.T) {
	b := newBench(t)
	b.put("live/vm.raw", holes())
	foreign := "live/vm@20200101T000000Z.raw" // of somebody else, older than all
	b.put(foreign, disktest.Pattern(4096, nil))
	b.put("live/other.raw", disktest.Pattern(4096, nil))
	other, err := b.Capture(context.Background(), "a", b.find("a", providers.Instances, "other"), CaptureOptions{Name: "vm"})
	if err != nil {
		t.Fatal(err)
	}
	named := b.capture(CaptureOptions{Name: "upgrade"})
	var made []string
	for range 4 {
		made = append(made, b.capture(CaptureOptions{}).Entry.ID)
	}
	want := func(step string, ids ...string) {
		t.Helper()
		ids = append(ids, "vm.raw", "other.raw", filepath.Base(foreign), other.Entry.ID, named.Entry.ID)
		slices.Sort(ids)
		if got := b.files("live"); !slices.Equal(got, ids) {
			t.Fatalf("%s: %v, want %v", step, got, ids)
		}
	}
	want("without retention", made...)
	rec := b.capture(CaptureOptions{Keep: 3})
	if stageNames(rec) != "capture prune" {
		t.Errorf("stages are %s", stageNames(rec))
	}
	want("keep 3", made[2], made[3], rec.Entry.ID)
	last := b.capture(CaptureOptions{Keep: 1})
	want("keep 1", last.Entry.ID)
	wide := b.capture(CaptureOptions{Keep: 9})
	want("keep 9", last.Entry.ID, wide.Entry.ID)
}

// TestFailedCaptureRemovesNothing keeps the old captures when there is no new one.
func TestFailedCaptureRemovesNothing(t *testing.T) {
	b := newBench(t)
	b.put("a/src.raw", holes())
	b.put("live/vm.qcow2", b.view("a", "src", "qcow2"))
	b.capture(CaptureOptions{})
	live := b.live()
	before := b.files("live")
	b.rewrite("live/vm.qcow2", make([]byte, 512), 0) // no qcow2 any longer
	rec, err := b.Capture(context.Background(), "a", live, CaptureOptions{Keep: 1})
	wantKind(t, err, disk.Malformed)
	if rec.State != jobs.Failed || !slices.Equal(b.files("live"), before) {
		t.Errorf("job %s, left are %v, there were %v", rec.State, b.files("live"), before)
	}
}

func TestCaptureRefused(t *testing.T) {
	tests := []struct {
		name, policy string
		o            CaptureOptions
		kind         disk.Kind
	}{
		{"never", "never", CaptureOptions{}, disk.Policy},
		{"never an image", "never", CaptureOptions{Image: "x"}, disk.Policy},
		{"stopped", "require-stopped", CaptureOptions{}, disk.Unsupported},
		{"frozen", "require-frozen", CaptureOptions{}, disk.Unsupported},
		{"freeze", "auto", CaptureOptions{Freeze: true}, disk.Unsupported},
		{"freeze for an image", "auto", CaptureOptions{Freeze: true, Image: "x"}, disk.Unsupported},
		{"keep", "auto", CaptureOptions{Keep: -1}, disk.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, func(o *Options) { o.Sites[0].Snapshot = tt.policy })
			b.put("live/vm.raw", holes())
			_, err := b.Capture(context.Background(), "a", b.live(), tt.o)
			wantKind(t, err, tt.kind)
			if got := append(b.files("live"), b.files("a")...); !slices.Equal(got, []string{"vm.raw"}) {
				t.Errorf("left are %v", got)
			}
		})
	}
	b := newBench(t, func(o *Options) { o.Sites[0].Snapshot = "on-copy" })
	b.put("live/vm.raw", holes())
	rec := b.capture(CaptureOptions{})
	_, err := b.Capture(context.Background(), "a", *rec.Entry, CaptureOptions{})
	wantKind(t, err, disk.Unsupported)
	if got := b.files("live"); len(got) != 2 {
		t.Errorf("a capture was captured: %v", got)
	}
}

// TestCaptureImage makes images of captures, which stay or do not.
func TestCaptureImage(t *testing.T) {
	b := newBench(t)
	b.put("live/vm.raw", holes())
	rec := b.capture(CaptureOptions{Image: "gone"})
	if rec.State != jobs.Done || rec.Entry.Kind != providers.Images || rec.Consistency != "crash" {
		t.Errorf("record %+v", rec)
	}
	disktest.Compare(t, b.view("a", "gone", "raw"), holes())
	rec = b.capture(CaptureOptions{Image: "kept", Keep: 2, Name: "n"})
	if rec.State != jobs.Done || rec.Entry.Kind != providers.Images || rec.Consistency != "crash" || !strings.HasPrefix(stageNames(rec), "capture prune check open") {
		t.Errorf("record %+v", rec)
	}
	if len(rec.Notes) != 1 || !strings.Contains(rec.Notes[0], "a:instances/n@") {
		t.Errorf("notes %q", rec.Notes)
	}
	disktest.Compare(t, b.view("a", "kept", "raw"), holes())
	if again := b.capture(CaptureOptions{Image: "kept"}); !again.Unchanged {
		t.Errorf("the same disk again: %+v", again)
	}
	b.Close() // captures that do not stay go with their readers
	if got := b.files("live"); len(got) != 2 || !strings.HasPrefix(got[0], "n@") {
		t.Errorf("left are %v", got)
	}
	b.open()
}

// TestCancelledCapture leaves nothing.
func TestCancelledCapture(t *testing.T) {
	b := newBench(t)
	b.put("live/vm.raw", holes())
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := disk.Errorf(disk.Cancelled, "enough")
	cancel(cause)
	rec, err := b.Capture(ctx, "a", b.live(), CaptureOptions{})
	if !errors.Is(err, cause) || rec.State != jobs.Cancelled {
		t.Errorf("cancelled capture: %v, job %+v", err, rec)
	}
	if got := b.files("live"); len(got) != 1 {
		t.Errorf("left are %v", got)
	}
}

// TestCapturesAtOnce captures one machine several times at the same moment, while
// others read it.
func TestCapturesAtOnce(t *testing.T) {
	b := newBench(t)
	b.put("live/vm.raw", holes())
	live := b.live()
	const n = 4
	errs := make(chan error, 2*n)
	for range n {
		go func() {
			_, err := b.Capture(context.Background(), "a", live, CaptureOptions{})
			errs <- err
		}()
		go func() {
			v, err := b.View(context.Background(), Ref{Site: "a", Entry: live, Format: "raw"})
			if err == nil {
				_, err = v.ReadAt(make([]byte, 512), 0)
				v.Close()
			}
			errs <- err
		}()
	}
	for range 2 * n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	seen := map[time.Time]bool{}
	l, err := b.ListNow(context.Background(), "a", providers.Instances)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range l.Entries {
		if e.Capture == nil {
			continue
		}
		seen[e.Capture.Taken] = true
		v, err := b.View(context.Background(), Ref{Site: "a", Entry: e, Format: "raw"})
		if err != nil {
			t.Fatal(err)
		}
		disktest.Compare(t, v, holes())
		v.Close()
	}
	if len(seen) != n {
		t.Errorf("%d captures, want %d", len(seen), n)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "live/vm.raw")); err != nil {
		t.Error(err)
	}
}
