package pipeline

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

// rewrite writes into a file and sets its time back, as a clock of coarse ticks
// would leave it.
func (b *bench) rewrite(name string, p []byte, off int64) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	info, err := os.Stat(path)
	if err != nil {
		b.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(p, off); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
		b.t.Fatal(err)
	}
}

// TestWriteWithinOneTick writes into a hole of an image that was looked at a
// moment ago, so that its version stays: no view may show the hole.
func TestWriteWithinOneTick(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", disktest.Runs(4<<20, disk.Extent{Len: 1 << 20}))
	if err := os.Chtimes(filepath.Join(b.dir, "a/web.raw"), time.Time{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	b.Forget("a")
	v := b.view("a", "web", "qcow2")
	if v.Settled() {
		t.Error("an image that was written a moment ago is taken for settled")
	}
	b.rewrite("a/web.raw", []byte("not a hole"), 2<<20)
	_, err := disk.FlatSum(context.Background(), v)
	wantKind(t, err, disk.Stale)
	_, err = b.copy(CopySpec{From: v, Site: "b", Name: "web"})
	wantKind(t, err, disk.Stale)
	if got := b.files("b"); len(got) > 0 {
		t.Errorf("the copy left %v", got)
	}
}

// TestNoDigestOfTheUnsettled copies an image that was written a moment ago: its
// digest must not be taken for that of what the next write leaves behind.
func TestNoDigestOfTheUnsettled(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	if err := os.Chtimes(filepath.Join(b.dir, "a/web.raw"), time.Time{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	b.Forget("a")
	v := b.view("a", "web", "raw")
	if _, err := b.copy(CopySpec{From: v, Site: "b", Name: "web"}); err != nil {
		t.Fatal(err)
	}
	if sum := b.KnownDigest(v.Ref); sum != "" {
		t.Errorf("digest %s is kept", sum)
	}
	b.age("a/web.raw")
	b.Forget("a")
	v = b.view("a", "web", "raw")
	if _, err := b.copy(CopySpec{From: v, Site: "b", Name: "again"}); err != nil {
		t.Fatal(err)
	}
	if b.KnownDigest(v.Ref) == "" {
		t.Error("the digest of a settled image is not kept")
	}
}

// TestPlanCapturesNothing plans the copy of a live machine.
func TestPlanCapturesNothing(t *testing.T) {
	b := newBench(t)
	b.put("live/vm.raw", holes())
	e := b.find("a", providers.Instances, "vm")
	v, err := b.View(context.Background(), Ref{Site: "a", Entry: e, Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	rec, err := b.Plan(context.Background(), CopySpec{From: v, Site: "b", Name: "vm"})
	if err != nil || rec.VirtualSize != holes().Size() {
		t.Errorf("plan %+v, %v", rec, err)
	}
	if got := b.files("live"); len(got) != 1 {
		t.Errorf("the plan made %v", got)
	}
}

// TestForeignSpoolFolder opens a state directory whose spool folder is somebody
// else's, such as /var.
func TestForeignSpoolFolder(t *testing.T) {
	dir := t.TempDir()
	mail := filepath.Join(dir, "spool", "mail")
	left := filepath.Join(dir, "spool", spoolPrefix+"123")
	if err := os.MkdirAll(mail, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{filepath.Join(mail, "root"), left} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := New(Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := os.Stat(filepath.Join(mail, "root")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what a crash has left is still there: %v", err)
	}
}

// TestSpoolLimitCountsSpace writes one place of a spool many times: the others
// have what that does not take.
func TestSpoolLimitCountsSpace(t *testing.T) {
	b := newBench(t, func(o *Options) { o.SpoolLimit = 4 << 20 })
	first, second := newSpool(t, b), newSpool(t, b)
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = 1
	}
	for range 4 {
		if _, err := first.WriteAt(buf, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range int64(2) {
		if _, err := second.WriteAt(buf, i<<20); err != nil {
			t.Errorf("1 MiB of 4 is taken: %v", err)
		}
	}
}
