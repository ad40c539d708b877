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
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// remove removes an image of a site.
func (b *bench) remove(site, name string) (Removed, error) {
	b.t.Helper()
	return b.Remove(context.Background(), site, b.entry(site, name), "a test", false)
}

func TestRemove(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.put("a/db.raw", holes())
	b.putExtents(1 << 20)
	b.setMeta("a", "x", providers.Metadata{Meta: disk.Meta{Firmware: "uefi"}})
	e := b.entry("a", "x")
	plan, err := b.PlanRemoval(t.Context(), "a", e, false)
	if err != nil || !slices.Equal(plan.Files, []string{"x.vmdk", "x-f001.bin", "x-f002.bin"}) || plan.Metadata != "x.json" || plan.Size < 2<<20 {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
	if got := len(b.files("a")); got != 6 {
		t.Errorf("a plan has left %d files", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got, err := b.Remove(ctx, "a", e, "a test", false)
	cancel()
	if err != nil || got.Job == "" || !slices.Equal(got.Files, plan.Files) {
		t.Fatalf("removed %+v, %v", got, err)
	}
	if left := b.files("a"); !slices.Equal(left, []string{"db.raw", "web.raw"}) {
		t.Errorf("left: %q", left)
	}
	l, err := b.List(t.Context(), "a", providers.Images) // which was fresh
	if err != nil || len(l.Entries) != 2 {
		t.Errorf("listed: %+v, %v", l.Entries, err)
	}
	rec, err := b.Jobs().Get(got.Job)
	if err != nil || rec.State != jobs.Done || rec.Source != "a:images/x" || rec.Destination != "" || rec.Stage != "remove" {
		t.Errorf("the record is %+v, %v", rec, err)
	}
	if s := rec.Stages; len(s) != 1 || s[0].Outcome != jobs.OutcomeDone || s[0].Note != "x.vmdk, x-f001.bin, x-f002.bin, x.json" {
		t.Errorf("its stages are %+v", s)
	}
	if len(rec.Notes) != 1 || !strings.Contains(rec.Notes[0], `"x.vmdk"`) || !strings.Contains(rec.Notes[0], "a test") {
		t.Errorf("its notes are %q", rec.Notes)
	}
	_, err = b.Remove(t.Context(), "a", e, "a test", false)
	wantKind(t, err, disk.NotFound)
	_, err = b.Remove(t.Context(), "nowhere", e, "a test", false)
	wantKind(t, err, disk.NotFound)
}

// TestRemoveInUse: what is open stays until it is closed, in whatever format, and no
// longer.
func TestRemoveInUse(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.put("a/db.raw", holes())
	v := b.view("a", "web", "qcow2")
	b.view("a", "db", "raw").Close()
	if _, err := b.remove("a", "db"); err != nil {
		t.Errorf("remove one that lingers: %v", err)
	}
	began := time.Now()
	_, err := b.remove("a", "web")
	wantKind(t, err, disk.Busy)
	if took := time.Since(began); took < releasePolls*releasePoll || took > 10*releasePolls*releasePoll {
		t.Errorf("it took %v to find that out", took)
	}
	w := b.view("a", "web", "raw")
	disktest.Compare(t, w, holes())
	w.Close()
	time.AfterFunc(releasePolls*releasePoll/4, func() { v.Close() })
	if _, err := b.remove("a", "web"); err != nil {
		t.Errorf("remove what is closed a moment later: %v", err)
	}
	if left := b.files("a"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestRemoveSpooled: what an unfinished copy takes its bytes from stays.
func TestRemoveSpooled(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	v := b.view("a", "web", "raw")
	s, err := b.NewSpool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bind(v, 0, 0, v.Size()); err != nil {
		t.Fatal(err)
	}
	v.Close()
	_, err = b.remove("a", "web")
	wantKind(t, err, disk.Busy)
	s.Close()
	if _, err := b.remove("a", "web"); err != nil {
		t.Error(err)
	}
}

// TestRemoveGuessed: what a copy of something else is compared with goes, however long
// that takes.
func TestRemoveGuessed(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.put("a/slow.raw", holes())
	b.view("a", "web", "raw").Close()
	slow := b.view("a", "slow", "raw")
	defer slow.Close()
	held := heldImage{slow.image, make(chan bool), make(chan bool)}
	slow.image = held
	s := newSpool(t, b)
	wrote := make(chan error)
	go func() {
		_, err := s.WriteAt([]byte("something else"), 0)
		wrote <- err
	}()
	<-held.read
	if _, err := b.remove("a", "web"); err != nil {
		t.Error(err)
	}
	close(held.goOn)
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// A heldImage tells of its one read, and holds it.
type heldImage struct {
	disk.Image
	read, goOn chan bool
}

func (i heldImage) ReadAt(p []byte, off int64) (int, error) {
	close(i.read)
	<-i.goOn
	return i.Image.ReadAt(p, off)
}

// TestRemoveNeeded: source and destination of a job that waits stay.
func TestRemoveNeeded(t *testing.T) {
	b := newBench(t)
	rec := b.paused()
	b.put("b/web.raw", disktest.Pattern(1<<20, nil)) // somebody has put it there meanwhile
	b.put("b/other.raw", holes())
	for _, again := range []bool{false, true} {
		if again {
			b.restart()
		}
		for _, site := range []string{"a", "b"} {
			_, err := b.remove(site, "web")
			wantKind(t, err, disk.Busy)
			if !strings.Contains(err.Error(), rec.ID) || !strings.Contains(disk.AsError(err).Hint, rec.ID) {
				t.Errorf("%s: %v", site, err)
			}
		}
	}
	if _, err := b.remove("b", "other"); err != nil {
		t.Error(err)
	}
	if err := b.GiveUp(t.Context(), rec.ID, disk.Errorf(disk.Cancelled, "enough")); err != nil {
		t.Fatal(err)
	}
	for _, site := range []string{"a", "b"} {
		if _, err := b.remove(site, "web"); err != nil {
			t.Errorf("%s: %v", site, err)
		}
	}
}

// TestRemoveAndBack: what is written a moment later is no copy of what is gone,
// although the bytes are the same.
func TestRemoveAndBack(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	v := b.view("a", "web", "qcow2")
	bytes, err := disktest.Read(v)
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	if _, err := b.remove("a", "web"); err != nil {
		t.Fatal(err)
	}
	s, err := b.NewSpool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for off := 0; off < len(bytes); off += 4096 { // the header of a view takes no source
		if _, err := s.WriteAt(bytes[off:min(off+4096, len(bytes))], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := s.Source(); ok {
		t.Error("it is recognised as a copy")
	}
	if _, err := b.copy(CopySpec{Image: s.Image(), Format: "qcow2", Site: "a", Name: "web"}); err != nil {
		t.Error(err)
	}
	disktest.Compare(t, b.view("a", "web", "raw"), holes())
}

func TestRemoveCapture(t *testing.T) {
	b := newBench(t)
	b.put("live/vm.raw", holes())
	made := b.capture(CaptureOptions{}).Entry
	_, err := b.Remove(t.Context(), "a", b.live(), "a test", false)
	wantKind(t, err, disk.Policy)
	if disk.AsError(err).Hint == "" {
		t.Errorf("no hint: %v", err)
	}
	v, err := b.View(t.Context(), Ref{Site: "a", Entry: *made, Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Remove(t.Context(), "a", *made, "a test", false)
	wantKind(t, err, disk.Busy)
	v.Close()
	got, err := b.Remove(t.Context(), "a", *made, "a test", false)
	if err != nil || !slices.Equal(got.Files, []string{made.ID}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if left := b.files("live"); !slices.Equal(left, []string{"vm.raw"}) {
		t.Errorf("left: %q", left)
	}
	rec, err := b.Jobs().Get(got.Job)
	if err != nil || !strings.HasPrefix(rec.Source, "a:instances/vm@2") {
		t.Errorf("the record is %+v, %v", rec, err)
	}
}

// A keepsake is a provider without a way to remove anything.
type keepsake struct{ providers.Provider }

func TestRemoveUnsupported(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Sites[0].Provider = keepsake{o.Sites[0].Provider} })
	b.put("a/web.raw", holes())
	_, err := b.remove("a", "web")
	wantKind(t, err, disk.Unsupported)
}

// TestRemoveFails: the record of a removal that fails says why.
func TestRemoveFails(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Sites[0].Provider = stubborn{o.Sites[0].Provider} })
	b.put("a/web.raw", holes())
	got, err := b.remove("a", "web")
	wantKind(t, err, disk.Busy)
	rec, err := b.Jobs().Get(got.Job)
	if err != nil || rec.State != jobs.Failed || rec.Error == nil || rec.Error.Kind != "busy" || rec.Stages[0].Outcome != jobs.OutcomeFailed {
		t.Errorf("the record is %+v, %v", rec, err)
	}
}

// A stubborn provider knows of a lock that a listing does not show.
type stubborn struct{ providers.Provider }

func (stubborn) Delete(context.Context, providers.Entry) error {
	return disk.Errorf(disk.Busy, "the image is protected")
}

// TestRemoveCutOff: a removal that a crash has cut off is ended by the next start,
// and its record says what to look at.
func TestRemoveCutOff(t *testing.T) {
	b := newBench(t)
	b.putExtents(1 << 20)
	rec := &jobs.Record{
		Schema: jobs.Schema, ID: jobs.NewID(), State: jobs.Running, Stage: stageRemove, Started: time.Now(),
		Source: placeOf("a", b.entry("a", "x")),
	}
	if _, _, err := b.jobs.Begin(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.dir, "a/x.vmdk")); err != nil {
		t.Fatal(err)
	}
	b.restart()
	b.Start(t.Context())
	b.work.Wait()
	got, err := b.Jobs().Get(rec.ID)
	if err != nil || got.State != jobs.Failed || !strings.Contains(got.Error.Message, "may be left") || !strings.Contains(got.Error.Hint, "a:images/x") {
		t.Errorf("the record is %+v, %v", got, err)
	}
	if found := b.gc(false); len(found) > 0 {
		t.Errorf("gc has found %q", found)
	}
	if left := b.files("a"); !slices.Equal(left, []string{"x-f001.bin", "x-f002.bin"}) {
		t.Errorf("left: %q", left)
	}
}
