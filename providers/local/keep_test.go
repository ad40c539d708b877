package local

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
)

func TestSplitCapture(t *testing.T) {
	p, _, _ := newProvider(t)
	for file, want := range map[string]string{
		"web@20261121T030000Z.raw":                "web",
		"web.raw@20261121T030000Z.qcow2":          "web.raw",
		"a@b@20261121T030000Z.raw":                "a@b",
		"a@20250101T000000Z@20261121T030000Z.raw": "a@20250101T000000Z",
		"web.raw":                                    "",
		"web@20261121T030000Z":                       "",
		"web@20261121T030000Z.txt":                   "",
		"@20261121T030000Z.raw":                      "",
		"web@20261121T030000.raw":                    "",
		"web@20261121T030000.5Z.raw":                 "",
		"web@20261321T030000Z.raw":                   "",
		"web@20261121t030000z.raw":                   "",
		"web@2026-11-21T03:00:00Z.raw":               "",
		".web@20261121T030000Z.raw":                  "",
		"web@20261121T030000Z.raw@":                  "",
		".chromogenic-x@20261121T030000Z-ABC.part":   "",
		"größe@20261121T030000Z.IMG":                 "größe",
		"web@20261121T030000Z@20261121T030000Z.vmdk": "web@20261121T030000Z",
	} {
		stem, taken, ok := p.splitCapture(file)
		if ok != (want != "") || ok && stem != want {
			t.Errorf("splitCapture(%q) = %q, %v, want %q", file, stem, ok, want)
		}
		if ok && !taken.Equal(time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)) {
			t.Errorf("%q is of %v", file, taken)
		}
	}
}

// TestKeep looks at the file of a capture.
func TestKeep(t *testing.T) {
	p, _, instances := newProvider(t)
	img := disktest.Pattern(1<<30+512, func(b int64) bool { return b%1000 == 3 })
	writeImage(t, filepath.Join(instances, "a@b.img"), img)
	live := find(t, p, providers.Instances, "a@b.img")
	began := time.Now().Truncate(time.Second)
	for name, want := range map[string]string{"": "a@b", "nightly": "nightly", "x/y": "x/y"} {
		e, err := p.Keep(t.Context(), live, providers.SnapSpec{Job: job, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if wantID := encodeName(want) + "@" + e.Capture.Taken.Format(providers.CaptureLayout) + ".img"; e.ID != wantID || e.Name != want {
			t.Errorf("capture of name %q is %q with id %q, want %q with %q", name, e.Name, e.ID, want, wantID)
		}
		if c := e.Capture; c.Of != "a@b.img" || !c.Ours || c.Consistency != providers.Crash || c.Taken.Before(began) || !e.Created.Equal(c.Taken) {
			t.Errorf("capture is %+v, created %v", c, e.Created)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(instances, e.ID), &st); err != nil {
			t.Fatal(err)
		}
		if used := st.Blocks * 512; used > 4<<20 || st.Mode&0o777 != 0o600 {
			t.Errorf("the capture takes %d bytes and has mode %o", used, st.Mode)
		}
	}
	_, err := p.Keep(t.Context(), live, providers.SnapSpec{Name: string(make([]byte, 80))})
	if disk.KindOf(err) != disk.Invalid {
		t.Errorf("a name that is too long: %v", err)
	}
	if left := hidden(t, instances); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

// TestForeignCapture looks at files that somebody has named as captures are.
func TestForeignCapture(t *testing.T) {
	p, images, instances := newProvider(t)
	path := filepath.Join(instances, "web@20261121T030000Z.raw")
	write(t, instances, filepath.Base(path), "disk")
	write(t, images, "web@20261121T030000Z.raw", "disk")
	if e := find(t, p, providers.Images, "web@20261121T030000Z.raw"); e.Capture != nil || e.Name != "web@20261121T030000Z" {
		t.Errorf("image is %+v", e)
	}
	e := find(t, p, providers.Instances, "web@20261121T030000Z.raw")
	if c := e.Capture; c == nil || c.Ours || c.Of != "web.raw" || c.Consistency != providers.Crash || e.Name != "web" || e.Live() {
		t.Fatalf("foreign capture is %+v, %+v", e, c)
	}
	for value, want := range map[string]providers.Consistency{"stopped": providers.Stopped, "frozen": providers.Frozen, "nonsense": providers.Crash} {
		if err := unix.Setxattr(path, consistencyAttr, []byte(value), 0); err != nil {
			t.Skipf("SKIPPED: the folder of temporary files: %v", err)
		}
		if c := find(t, p, providers.Instances, e.ID).Capture; !c.Ours || c.Consistency != want {
			t.Errorf("marked %q it is %+v", value, c)
		}
	}
	// It is pinned, and no live disk.
	src, err := p.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	time.Sleep(quiet)
	overwrite(t, path, "other")
	if _, err := src.ReadAt(make([]byte, 4), 0); disk.KindOf(err) != disk.Stale {
		t.Errorf("read of a capture that was written to: %v, want stale", err)
	}
	if err := p.DeleteCapture(t.Context(), e); disk.KindOf(err) != disk.Stale {
		t.Errorf("delete a capture that was written to: %v, want stale", err)
	}
}

// TestKeepBusy leaves nothing of a capture that could not be made.
func TestKeepBusy(t *testing.T) {
	p, _, instances := newProvider(t)
	path := filepath.Join(instances, "web.raw")
	writeImage(t, path, disktest.Pattern(32<<20, nil))
	if canClone(t, path) {
		t.Skip("SKIPPED: the folder of temporary files has reflinks, so nothing is copied")
	}
	stop := writer(t, path)
	defer stop()
	_, err := p.Keep(t.Context(), find(t, p, providers.Instances, "web.raw"), providers.SnapSpec{Job: job})
	if disk.KindOf(err) != disk.Busy {
		t.Errorf("capture while it is written to: %v, want busy", err)
	}
	files, err := os.ReadDir(instances)
	if err != nil || len(files) != 1 {
		t.Errorf("the folder has %v, %v", files, err)
	}
}
