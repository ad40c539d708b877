package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNamesLikeIDs copies images whose names are the ids of others, which for a
// folder are the names of its files.
func TestNamesLikeIDs(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	files := []string{"x.raw", "x.raw.raw", "x.qcow2.raw", "x.raw.raw.raw"}
	for i, f := range files {
		random(t, filepath.Join(out, f), 256*kib, uint64(300+i))
	}
	a, b := newSite(t, "a"), newSite(t, "b")
	s := mount(t, config{sites: []site{a, b}})
	for _, by := range []struct {
		site string
		copy func() result
	}{
		{"a", func() result { return try(t, "cp", "-r", out+"/.", s.images("a")) }},
		{"b", func() result {
			var args []string
			for _, shown := range shownNames(t, s, "a") {
				args = append(args, s.images("a", shown+".raw"))
			}
			return try(t, "cp", append(args, s.images("b"))...)
		}},
	} {
		if r := by.copy(); r.code != 0 {
			t.Fatalf("into %s: exit status %d: %s", by.site, r.code, r.out)
		}
	}
	for _, site := range []site{a, b} {
		if got := len(names(t, site.images)); got != len(files) {
			t.Errorf("%s holds %d images: %q", site.name, got, names(t, site.images))
		}
		for _, f := range files {
			if digest(t, filepath.Join(site.images, f)) != digest(t, filepath.Join(out, f)) {
				t.Errorf("%s of %s is another image", f, site.name)
			}
		}
	}
}

// TestWrittenTwice has one program write two disks under one name: the second is
// refused and the first stays.
func TestWrittenTwice(t *testing.T) {
	t.Parallel()
	b := newSite(t, "b")
	s := mount(t, config{sites: []site{b}})
	src := t.TempDir()
	first := random(t, filepath.Join(src, "1"), 256*kib, 310)
	second := random(t, filepath.Join(src, "2"), 256*kib, 311)
	r := try(t, "python3", "-c", `
import sys
a, b, to = sys.argv[1:]
open(to, "wb").write(open(a, "rb").read())
f = open(to, "wb")
f.write(open(b, "rb").read())
f.close()`, first, second, s.images("b", "x.raw"))
	if r.code == 0 || !strings.Contains(r.out, "File exists") {
		t.Errorf("exit status %d: %s", r.code, r.out)
	}
	if digest(t, filepath.Join(b.images, "x.raw")) != digest(t, first) {
		t.Error("the first image has changed")
	}
}

// TestReadRightAfterRename reads an image under the name it has just got.
func TestReadRightAfterRename(t *testing.T) {
	t.Parallel()
	b := newSite(t, "b")
	src := random(t, filepath.Join(b.images, "old.raw"), 256*kib, 320)
	want := digest(t, src)
	s := mount(t, config{sites: []site{b}})
	if _, err := os.Stat(s.images("b", "old.raw")); err != nil {
		t.Fatal(err)
	}
	run(t, "mv", s.images("b", "old.raw"), s.images("b", "new.raw"))
	if got := digest(t, s.images("b", "new.raw")); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
	if _, err := os.Stat(s.images("b", "old.raw")); !os.IsNotExist(err) {
		t.Errorf("the old name: %v", err)
	}
}
