package local

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

func TestSplitDisk(t *testing.T) {
	p, _, _ := newProvider(t)
	for file, want := range map[string]struct {
		number         int
		device, format string
	}{
		"1-vdb.raw": {1, "vdb", "raw"}, "255.qcow2": {255, "", "qcow2"}, "2-a%2Fb.IMG": {2, "a/b", "raw"}, "3-x-1.vmdk": {3, "x-1", "vmdk"},
		"0-vda.raw": {}, "256-x.raw": {}, "01-x.raw": {}, "-1.raw": {}, "1-x.ova": {}, "1-x.txt": {}, "x.raw": {}, "1x.raw": {}, ".1-x.raw": {}, "": {},
	} {
		number, device, format, ok := p.splitDisk(file)
		if ok != (want.number > 0) || number != want.number || device != want.device || format != want.format {
			t.Errorf("splitDisk(%q) = %d, %q, %q, %v, want %v", file, number, device, format, ok, want)
		}
	}
}

// putFiles makes files of a folder, each with another content.
func putFiles(t *testing.T, folder string, files ...string) {
	t.Helper()
	for i, file := range files {
		path := filepath.Join(folder, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		writeImage(t, path, disktest.Pattern(1<<16+int64(i)*512, nil))
	}
}

// TestSets finds the disks of machines among all that may lie in a folder.
func TestSets(t *testing.T) {
	for name, tt := range map[string]struct {
		files  []string
		disks  []int64 // sizes of the machine web: that of file n is 1<<16 and n sectors
		waits  []string
		reason string
	}{
		"one disk":           {files: []string{"web.raw", "web.disks/readme.txt", "web.disks/sub/1-vdb.raw"}},
		"three":              {files: []string{"web.raw", "web.disks/2-vdc.vmdk", "web.disks/1-vdb.qcow2"}, disks: []int64{0, 2, 1}},
		"a gap":              {files: []string{"web.raw", "web.disks/1-vdb.raw", "web.disks/3-vdd.raw"}, disks: []int64{0, 1}, waits: []string{"web.disks/3-vdd.raw"}},
		"no boot disk":       {files: []string{"other.raw", "web.disks/1-vdb.raw"}, waits: []string{"web.disks/1-vdb.raw"}},
		"an ova":             {files: []string{"web.ova", "web.disks/1-vdb.raw"}, waits: []string{"web.disks/1-vdb.raw"}},
		"twice":              {files: []string{"web.raw", "web.disks/1-vdb.qcow2", "web.disks/1-vdb.vmdk"}, reason: "disk 1 is there more than once"},
		"twice, of one name": {files: []string{"web.raw", "web.disks/1-vdb.raw", "web.disks/1-vdc.raw"}, reason: "disk 1 is there more than once"},
		"its own format":     {files: []string{"web.raw", "web.disks/1-vdb.qcow2", "web.disks/1-vdb.raw", "web.disks/2.raw"}, disks: []int64{0, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			p, images, _ := newProvider(t)
			putFiles(t, images, tt.files...)
			for _, e := range list(t, p, providers.Images) {
				if e.Name != "web" {
					continue
				}
				var disks []int64
				for _, d := range e.Disks {
					disks = append(disks, (d.Size-1<<16)/512)
				}
				if !slices.Equal(disks, tt.disks) || !strings.Contains(e.Reason, tt.reason) || tt.reason == "" && e.Reason != "" {
					t.Errorf("disks %v, reason %q, want %v, %q", disks, e.Reason, tt.disks, tt.reason)
				}
			}
			var waits []string
			for _, e := range list(t, p, providers.Disks) {
				waits = append(waits, e.ID)
			}
			if tt.reason == "" && !slices.Equal(waits, tt.waits) {
				t.Errorf("%q wait, want %q", waits, tt.waits)
			}
		})
	}
}

// TestLinkedSets: no link leads out of the folder, and none hides a disk.
func TestLinkedSets(t *testing.T) {
	p, images, _ := newProvider(t)
	outside := t.TempDir()
	putFiles(t, outside, "web.disks/1-vdb.raw")
	putFiles(t, images, "web.raw", "db.raw", "db.disks/2-x.raw")
	err := errors.Join(
		os.Symlink(filepath.Join(outside, "web.disks"), filepath.Join(images, "web.disks")),
		os.Symlink(filepath.Join(outside, "web.disks/1-vdb.raw"), filepath.Join(images, "db.disks/1-vdb.raw")),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list(t, p, providers.Images) {
		if want := map[string]string{"web": "symlink", "db": reasonEscapes}[e.Name]; !strings.Contains(e.Reason, want) {
			t.Errorf("%s has the reason %q, want %q", e.Name, e.Reason, want)
		}
	}
	if got := list(t, p, providers.Disks); len(got) != 0 {
		t.Errorf("%+v wait", got)
	}
	spec := providers.Spec{Job: job, Name: "web", Format: "raw", Size: 512, Disk: 1}
	u, err := p.Begin(t.Context(), spec)
	if err == nil {
		u.Abort(t.Context())
	}
	if disk.KindOf(err) != disk.Policy {
		t.Errorf("an upload through a link: %v", err)
	}
}

// TestSharedSets: two images of one stem have the same data disks.
func TestSharedSets(t *testing.T) {
	p, images, _ := newProvider(t)
	putFiles(t, images, "web.raw", "web.qcow2", "web.disks/1-vdb.raw")
	raw, qcow2 := find(t, p, providers.Images, "web.raw"), find(t, p, providers.Images, "web.qcow2")
	if len(raw.Disks) != 2 || len(qcow2.Disks) != 2 {
		t.Errorf("the disks are %+v and %+v", raw.Disks, qcow2.Disks)
	}
	if _, err := p.Rename(t.Context(), raw, "db"); disk.KindOf(err) != disk.Busy {
		t.Errorf("rename of one of them: %v", err)
	}
	what, err := p.Survey(t.Context(), raw)
	if err != nil || !slices.Equal(what.Files, []string{"web.raw"}) || len(what.Kept) != 1 || what.Kept[0].File != "web.disks/1-vdb.raw" {
		t.Errorf("what would go is %+v, %v", what, err)
	}
	if err := p.Delete(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	if e := find(t, p, providers.Images, "web.qcow2"); len(e.Disks) != 2 {
		t.Errorf("the other has the disks %+v", e.Disks)
	}
	if err := p.Delete(t.Context(), find(t, p, providers.Images, "web.qcow2")); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(images); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// TestSetAside ends a replacement in its middle, as a crash does.
func TestSetAside(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		p, images, _ := newProvider(t)
		putFiles(t, images, "web.raw", "web.disks/1-vdb.raw", "web.disks/2-vdc.raw", "web.disks/9-waits.raw", "web.disks/notes.txt")
		d, err := p.open(providers.Images)
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		a, err := p.setAside(d, "web.raw", job)
		if err != nil {
			t.Fatal(err)
		}
		if e := find(t, p, providers.Images, "web.raw"); len(e.Disks) != 0 {
			t.Errorf("the image has %+v still", e.Disks)
		}
		if ids, err := p.Leftovers(t.Context()); err != nil || len(ids) != 0 {
			t.Errorf("leftovers while it is in work: %q, %v", ids, err)
		}
		a.lock.Close()
		if err := os.Chtimes(filepath.Join(images, "web.raw"), time.Time{}, time.Unix(1600000000, 0)); err != nil {
			t.Fatal(err)
		}
		want := 3
		if replaced {
			want = 0
			putFiles(t, images, "new.raw")
			if err := os.Rename(filepath.Join(images, "new.raw"), filepath.Join(images, "web.raw")); err != nil {
				t.Fatal(err)
			}
		}
		ids, err := p.Leftovers(t.Context())
		if err != nil || len(ids) != 1 {
			t.Fatalf("leftovers %q, %v", ids, err)
		}
		if err := p.Release(t.Context(), ids[0]); err != nil {
			t.Fatal(err)
		}
		if e := find(t, p, providers.Images, "web.raw"); len(e.Disks) != want {
			t.Errorf("replaced %v: the image has %d disks, want %d", replaced, len(e.Disks), want)
		}
		if left := hidden(t, images); len(left) != 0 {
			t.Errorf("left are %q", left)
		}
		files, err := os.ReadDir(filepath.Join(images, "web.disks"))
		if wantFiles := max(2, want+1); err != nil || len(files) != wantFiles {
			t.Errorf("the folder of the set holds %v, %v, want %d files", files, err, wantFiles)
		}
	}
}

// TestDeleteSet tells what goes with a machine, and removes it.
func TestDeleteSet(t *testing.T) {
	p, images, _ := newProvider(t)
	putFiles(t, images, "web.raw", "web.disks/1-vdb.raw", "web.disks/1-vdb.qcow2", "web.disks/2-vdc.raw", "web.disks/4-vde.raw", "web.disks/notes.txt")
	e := find(t, p, providers.Images, "web.raw")
	what, err := p.Survey(t.Context(), e)
	want := []string{"web.raw", "web.disks/1-vdb.qcow2", "web.disks/1-vdb.raw", "web.disks/2-vdc.raw"}
	if err != nil || !slices.Equal(what.Files, want) || what.Size != 4<<16+(0+1+2+3)*512 || len(what.Kept) > 0 {
		t.Errorf("what would go is %+v, %v", what, err)
	}
	if err := p.Delete(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if got := fileNames(t, filepath.Join(images, "web.disks")); !slices.Equal(got, []string{"4-vde.raw", "notes.txt"}) {
		t.Errorf("left are %q", got)
	}
}

// TestDeleteSetProtected: where one disk of a machine cannot go, none does, and that
// one stays.
func TestDeleteSetProtected(t *testing.T) {
	p, images, _ := newProvider(t)
	putFiles(t, images, "web.raw", "web.disks/1-vdb.raw", "web.disks/2-vdc.raw")
	e := find(t, p, providers.Images, "web.raw")
	protect(t, filepath.Join(images, "web.disks/2-vdc.raw"))
	_, err := p.Survey(t.Context(), e)
	for what, err := range map[string]error{"look": err, "delete": p.Delete(t.Context(), e), "delete of the disk": p.DeleteDisk(t.Context(), e, 2)} {
		if disk.KindOf(err) != disk.Busy || !strings.Contains(err.Error(), "protected") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := fileNames(t, filepath.Join(images, "web.disks")); len(got) != 2 {
		t.Errorf("left are %q", got)
	}
	// A boot disk alone can be replaced, for its data disks stay.
	img := disktest.Pattern(1<<16, nil)
	for _, whole := range []bool{true, false} {
		u, err := p.Begin(t.Context(), providers.Spec{Name: "web", Format: "raw", Size: img.Size(), Replaces: &e, Whole: whole})
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Send(t.Context(), img, func(int64) {}); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		now, err := u.Commit(t.Context())
		if whole {
			if disk.KindOf(err) != disk.Busy {
				t.Errorf("replace all of it: %v", err)
			}
			if err := u.Abort(t.Context()); err != nil {
				t.Error(err)
			}
		} else if err != nil || len(now.Disks) != 3 {
			t.Errorf("replace its boot disk: %+v, %v", now, err)
		}
	}
}
