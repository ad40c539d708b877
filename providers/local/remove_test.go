package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// TestDeleteParts deletes the image x.vmdk of a folder, and looks at what is left.
func TestDeleteParts(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		left  []string
		kept  []string
		links map[string]string
	}{
		"all of it": {
			files: map[string]string{"x.vmdk": "x-s001.vmdk x-s002.vmdk x.part", "x-s001.vmdk": "nowhere", "x-s002.vmdk": "nowhere", "x.part": "1", "x.json": `{"schema":1,"firmware":"uefi"}`, "y.raw": "y"},
			left:  []string{"y.raw"},
		},
		"nothing else": {
			files: map[string]string{"x.vmdk": "x-f001.vmdk", "x-f001.vmdk": "nowhere", "x-f002.vmdk": "nowhere", "x.txt": "1", "xy": "2"},
			left:  []string{"x-f002.vmdk", "x.txt", "xy"},
		},
		"an image of its own": {
			files: map[string]string{"x.vmdk": "x-disk.raw x-disk.vmdk", "x-disk.raw": "1", "x-disk.vmdk": ""},
			left:  []string{"x-disk.raw", "x-disk.vmdk"},
			kept:  []string{"x-disk.raw", "x-disk.vmdk"},
		},
		"an image of its own, in files": {
			files: map[string]string{"x.vmdk": "x-disk.vmdk", "x-disk.vmdk": "@x-flat", "x-flat": "1"},
			left:  []string{"x-disk.vmdk", "x-flat"},
			kept:  []string{"x-disk.vmdk", "x-flat"},
		},
		"shared": {
			files: map[string]string{"x.vmdk": "x-s001.vmdk x-s002.vmdk", "y.vmdk": "x-s002.vmdk", "x-s001.vmdk": "nowhere", "x-s002.vmdk": "nowhere"},
			left:  []string{"x-s002.vmdk", "y.vmdk"},
			kept:  []string{"x-s002.vmdk"},
		},
		"shared with one that is not whole": {
			files: map[string]string{"x.vmdk": "x-s001.vmdk x-s002.vmdk x.three", "y.vmdk": "lost \"x-s001.vmdk\" 'x-s002.vmdk' x.three", "x-s001.vmdk": "nowhere", "x-s002.vmdk": "nowhere", "x.three": "3"},
			left:  []string{"x-s001.vmdk", "x-s002.vmdk", "y.vmdk"},
			kept:  []string{"x-s001.vmdk", "x-s002.vmdk"},
		},
		"not whole itself": {
			files: map[string]string{"x.vmdk": "x.one lost x.two", "x.one": "1", "x.two": "2"},
			left:  []string{"x.two"}, // nothing knows that it is one of its files
		},
		"files of others": {
			files: map[string]string{"x.vmdk": "notes.txt xylophone.txt x9 x.vmdk", "notes.txt": "1", "xylophone.txt": "1", "x9": "9"},
			left:  []string{"notes.txt", "x9", "xylophone.txt"},
			kept:  []string{"notes.txt", "x9", "xylophone.txt"},
		},
		"a link among them": {
			files: map[string]string{"x.vmdk": "x.one x.two", "x.one": "1", "target": "2"},
			links: map[string]string{"x.two": "target"},
			left:  []string{"target"},
		},
		"a sidecar of somebody else": {
			files: map[string]string{"x.vmdk": "x.one", "x.one": "1", "x.json": `{"builds":[]}`},
			left:  []string{"x.json"}, kept: []string{"x.json"},
		},
		"a sidecar that is no JSON": {
			files: map[string]string{"x.vmdk": "x.one", "x.one": "1", "x.json": `{`},
			left:  []string{"x.json"}, kept: []string{"x.json"},
		},
		"a sidecar of two": {
			files: map[string]string{"x.vmdk": "x.one", "x.one": "1", "x.raw": "1", "x.json": `{"schema":1}`},
			left:  []string{"x.json", "x.raw"}, kept: []string{"x.json"},
		},
		"a sidecar of the descriptor and its extent": {
			files: map[string]string{"x.vmdk": "x.qcow2", "x.qcow2": "1", "x.json": `{"schema":1}`},
			left:  []string{"x.json", "x.qcow2"}, kept: []string{"x.json", "x.qcow2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAssembled(t)
			for file, text := range tt.files {
				a.old(file, text)
			}
			for link, target := range tt.links {
				a.do(os.Symlink(target, a.at(link)))
			}
			e := a.image()
			r, err := a.Survey(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			var kept []string
			for _, k := range r.Kept {
				kept = append(kept, k.File)
				if k.Reason == "" {
					t.Errorf("%s is kept without a reason", k.File)
				}
			}
			slices.Sort(kept)
			if diff := cmp.Diff(tt.kept, kept); diff != "" {
				t.Errorf("what is kept (-want +got):\n%s", diff)
			}
			// What is foretold is what happens.
			want := slices.DeleteFunc(fileNames(t, a.dir), func(f string) bool { return slices.Contains(r.Files, f) || f == r.Metadata })
			if err := a.Delete(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			got := fileNames(t, a.dir)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("what is left is not what was foretold (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.left, got); diff != "" {
				t.Errorf("what is left (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDeletePart: a file that another image is made of stays, although it is an
// image too.
func TestDeletePart(t *testing.T) {
	a := newAssembled(t)
	a.old("x.vmdk", "y.raw z.vmdk")
	a.old("y.raw", "1")
	a.old("z.vmdk", "lost")
	for _, file := range []string{"y.raw", "z.vmdk"} {
		e := find(t, a.Provider, providers.Images, file)
		for what, err := range map[string]error{"delete": a.Delete(t.Context(), e), "survey": func() error { _, err := a.Survey(t.Context(), e); return err }()} {
			if disk.KindOf(err) != disk.Busy || !strings.Contains(err.Error(), `"x.vmdk"`) || disk.AsError(err).Hint == "" {
				t.Errorf("%s %s: %v", what, file, err)
			}
		}
	}
	a.do(a.Delete(t.Context(), a.image()))
	if got := fileNames(t, a.dir); !slices.Equal(got, []string{"y.raw"}) { // z.vmdk is no image
		t.Errorf("left: %q", got)
	}
	a.do(a.Delete(t.Context(), find(t, a.Provider, providers.Images, "y.raw")))
}

// TestDeleteBound: nothing outside the folder is removed, whatever a descriptor says.
func TestDeleteBound(t *testing.T) {
	a := newAssembled(t)
	outside := filepath.Join(filepath.Dir(a.dir), "outside.vmdk")
	write(t, filepath.Dir(a.dir), "outside.vmdk", "1")
	a.do(os.Mkdir(a.at("x.sub"), 0o700))
	write(t, a.at("x.sub"), "inner", "1")
	a.read = func(src providers.Source) (bool, error) {
		for _, name := range []string{"../outside.vmdk", outside, "x.sub/inner", "x.sub", "x.link"} {
			if img, err := src.Resolve(name); err == nil {
				img.Close()
			}
		}
		return true, nil
	}
	a.old("x.vmdk", "")
	a.do(os.Symlink(outside, a.at("x.link")))
	a.do(a.Delete(t.Context(), a.image()))
	for _, path := range []string{outside, a.at("x.sub/inner"), a.at("x.link")} {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}

// TestDeleteDenied: a descriptor that may not be read may need what would go, and a
// folder that may not be written keeps all.
func TestDeleteDenied(t *testing.T) {
	for name, tt := range map[string]struct {
		mode    os.FileMode // of the folder
		y       os.FileMode // of the other image
		refused string
		left    []string
	}{
		"unsure": {0o777, 0, "y.vmdk", []string{"x.one", "x.vmdk", "y.vmdk"}},
		"folder": {0o555, 0o644, "permission denied", []string{"x.one", "x.vmdk", "y.vmdk", "z.raw"}},
	} {
		dir, err := os.MkdirTemp("", "chromogenic-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		a := assembledIn(t, makeProvider(t, Options{Images: dir}), dir)
		a.old("x.vmdk", "x.one")
		a.old("x.one", "1")
		a.old("y.vmdk", "")
		a.old("z.raw", "1")
		a.do(errors.Join(os.Chmod(a.at("y.vmdk"), tt.y), os.Chmod(dir, tt.mode)))
		t.Run(name, func(t *testing.T) {
			asNobody(t)
			err := a.Delete(t.Context(), a.image())
			if disk.KindOf(err) != disk.Denied || !strings.Contains(err.Error(), tt.refused) || disk.AsError(err).Hint == "" {
				t.Errorf("delete: %v", err)
			}
			err = a.Delete(t.Context(), find(t, a.Provider, providers.Images, "z.raw")) // of one file
			if (err == nil) != (len(tt.left) == 3) {
				t.Errorf("delete z.raw: %v", err)
			}
			if got := fileNames(t, dir); !slices.Equal(got, tt.left) {
				t.Errorf("left: %q", got)
			}
		})
	}
}

// TestDeleteProtected: where one file of an image cannot go, none does.
func TestDeleteProtected(t *testing.T) {
	for _, file := range []string{"x.vmdk", "x.one"} {
		a := newAssembled(t)
		a.old("x.vmdk", "x.one x.two")
		a.old("x.one", "1")
		a.old("x.two", "2")
		e := a.image()
		protect(t, a.at(file))
		for range 2 {
			if err := a.Delete(t.Context(), e); disk.KindOf(err) != disk.Busy || !strings.Contains(err.Error(), "protected") {
				t.Errorf("delete with %s immutable: %v", file, err)
			}
		}
		if got := len(fileNames(t, a.dir)); got != 3 {
			t.Errorf("%d files are left", got)
		}
	}
}

// TestDeleteReplaced: what has come in the place of a part meanwhile stays.
func TestDeleteReplaced(t *testing.T) {
	a := newAssembled(t)
	a.old("x.vmdk", "x.one x.two")
	a.old("x.one", "1")
	a.old("x.two", "2")
	d, err := a.openImage(t.Context(), a.image())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	r, err := a.removal(d, a.image())
	if err != nil || len(r.parts) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	a.old("x.one", "another")
	a.do(d.removeParts(r.parts))
	if got := fileNames(t, a.dir); !slices.Equal(got, []string{"x.one", "x.vmdk"}) {
		t.Errorf("left: %q", got)
	}
}

// TestDeleteCrash: a crash behind the first step leaves no image, and nothing that
// is taken for one.
func TestDeleteCrash(t *testing.T) {
	a := newAssembled(t)
	a.old("x.vmdk", "x-s001.vmdk x.part")
	a.old("x-s001.vmdk", "nowhere")
	a.old("x.part", "1")
	a.old("x.json", `{"schema":1}`)
	a.do(os.Remove(a.at("x.vmdk"))) // which Delete does first
	var ids []string
	for _, e := range list(t, a.Provider, providers.Images) {
		ids = append(ids, e.ID)
	}
	if !slices.Equal(ids, []string{"x-s001.vmdk"}) {
		t.Errorf("entries: %q", ids)
	}
	a.do(a.Delete(t.Context(), find(t, a.Provider, providers.Images, "x-s001.vmdk")))
	if ids, err := a.Leftovers(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("leftovers: %q, %v", ids, err)
	}
}

// TestReplaceParts: the files of an image that another has replaced go too.
func TestReplaceParts(t *testing.T) {
	for _, format := range []string{"raw", "vmdk"} {
		a := newAssembled(t)
		a.old("x.vmdk", "x.one notes.txt")
		a.old("x.one", "1")
		a.old("notes.txt", "1")
		old := a.image()
		u, err := a.Begin(t.Context(), providers.Spec{Name: "x", Format: format, Size: 512, Replaces: &old})
		if err != nil {
			t.Fatal(err)
		}
		a.do(u.Send(t.Context(), disk.Bytes(make([]byte, 512)), func(int64) {}))
		if _, err := u.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := fileNames(t, a.dir), []string{"notes.txt", "x." + format}; !slices.Equal(got, want) {
			t.Errorf("left: %q, want %q", got, want)
		}
	}
}

// protect makes a file immutable until the end of the test.
func protect(t *testing.T, path string) {
	t.Helper()
	missing := func(what string) {
		t.Helper()
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing", what)
		}
		t.Skipf("SKIPPED, NOT TESTED: %s is missing", what)
	}
	if os.Geteuid() != 0 {
		missing("the right to make a file immutable")
	}
	const immutable = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
	set := func(on bool) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if err != nil {
			return err
		}
		if flags &^= immutable; on {
			flags |= immutable
		}
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
	}
	if err := set(true); err != nil {
		missing(fmt.Sprintf("a filesystem with immutable files (%v)", err))
	}
	t.Cleanup(func() {
		if err := set(false); err != nil {
			t.Error(err)
		}
	})
}
