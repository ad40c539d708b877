package local

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// TestSidecarByHand: what somebody has put beside an image is its metadata, as it is
// now, and what cannot be read is no reason to hide the image.
func TestSidecarByHand(t *testing.T) {
	p, images, _ := newProvider(t)
	writeImage(t, filepath.Join(images, "web.raw"), disk.Bytes(make([]byte, 512)))
	side := filepath.Join(images, "web.json")
	bare := find(t, p, providers.Images, "web.raw")
	for _, tt := range []struct{ text, firmware, reason string }{
		{`{"schema": 1, "firmware": "uefi", "vendor": "me"}`, "uefi", ""},
		{`{"schema": 1, "firmware": "bios", "vendor": "me"}`, "bios", ""}, // of the same length, in the same moment
		{`{"schema": 1, "firmware": "b`, "", "byte 28"},
		{`{"schema": 1, "firmware": 1}`, "", `key "firmware": want a text`},
		{`{"schema": 2, "firmware": "uefi"}`, "", "schema 2"},
		{strings.Repeat(" ", providers.MaxDocument) + "{}", "", "at most 1048576"},
	} {
		time.Sleep(5 * time.Millisecond) // the grain of the kernel's clock
		if err := os.WriteFile(side, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		e := find(t, p, providers.Images, "web.raw")
		if e.Meta.Firmware != tt.firmware || e.Reason != "" || !strings.Contains(e.MetaReason, tt.reason) || (tt.reason == "") != (e.MetaReason == "") {
			t.Errorf("%.40s: firmware %q, reasons %q, %q", tt.text, e.Meta.Firmware, e.Reason, e.MetaReason)
		}
		if (e.Version == bare.Version) != (tt.reason != "") {
			t.Errorf("%.40s: version %q, without %q", tt.text, e.Version, bare.Version)
		}
		if src, err := p.Open(t.Context(), e, 0); err != nil {
			t.Error(err)
		} else {
			src.Close()
		}
	}
	for _, target := range []string{"/etc/hostname", "../elsewhere", "web.raw"} {
		if err := os.Remove(side); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, side); err != nil {
			t.Fatal(err)
		}
		if e := find(t, p, providers.Images, "web.raw"); e.Version != bare.Version || target != "../elsewhere" && e.MetaReason == "" {
			t.Errorf("a link to %s: %+v", target, e)
		}
	}
}

// TestSidecarForeign: what bears the name of a sidecar and is none stays as it is,
// whatever is done with the image, and takes part in nothing.
func TestSidecarForeign(t *testing.T) {
	m := providers.Metadata{Meta: disk.Meta{Firmware: "uefi"}}
	for what, put := range map[string]func(t *testing.T, path string){
		"another program's": func(t *testing.T, path string) {
			write(t, filepath.Dir(path), filepath.Base(path), `{"firmware": "bios", "schema": "v2"}`)
		},
		"a list":  func(t *testing.T, path string) { write(t, filepath.Dir(path), filepath.Base(path), `[{"schema": 1}]`) },
		"no json": func(t *testing.T, path string) { write(t, filepath.Dir(path), filepath.Base(path), "// comment\n{}") },
		"empty":   func(t *testing.T, path string) { write(t, filepath.Dir(path), filepath.Base(path), "") },
		"a directory": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"a link": func(t *testing.T, path string) {
			if err := os.Symlink("/etc/hostname", path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			p, images, _ := newProvider(t)
			for _, name := range []string{"web.raw", "db.raw"} {
				writeImage(t, filepath.Join(images, name), disk.Bytes(make([]byte, 512)))
			}
			bare := find(t, p, providers.Images, "web.raw")
			if _, err := p.SetMeta(t.Context(), find(t, p, providers.Images, "db.raw"), m); err != nil {
				t.Fatal(err)
			}
			side := filepath.Join(images, "web.json")
			put(t, side)
			before, err := os.Lstat(side)
			if err != nil {
				t.Fatal(err)
			}
			e := find(t, p, providers.Images, "web.raw")
			if e.Version != bare.Version || !e.Metadata.Empty() || e.Reason != "" {
				t.Errorf("the image is %+v", e)
			}
			if _, err := p.SetMeta(t.Context(), e, m); disk.KindOf(err) != disk.Exists {
				t.Errorf("set: %v", err)
			}
			if _, err := p.SetMeta(t.Context(), e, providers.Metadata{}); disk.KindOf(err) != disk.Exists {
				t.Errorf("remove: %v", err)
			}
			if err := p.Delete(t.Context(), e); err != nil {
				t.Error(err)
			}
			if _, err := p.Rename(t.Context(), find(t, p, providers.Images, "db.raw"), "web"); disk.KindOf(err) != disk.Exists {
				t.Errorf("rename: %v", err)
			}
			if e := find(t, p, providers.Images, "db.raw"); !e.Same(m) {
				t.Errorf("the one that was not renamed has %+v", e.Metadata)
			}
			spec := providers.Spec{Name: "web", Format: "raw", Size: 512, Metadata: m}
			if _, err := p.Begin(t.Context(), spec); disk.KindOf(err) != disk.Exists {
				t.Errorf("begin: %v", err)
			}
			if after, err := os.Lstat(side); err != nil || !os.SameFile(before, after) || after.ModTime() != before.ModTime() {
				t.Errorf("it is %v now, %v", after, err)
			}
		})
	}
}

// TestSidecarShared: images of one stem share their sidecar; the last takes it along.
func TestSidecarShared(t *testing.T) {
	p, images, _ := newProvider(t)
	for _, name := range []string{"web.raw", "web.qcow2"} {
		writeImage(t, filepath.Join(images, name), disk.Bytes(make([]byte, 512)))
	}
	if err := os.WriteFile(filepath.Join(images, "web.json"), []byte(`{"schema": 1, "firmware": "uefi"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	find := func(id string) providers.Entry {
		t.Helper()
		all, err := p.List(t.Context(), providers.Images)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(all, func(e providers.Entry) bool { return e.ID == id })
		if i < 0 || all[i].Meta.Firmware != "uefi" {
			t.Fatalf("no %s with metadata in %+v", id, all)
		}
		return all[i]
	}
	if _, err := p.Rename(t.Context(), find("web.raw"), "db"); err != nil {
		t.Fatal(err)
	}
	find("db.raw")
	if err := p.Delete(t.Context(), find("web.qcow2")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Rename(t.Context(), find("db.raw"), "x/y"); err != nil {
		t.Fatal(err)
	}
	find("x%2Fy.raw")
	if got := fileNames(t, images); !slices.Equal(got, []string{"x%2Fy.json", "x%2Fy.raw"}) {
		t.Errorf("the folder holds %q", got)
	}
}

// TestSidecarTaken: who loses the name leaves the metadata of the winner alone.
func TestSidecarTaken(t *testing.T) {
	p, images, _ := newProvider(t)
	spec := providers.Spec{Name: "x", Format: "raw", Size: 512, Metadata: providers.Metadata{Meta: disk.Meta{Firmware: "bios"}}}
	u, err := p.Begin(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	writeImage(t, filepath.Join(images, "x.raw"), disk.Bytes(make([]byte, 512)))
	if err := os.WriteFile(filepath.Join(images, "x.json"), []byte(`{"schema": 1, "firmware": "uefi"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context()); disk.KindOf(err) != disk.Exists {
		t.Errorf("commit over another: %v", err)
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if e := find(t, p, providers.Images, "x.raw"); e.Meta.Firmware != "uefi" {
		t.Errorf("the winner has %+v", e.Metadata)
	}
	if got := fileNames(t, images); !slices.Equal(got, []string{"x.json", "x.raw"}) {
		t.Errorf("the folder holds %q", got)
	}
}

func fileNames(t *testing.T, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range all {
		names = append(names, f.Name())
	}
	return names
}
