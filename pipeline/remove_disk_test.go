package pipeline

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

func TestRemoveSet(t *testing.T) {
	b := newBench(t)
	putSet(b)
	got, err := b.remove("a", "web")
	if err != nil || !slices.Equal(got.Files, []string{"web.raw", "web.disks/1-vdb.raw", "web.disks/2-vdc.qcow2"}) {
		t.Errorf("removed %+v, %v", got, err)
	}
	if left := b.files("a"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestRemoveDisk removes data disks of a machine, and one that waits.
func TestRemoveDisk(t *testing.T) {
	b := newBench(t)
	putSet(b)
	for _, number := range []int{-1, 0, 3} {
		_, err := b.RemoveDisk(t.Context(), "a", b.entry("a", "web"), number, "a test")
		wantKind(t, err, disk.Unsupported)
	}
	plan, err := b.PlanDiskRemoval(t.Context(), "a", b.entry("a", "web"), 1)
	if err != nil || plan.Size != second().Size() {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
	v := b.view("a", "web", "qcow2")
	_, err = b.RemoveDisk(t.Context(), "a", b.entry("a", "web"), 1, "a test")
	wantKind(t, err, disk.Busy)
	v.Close()
	got, err := b.RemoveDisk(t.Context(), "a", b.entry("a", "web"), 1, "a test")
	if err != nil {
		t.Fatal(err)
	}
	rec, err := b.Jobs().Get(got.Job)
	if err != nil || rec.State != jobs.Done || rec.Source != "a:images/web.disks/1-vdb" || rec.Stage != "remove" {
		t.Errorf("the record is %+v, %v", rec, err)
	}
	b.holdsSet("a", "web", holes())
	l, err := b.ListNow(t.Context(), "a", providers.Disks)
	if err != nil || len(l.Entries) != 1 {
		t.Fatalf("waiting are %+v, %v", l.Entries, err)
	}
	w := l.Entries[0]
	v, err = b.View(t.Context(), Ref{Site: "a", Entry: w, Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.RemoveDisk(t.Context(), "a", w, 0, "a test")
	wantKind(t, err, disk.Busy)
	v.Close()
	if got, err = b.RemoveDisk(t.Context(), "a", w, 0, "a test"); err != nil {
		t.Fatal(err)
	}
	if rec, err := b.Jobs().Get(got.Job); err != nil || rec.Source != "a:images/web.disks/2-vdc" {
		t.Errorf("the record is %+v, %v", rec, err)
	}
	if left := b.files("a"); !slices.Equal(left, []string{"web.raw"}) {
		t.Errorf("left: %q", left)
	}
}

// TestRemoveWritten: a machine stays while a job makes a disk of it, and a disk while
// one makes the machine.
func TestRemoveWritten(t *testing.T) {
	for dst, want := range map[string]map[string]bool{
		"a:images/web":             {"a:images/web": true, "a:images/web.disks/1-vdb": true, "a:images/web2": false, "b:images/web": false},
		"a:images/web.disks/1-vdb": {"a:images/web": true, "a:images/web.disks/1-vdb": true, "a:images/web.disks/2-vdc": false, "a:images/we": false},
	} {
		for place, want := range want {
			if got := writes(dst, place); got != want {
				t.Errorf("who makes %s writes %s: %v", dst, place, got)
			}
		}
	}
}

// TestExpectDisk: what is written as a data disk is compared with the one that is
// there, of an image or not.
func TestExpectDisk(t *testing.T) {
	b := newBench(t)
	putSet(b)
	if _, err := b.copy(CopySpec{Image: third(), Format: "raw", Site: "b", Name: "late", Disk: 2}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		site, name string
		number     int
		want       disk.Image
	}{{"a", "web", 0, holes()}, {"a", "web", 1, second()}, {"a", "web", 2, third()}, {"a", "web", 3, nil}, {"b", "late", 2, third()}, {"b", "late", 1, nil}, {"b", "late", 0, nil}} {
		v, certain, err := b.Existing(t.Context(), c.site, c.name, c.number, "raw")
		if err != nil || (v != nil) != (c.want != nil) {
			t.Errorf("disk %d of %s: %v, %v", c.number, c.name, v, err)
			continue
		}
		if v == nil {
			continue
		}
		if !certain {
			t.Errorf("disk %d of %s is not certain", c.number, c.name)
		}
		disktest.Compare(t, v, c.want)
		s := newSpool(t, b)
		s.Expect(v, true)
		buf := make([]byte, c.want.Size())
		if err := disk.ReadFull(c.want, buf, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := s.WriteAt(buf, 0); err != nil {
			t.Errorf("the same disk %d of %s: %v", c.number, c.name, err)
		}
		if got, ok := s.Source(); !ok || !s.Expected(got) {
			t.Errorf("disk %d of %s is not recognised", c.number, c.name)
		} else {
			rec, err := b.copy(CopySpec{From: got, Site: c.site, Name: c.name, Disk: c.number, Origin: "a test"})
			if err != nil || !rec.Unchanged {
				t.Errorf("disk %d of %s again: %+v, %v", c.number, c.name, rec, err)
			}
			got.Close()
		}
		buf[100] ^= 1
		_, err = s.WriteAt(buf[:512], 0)
		wantKind(t, err, disk.Exists)
		v.Close()
	}
}

// TestSetAffords counts against a budget the disks that are copied, and no others.
func TestSetAffords(t *testing.T) {
	b := newBench(t, limited(Limits{Budget: daily(3 << 20)}))
	if err := os.Mkdir(filepath.Join(b.dir, "a/web.disks"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.put("a/web.raw", disktest.Pattern(2<<20, nil))
	b.put("a/web.disks/1-vdb.raw", disktest.Pattern(2<<20, nil))
	v := b.diskView("a", "web", "raw", 1)
	if err := b.Afford(t.Context(), v, false); err != nil {
		t.Errorf("one disk: %v", err)
	}
	wantKind(t, b.Afford(t.Context(), v, true), disk.Quota)
	wantKind(t, b.Afford(t.Context(), b.view("a", "web", "ova"), false), disk.Quota)
	_, err := b.copy(CopySpec{From: v, Machine: true, Site: "b", Name: "web"})
	wantKind(t, err, disk.Quota)
	if _, err := b.copy(CopySpec{From: v, Site: "b", Name: "web", Disk: 1}); err != nil {
		t.Errorf("copy of one disk: %v", err)
	}
}
