package pipeline

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/pipeline/jobs"
)

// A crash long ago has left this in a folder of images.
const oldPart = ".chromogenic-20250101T000000Z-abcdef-XYZ.part"

// paused is a copy from a to b that waits after it has sent all.
func (b *bench) paused() *jobs.Record {
	b.t.Helper()
	b.put("a/web.raw", holes())
	v := b.view("a", "web", "raw")
	defer v.Close()
	rec, err := b.copy(CopySpec{From: v, Site: "b", Name: "web", Until: stageSend})
	if err != nil || rec.State != jobs.Interrupted {
		b.t.Fatalf("paused: %+v, %v", rec, err)
	}
	return rec
}

// gc collects, and gives "what id" of each leftover.
func (b *bench) gc(dryRun bool) []string {
	b.t.Helper()
	found, err := b.GC(context.Background(), GCOptions{DryRun: dryRun})
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, l := range found {
		if l.Reason == "" {
			b.t.Errorf("no reason is given: %+v", l)
		}
		out = append(out, l.What+" "+l.ID)
	}
	return out
}

// unfinished are the hidden files of a folder.
func (b *bench) unfinished(dir string) int {
	b.t.Helper()
	files, err := filepath.Glob(filepath.Join(b.dir, dir, ".*"))
	if err != nil {
		b.t.Fatal(err)
	}
	return len(files)
}

func TestGCRemovesWhatNobodyGoesOnWith(t *testing.T) {
	b := newBench(t)
	rec := b.paused()
	if err := os.WriteFile(filepath.Join(b.dir, "b", oldPart), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"temporary images/" + oldPart}
	if got := b.gc(true); !slices.Equal(got, want) || b.unfinished("b") != 2 {
		t.Errorf("a dry run finds %v, want %v; there are %d files", got, want, b.unfinished("b"))
	}
	found, err := b.GC(context.Background(), GCOptions{})
	if err != nil || len(found) != 1 || found[0].Site != "b" || !found[0].Since.Equal(time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("removed %+v, %v", found, err)
	}
	if got := b.gc(false); len(got) != 0 || b.unfinished("b") != 1 {
		t.Errorf("a second run finds %v; there are %d files", got, b.unfinished("b"))
	}
	if done, err := b.Resume(context.Background(), rec.ID, "", nil); err != nil || done.State != jobs.Done {
		t.Errorf("resumed after the collection: %+v, %v", done, err)
	}
	disktest.Compare(t, b.view("b", "web", "raw"), holes())
}

func TestGCGivesUpJobs(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *bench, id string) error
		kind   disk.Kind
	}{
		"source gone": {func(b *bench, _ string) error { return os.Remove(filepath.Join(b.dir, "a/web.raw")) }, disk.NotFound},
		"source changed": {func(b *bench, _ string) error {
			b.put("a/web.raw", disktest.Pattern(3<<20, nil))
			return nil
		}, disk.Stale},
		"no source is known": {func(b *bench, id string) error {
			return b.Jobs().Change(id, func(r *jobs.Record) { r.Resume = nil })
		}, disk.NotFound},
		"forgotten": {func(b *bench, id string) error {
			return b.Jobs().Change(id, func(r *jobs.Record) {
				const long = 8 * 24 * time.Hour
				r.Started, r.Ended = r.Started.Add(-long), r.Ended.Add(-long)
				for i := range r.Stages {
					r.Stages[i].Started = r.Stages[i].Started.Add(-long)
				}
			})
		}, disk.Cancelled},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			rec := b.paused()
			if err := c.change(b, rec.ID); err != nil {
				t.Fatal(err)
			}
			want := []string{"job " + rec.ID}
			if got := b.gc(true); !slices.Equal(got, want) || b.unfinished("b") != 1 {
				t.Errorf("a dry run finds %v, want %v; there are %d files", got, want, b.unfinished("b"))
			}
			if got := b.gc(false); !slices.Equal(got, want) || b.unfinished("b") != 0 {
				t.Errorf("removed %v, want %v; there are %d files", got, want, b.unfinished("b"))
			}
			got, err := b.Jobs().Get(rec.ID)
			if err != nil || !got.State.Ended() || got.Error == nil || got.Error.Kind != c.kind.String() || len(got.Made) > 0 {
				t.Errorf("the record is %+v, %v", got, err)
			}
		})
	}
}

// A provider that is out of reach keeps its jobs, and the others are looked at.
func TestGCWithoutAProvider(t *testing.T) {
	b := newBench(t)
	rec := b.paused()
	if err := os.Rename(filepath.Join(b.dir, "a"), filepath.Join(b.dir, "away")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "b", oldPart), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := b.GC(context.Background(), GCOptions{})
	wantKind(t, err, disk.Unreachable)
	if len(found) != 1 || found[0].Site != "b" || found[0].What != "temporary" {
		t.Errorf("removed %+v", found)
	}
	if got, err := b.Jobs().Get(rec.ID); err != nil || got.State != jobs.Interrupted {
		t.Errorf("the record is %+v, %v", got, err)
	}
}

func TestGCSpools(t *testing.T) {
	b := newBench(t)
	s, err := b.NewSpool(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	write(t, s, holes(), 1<<20, true)
	rec, err := b.copy(CopySpec{Image: s.Image(), Format: "raw", Origin: "outside", Site: "b", Name: "web", Until: stageSend})
	if err != nil || len(rec.Made) == 0 {
		t.Fatalf("%+v, %v", rec, err)
	}
	live, err := b.NewSpool(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	write(t, live, disktest.Pattern(1<<20, nil), 1<<20, true)
	defer live.Close()
	defer s.Close()
	lost := "20250101T000000Z-abcdef"
	if err := os.WriteFile(filepath.Join(b.dir, "state/spool", lost), make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		later time.Duration
		want  []string
	}{{0, nil}, {time.Hour, []string{lost}}} {
		found, err := b.spareSpools(time.Now().Add(c.later))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, j := range found {
			got = append(got, j.ID)
			if j.Size != 8192 {
				t.Errorf("its size is %d", j.Size)
			}
			if err := j.remove(context.Background()); err != nil {
				t.Error(err)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v later: %v, want %v", c.later, got, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(b.dir, "state/spool", lost)); !os.IsNotExist(err) {
		t.Errorf("the spool is there: %v", err)
	}
}

// Start does in the background what a crash has left to do.
func TestStart(t *testing.T) {
	b := newBench(t)
	rec := b.paused()
	// As if it had been cut off, and not paused.
	if err := b.Jobs().Change(rec.ID, func(r *jobs.Record) { r.Until = "" }); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "b", oldPart), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open()
	b.Start(t.Context())
	b.work.Wait()
	if got, err := b.Jobs().Get(rec.ID); err != nil || got.State != jobs.Done {
		t.Errorf("the record is %+v, %v", got, err)
	}
	if b.unfinished("b") != 0 {
		t.Error("a temporary file is left")
	}
	disktest.Compare(t, b.view("b", "web", "raw"), holes())
}

// A process that ends at once leaves the jobs to the next.
func TestStartIsSuspended(t *testing.T) {
	b := newBench(t)
	rec := b.paused()
	if err := b.Jobs().Change(rec.ID, func(r *jobs.Record) { r.Until = "" }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b.Start(ctx)
	b.work.Wait()
	if got, err := b.Jobs().Get(rec.ID); err != nil || got.State != jobs.Interrupted || b.unfinished("b") != 1 {
		t.Errorf("the record is %+v, %v; there are %d files", got, err, b.unfinished("b"))
	}
}
