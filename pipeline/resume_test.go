package pipeline

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/pipeline/jobs"
)

// parts are the files of unfinished uploads in a folder.
func (b *bench) parts(dir string) []string {
	b.t.Helper()
	var out []string
	for _, f := range b.all(dir) {
		if strings.HasSuffix(f, ".part") {
			out = append(out, f)
		}
	}
	return out
}

// all are the names in a folder, dot-names too.
func (b *bench) all(dir string) []string {
	b.t.Helper()
	files, err := os.ReadDir(filepath.Join(b.dir, dir))
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		out = append(out, f.Name())
	}
	return out
}

// restart closes the pipeline and opens it again.
func (b *bench) restart() {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open()
}

func TestUntilAndResume(t *testing.T) {
	for _, stage := range Stages() {
		for _, again := range []bool{false, true} {
			b := newBench(t)
			b.put("a/web.raw", holes())
			v := b.view("a", "web", "qcow2")
			rec, err := b.copy(CopySpec{From: v, Site: "b", Name: "web", Store: "qcow2", Until: stage})
			v.Close()
			if err != nil || rec.State != jobs.Interrupted || rec.Until != stage {
				t.Fatalf("until %s: %+v, %v", stage, rec, err)
			}
			if stage != stageRegister && len(b.all("b")) > len(b.parts("b")) {
				t.Errorf("until %s: there is %v", stage, b.files("b"))
			}
			if again {
				b.restart()
				b.Recover(context.Background()) // waits for its owner
			}
			if got, err := b.Jobs().Get(rec.ID); err != nil || got.State != jobs.Interrupted {
				t.Fatalf("until %s: %+v, %v", stage, got, err)
			}
			done, err := b.Resume(context.Background(), rec.ID, "", nil)
			if err != nil || done.State != jobs.Done || done.ID != rec.ID {
				t.Fatalf("resumed after %s: %+v, %v", stage, done, err)
			}
			disktest.Compare(t, b.view("b", "web", "raw"), holes())
			if left := b.parts("b"); len(left) > 0 {
				t.Errorf("resumed after %s: left %v", stage, left)
			}
		}
	}
}

// TestRecover takes up what a process that was told to end has left.
func TestRecover(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", disktest.Runs(64<<20, disk.Extent{Len: 64 << 20}))
	b.suspend(CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web"})
	if len(b.parts("b")) != 1 || len(b.all("b")) != 1 {
		t.Errorf("suspended: %v", b.all("b"))
	}
	b.restart()
	b.Recover(context.Background())
	disktest.Compare(t, b.view("b", "web", "raw"), disktest.Runs(64<<20, disk.Extent{Len: 64 << 20}))
	if left := b.parts("b"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// suspend runs a copy whose process is told to end in the middle of sending.
func (b *bench) suspend(spec CopySpec) *jobs.Record {
	b.t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	spec.Progress = func(p Progress) {
		if p.Stage == stageSend && p.Done > p.Total/2 {
			cancel(ErrSuspended)
		}
	}
	rec, err := b.Copy(ctx, spec)
	wantKind(b.t, err, disk.Cancelled)
	if rec.State != jobs.Interrupted || len(rec.Made) == 0 {
		b.t.Fatalf("suspended: %+v", rec)
	}
	return rec
}

// TestRecoverSpool takes up bytes that came from outside.
func TestRecoverSpool(t *testing.T) {
	want := disktest.Runs(64<<20, disk.Extent{Off: 1 << 20, Len: 60 << 20})
	b := newBench(t)
	s, err := b.NewSpool(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	write(t, s, want, 1<<20, true)
	b.suspend(CopySpec{Image: s.Image(), Format: "raw", Origin: "outside", Site: "b", Name: "web"})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := b.all("state/spool"); len(got) != 1 {
		t.Errorf("the spool folder holds %v", got)
	}
	b.restart()
	if b.spooled() == 0 {
		t.Error("the space of the spool is not counted")
	}
	b.Recover(context.Background())
	disktest.Compare(t, b.view("b", "web", "raw"), want)
	if got := append(b.all("state/spool"), b.parts("b")...); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	if n := b.spooled(); n != 0 {
		t.Errorf("%d bytes are still counted as spooled", n)
	}
}

// TestSourceChanged gives up what cannot be taken up.
func TestSourceChanged(t *testing.T) {
	for name, change := range map[string]func(*bench){
		"written": func(b *bench) { b.put("a/web.raw", holes()) },
		"gone": func(b *bench) {
			if err := os.Remove(filepath.Join(b.dir, "a/web.raw")); err != nil {
				b.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.put("a/web.raw", disktest.Runs(64<<20, disk.Extent{Len: 64 << 20}))
			rec := b.suspend(CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web"})
			change(b)
			b.restart()
			b.Recover(context.Background())
			if got := b.all("b"); len(got) != 0 {
				t.Errorf("left %v", got)
			}
			if got, err := b.Jobs().Get(rec.ID); err != nil || got.State != jobs.Failed || got.Error == nil || len(got.Made) > 0 {
				t.Errorf("record is %+v, %v", got, err)
			}
		})
	}
}

// TestSameCopyTakesUp asks for an interrupted copy again: it goes on there.
func TestSameCopyTakesUp(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", disktest.Runs(64<<20, disk.Extent{Len: 64 << 20}))
	spec := CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web"}
	old := b.suspend(spec)
	rec, err := b.copy(spec)
	if err != nil || rec.ID != old.ID || rec.State != jobs.Done {
		t.Errorf("%+v, %v", rec, err)
	}
	if left := b.parts("b"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
