package fs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// document is what name.json says.
func document(t *testing.T, path string) providers.Document {
	t.Helper()
	d, err := providers.DecodeDocument(readFile(t, path))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return d
}

// TestJSON reads and writes the metadata of images that are there.
func TestJSON(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) {
		writeImage(t, filepath.Join(m.a, "web.raw"), pattern(1, 1<<20))
		writeImage(t, filepath.Join(m.a, "broken.raw"), pattern(2, 1<<20))
		writeImage(t, filepath.Join(m.a+"-instances", "vm.raw"), pattern(2, 1<<20))
		write(t, filepath.Join(m.a, "broken.json"), "{")
		write(t, filepath.Join(m.a, "web.json"), `{"schema": 1, "firmware": "uefi", "vendor": "me"}`)
	})
	file := m.path("a/images/web.json")
	want := "{\n  \"firmware\": \"uefi\",\n  \"name\": \"web\",\n  \"properties\": {\n    \"vendor\": \"me\"\n  },\n  \"schema\": 1\n}\n"
	if got := string(readFile(t, file)); got != want {
		t.Errorf("web.json is %s", got)
	}
	var st, byID, side syscall.Stat_t
	if syscall.Stat(file, &st) != nil || syscall.Stat(m.path("a/images/by-id/web%2Eraw.json"), &byID) != nil || syscall.Stat(filepath.Join(m.a, "web.json"), &side) != nil ||
		st.Size != int64(len(want)) || st.Ino != byID.Ino || st.Mtim != side.Mtim {
		t.Errorf("stat %+v, by id %+v, of the sidecar %+v", st, byID, side)
	}
	// One that cannot be read hides nothing but itself.
	got := list(t, m.path("a/images"))
	if diff := cmp.Diff([]string{"broken.ova", "broken.qcow2", "broken.raw", "broken.vmdk", "web.json", "web.ova", "web.qcow2", "web.raw", "web.vmdk"}, got); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	_, err := os.Stat(m.path("a/images/broken.json"))
	wantErrno(t, "stat of broken metadata", err, syscall.EBADMSG)
	for _, name := range []string{"a/images/nothing.json", "a/images/.json", "a/instances/vm.json", "a/images/web.json.raw"} {
		_, err := os.Stat(m.path(name))
		wantErrno(t, "stat "+name, err, syscall.ENOENT)
	}

	// Programs that write.
	for name, run := range map[string]func(text string) error{
		"WriteFile": func(text string) error { return os.WriteFile(file, []byte(text), 0o600) },
		"tee": func(text string) error {
			c := exec.Command("tee", file)
			c.Stdin = strings.NewReader(text)
			return c.Run()
		},
		"rename": func(text string) error {
			tmp := m.path("a/images/.web.json.X")
			if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
				return err
			}
			return os.Rename(tmp, file)
		},
		"overwrite": func(text string) error {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			if _, err = f.WriteAt([]byte(text), 0); err == nil {
				err = f.Truncate(int64(len(text)))
			}
			if cerr := f.Close(); err == nil {
				err = cerr
			}
			return err
		},
	} {
		if err := run(`{"firmware": "bios", "description": "by ` + name + `"}`); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := document(t, file); d.Meta.Firmware != "bios" || d.Meta.Description != "by "+name || d.Name != "web" || d.Props != nil {
			t.Errorf("after %s: %+v", name, d)
		}
		before := readFile(t, filepath.Join(m.a, "web.json"))
		for _, text := range []string{`{"firmware": 1}`, "{", strings.Repeat(" ", providers.MaxDocument) + "{}"} {
			if err := run(text); err == nil {
				t.Errorf("%s of %.20q succeeds", name, text)
			}
			if got := readFile(t, filepath.Join(m.a, "web.json")); !bytes.Equal(got, before) {
				t.Errorf("%s of %.20q leaves %s", name, text, got)
			}
			os.Remove(m.path("a/images/.web.json.X"))
		}
	}
	if got := errorAt(t, file); !strings.Contains(got, "CHR-") {
		t.Errorf("the error at web.json is %q", got)
	}
	when := time.Unix(1500000000, 123456789)
	for _, path := range []string{file, filepath.Join(m.a, "web.json")} {
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || !info.ModTime().Equal(when) {
			t.Errorf("the time of %s is %v, %v", path, info.ModTime(), err)
		}
	}
	wantErrno(t, "rename", os.Rename(file, m.path("a/images/db.json")), syscall.EPERM)
	wantErrno(t, "unlink", os.Remove(file), syscall.EPERM)
	wantErrno(t, "truncate", os.Truncate(file, 3), syscall.EPERM)
	if got := readFile(t, m.path("a/images/web.raw")); !bytes.Equal(got, pattern(1, 1<<20)) {
		t.Error("the image is another")
	}
}

// TestJSONFirst writes metadata before its image.
func TestJSONFirst(t *testing.T) {
	m := mountTwo(t, func(m *testMount, o *Options) {
		o.AllowDelete = true
		writeImage(t, filepath.Join(m.a, "web.raw"), pattern(1, 1<<20))
	})
	for _, name := range []string{"web", "late", "gone"} {
		write(t, m.path("b/images/"+name+".json"), `{"firmware": "uefi"}`)
	}
	file := m.path("b/images/web.json")
	when := time.Unix(1500000000, 5)
	if err := os.Chtimes(file, when, when); err != nil {
		t.Fatal(err)
	}
	if d := document(t, file); d.Meta.Firmware != "uefi" {
		t.Errorf("while it waits: %+v", d)
	}
	if got := list(t, m.path("b/images")); len(got) != 0 {
		t.Errorf("listed: %q", got)
	}
	if err := os.Remove(m.path("b/images/gone.json")); err != nil {
		t.Error(err)
	}
	_, err := os.Stat(m.path("b/images/gone.json"))
	wantErrno(t, "stat of what was removed", err, syscall.ENOENT)
	write(t, m.path("b/images/web.qcow2"), string(readFile(t, m.path("a/images/web.qcow2"))))
	if d := document(t, file); d.Meta.Firmware != "uefi" {
		t.Errorf("with its image: %+v", d)
	}
	if info, err := os.Stat(file); err != nil || !info.ModTime().Equal(when) {
		t.Errorf("its time is %v, %v", info.ModTime(), err)
	}
	// To remove it is to remove what was set.
	if err := os.Remove(file); err != nil {
		t.Error(err)
	}
	if got := list(t, m.b); !cmp.Equal(got, []string{"web.raw"}) {
		t.Errorf("the folder holds %q", got)
	}
	if d := document(t, file); !d.Empty() {
		t.Errorf("after that: %+v", d)
	}
	// What waits in vain is told.
	m.tree.gaveUp(pipeline.Held{Site: "b", Name: "la/te", Since: time.Now()})
	if got := string(readFile(t, m.path(".chromogenic/errors"))); !strings.Contains(got, `"path":"b/images/la%2Fte.json"`) {
		t.Errorf("errors: %s", got)
	}
}

// TestPropXattrs sets properties as extended attributes.
func TestPropXattrs(t *testing.T) {
	for _, allow := range []bool{false, true} {
		m := mountTwo(t, func(m *testMount, o *Options) {
			o.AllowMeta = allow
			writeImage(t, filepath.Join(m.a, "web.raw"), pattern(1, 1<<20))
			writeImage(t, filepath.Join(m.a+"-instances", "vm.raw"), pattern(1, 1<<20))
		})
		file := m.path("a/images/web.vmdk")
		wantErrno(t, "set another attribute", unix.Setxattr(file, "user.chromogenic.arch", []byte("x"), 0), syscall.ENOTSUP)
		wantErrno(t, "set one of an instance", unix.Setxattr(m.path("a/instances/vm.raw"), propAttr+"x", []byte("x"), 0), syscall.ENOTSUP)
		for _, key := range []string{"x", "y"} {
			err := unix.Setxattr(file, propAttr+key, []byte("1 "+key), 0)
			if !allow {
				wantErrno(t, "set a property", err, syscall.EPERM)
				continue
			}
			buf := make([]byte, 64)
			n, gerr := unix.Getxattr(file, propAttr+key, buf)
			if err != nil || gerr != nil || string(buf[:n]) != "1 "+key {
				t.Errorf("property %s: %v, then %q, %v", key, err, buf[:max(n, 0)], gerr)
			}
		}
		if !allow {
			continue
		}
		wantErrno(t, "remove an unknown property", unix.Removexattr(file, propAttr+"z"), syscall.ENODATA)
		if err := unix.Removexattr(file, propAttr+"x"); err != nil {
			t.Error(err)
		}
		want := providers.Metadata{Meta: disk.Meta{}, Props: map[string]string{"y": "1 y"}}
		if d := document(t, m.path("a/images/web.json")); !d.Same(want) {
			t.Errorf("set: %+v", d)
		}
	}
}

// write writes a whole file.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
