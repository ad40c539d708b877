package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// assembled is a provider with a reader whose descriptors are names, a line
// each. It stops at the first that cannot be opened, as the readers of formats
// do, and goes on into parts that begin with a @.
type assembled struct {
	*Provider
	t     *testing.T
	dir   string
	reads int
}

const descriptorLimit = 100 << 10

func newAssembled(t *testing.T) *assembled {
	p, images, _ := newProvider(t)
	return assembledIn(t, p, images)
}

func assembledIn(t *testing.T, p *Provider, images string) *assembled {
	a := &assembled{Provider: p, t: t, dir: images}
	p.SetReader(map[string]int64{"vmdk": descriptorLimit}, func(src providers.Source) (bool, error) {
		if src.Format != "vmdk" {
			return true, nil
		}
		a.reads++
		err := a.follow(src, src.Resolve)
		switch disk.KindOf(err) {
		case disk.NotFound, disk.Unsupported, disk.Invalid: // the image is such
			return false, nil
		}
		return err == nil, err
	})
	return a
}

func (a *assembled) follow(img disk.Image, resolve disk.Resolver) error {
	text := make([]byte, img.Size())
	if err := disk.ReadFull(img, text, 0); err != nil {
		return err
	}
	for _, name := range strings.Fields(strings.TrimPrefix(string(text), "@")) {
		part, err := resolve(name)
		if err != nil {
			return err
		}
		defer part.Close()
		head := make([]byte, min(1, part.Size()))
		if err := disk.ReadFull(part, head, 0); err != nil {
			return err
		}
		if string(head) == "@" {
			if err := a.follow(part, resolve); err != nil {
				return err
			}
		}
	}
	return nil
}

// old writes a file that was last written a while before now.
func (a *assembled) old(file, content string) {
	a.t.Helper()
	write(a.t, a.dir, file, content)
	a.touch(file, time.Unix(1_600_000_000, 0))
}

func (a *assembled) touch(file string, mtime time.Time) {
	a.t.Helper()
	if err := os.Chtimes(filepath.Join(a.dir, file), time.Time{}, mtime); err != nil {
		a.t.Fatal(err)
	}
}

func (a *assembled) do(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *assembled) at(file string) string { return filepath.Join(a.dir, file) }

func (a *assembled) image() providers.Entry {
	a.t.Helper()
	return find(a.t, a.Provider, providers.Images, "x.vmdk")
}

// TestPartsVersion changes one file beside a descriptor.
func TestPartsVersion(t *testing.T) {
	later := time.Unix(1_700_000_000, 5)
	for name, tt := range map[string]struct {
		change  func(a *assembled)
		same    bool
		updated int64 // seconds; 0 is not looked at
	}{
		"nothing":         {func(*assembled) {}, true, 1_600_000_000},
		"another file":    {func(a *assembled) { write(a.t, a.dir, "notes.txt", "new") }, true, 1_600_000_000},
		"other content":   {func(a *assembled) { overwrite(a.t, a.at("two"), "2nd"); a.touch("two", later) }, false, 1_700_000_000},
		"longer":          {func(a *assembled) { a.old("one", "longer than it was") }, false, 1_600_000_000},
		"replaced":        {func(a *assembled) { a.old("new", "first"); a.do(os.Rename(a.at("new"), a.at("one"))) }, false, 1_600_000_000},
		"swapped":         {func(a *assembled) { a.do(swap(a.at("one"), a.at("two"))) }, false, 1_600_000_000},
		"removed":         {func(a *assembled) { a.do(os.Remove(a.at("two"))) }, false, 1_600_000_000},
		"link moved":      {func(a *assembled) { a.do(relink(a.at("link"), "one")) }, false, 1_600_000_000},
		"behind the link": {func(a *assembled) { a.touch("target", later) }, false, 1_700_000_000},
		"nested":          {func(a *assembled) { a.touch("inner", later) }, false, 1_700_000_000},
		"descriptor":      {func(a *assembled) { a.touch("x.vmdk", later) }, false, 1_700_000_000},
		"one part less":   {func(a *assembled) { a.old("x.vmdk", "one two more") }, false, 1_600_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAssembled(t)
			a.old("x.vmdk", "one two link more")
			a.old("more", "@inner")
			for _, part := range []string{"one", "two", "target", "inner"} {
				a.old(part, "first")
			}
			a.do(os.Symlink("target", a.at("link")))
			before := a.image()
			if own, covers, _ := strings.Cut(before.Version, "+"); covers == "" || !strings.HasPrefix(own, "17-1600000000.000000000-") {
				t.Fatalf("version is %q", before.Version)
			}
			tt.change(a)
			after := a.image()
			if (after.Version == before.Version) != tt.same {
				t.Errorf("version is %q, it was %q", after.Version, before.Version)
			}
			if tt.updated != 0 && after.Updated.Unix() != tt.updated {
				t.Errorf("updated %v, want %v", after.Updated, time.Unix(tt.updated, 0))
			}
			want := disk.Stale
			if tt.same {
				want = disk.Other
			}
			src, err := a.Open(t.Context(), before, 0)
			if err == nil {
				src.Close()
			}
			if disk.KindOf(err) != want {
				t.Errorf("open of the earlier version: %v, want kind %v", err, want)
			}
			open(t, a.Provider, after)
			if again := a.image(); again.Version != after.Version {
				t.Errorf("version is %q and then %q", after.Version, again.Version)
			}
		})
	}
}

func swap(a, b string) error {
	return errors.Join(os.Rename(a, a+"~"), os.Rename(b, a), os.Rename(a+"~", b))
}

func relink(link, target string) error {
	return errors.Join(os.Remove(link), os.Symlink(target, link))
}

// TestPartsMissing lets the parts of an image arrive one after the other: each
// makes a new version, and so does each later change of it.
func TestPartsMissing(t *testing.T) {
	a := newAssembled(t)
	a.old("x.vmdk", "one two three")
	seen := map[string]string{}
	note := func(what string) {
		t.Helper()
		e := a.image()
		if earlier, ok := seen[e.Version]; ok {
			t.Errorf("the version after %q is that after %q", what, earlier)
		}
		seen[e.Version] = what
		src := open(t, a.Provider, e)
		for _, name := range []string{"one", "two", "three"} {
			img, err := src.Resolve(name)
			if err != nil {
				if disk.KindOf(err) != disk.NotFound {
					t.Errorf("after %q, resolve %q: %v", what, name, err)
				}
				break // a reader asks no further
			}
			img.Close()
		}
	}
	note("nothing")
	a.old("one", "1")
	note("one")
	a.old("two", "2")
	note("two")
	a.old("three", "3")
	note("three")
	a.old("three", "three")
	note("a longer three")
	a.old("four", "4")
	a.old("x.vmdk", "four")
	if img, err := open(t, a.Provider, a.image()).Resolve("four"); err == nil {
		img.Close()
	} else {
		t.Errorf("resolve what the descriptor leads to now: %v", err)
	}
}

// TestPartsUnsure checks that what a look has missed is found by the next one,
// though no file has changed, and that a part which cannot be opened does not
// make the listing fail.
func TestPartsUnsure(t *testing.T) {
	a := newAssembled(t)
	read, failing := a.read, true
	a.read = func(src providers.Source) (bool, error) {
		if failing {
			return false, errors.New("input/output error")
		}
		return read(src)
	}
	a.old("x.vmdk", "one out "+strings.Repeat("long", 100))
	a.old("one", "first")
	a.do(os.Symlink(filepath.Join(t.TempDir(), "outside"), a.at("out")))
	before := a.image()
	failing = false
	after := a.image()
	if after.Version == before.Version {
		t.Errorf("version is %q still", after.Version)
	}
	a.do(os.Remove(a.at("out")))
	a.old("out", "not out any more")
	for range 2 {
		now := a.image()
		if now.Version == after.Version || now.Reason != "" {
			t.Errorf("version is %q still, or the reason is %q", now.Version, now.Reason)
		}
		src := open(t, a.Provider, now)
		if _, err := src.Resolve(strings.Repeat("long", 100)); disk.KindOf(err) != disk.Invalid {
			t.Errorf("resolve a name that is too long: %v", err)
		}
	}
}

// TestPartsCost checks that a listing reads a descriptor once, and others never.
func TestPartsCost(t *testing.T) {
	a := newAssembled(t)
	a.old("x.vmdk", "one")
	a.old("one", "first")
	a.old("whole.vmdk", "") // an image of one file
	a.old("x.raw", "one")   // of a format without descriptors
	a.old("big.vmdk", strings.Repeat("one ", descriptorLimit/4+1))
	for range 3 {
		list(t, a.Provider, providers.Images)
	}
	if a.reads != 2 {
		t.Errorf("%d descriptors were read, want 2", a.reads)
	}
	a.touch("one", time.Unix(1_500_000_000, 0))
	a.do(os.Remove(a.at("whole.vmdk")))
	for range 3 {
		list(t, a.Provider, providers.Images)
	}
	if a.reads != 3 {
		t.Errorf("after a change %d descriptors were read, want 3", a.reads)
	}
	if n := len(a.images.parts.last); n != 1 {
		t.Errorf("%d descriptors are remembered, want 1", n)
	}
	for _, file := range []string{"x.raw", "big.vmdk"} {
		e := find(t, a.Provider, providers.Images, file)
		if strings.Contains(e.Version, "+") {
			t.Errorf("%s has the version %q", file, e.Version)
		}
		if _, err := open(t, a.Provider, e).Resolve("one"); disk.KindOf(err) != disk.Unsupported {
			t.Errorf("resolve beside %s: %v, want unsupported", file, err)
		}
	}
}

// TestPartsYoung checks that what was found in a file which was just written is
// not relied on for ever: its next write may have the same time.
func TestPartsYoung(t *testing.T) {
	a := newAssembled(t)
	write(t, a.dir, "x.vmdk", "one")
	a.old("one", "1")
	a.old("two", "2")
	before := a.image()
	x := a.images.parts.get("x.vmdk")
	if left := time.Until(x.expires); left <= 0 || left > young {
		t.Fatalf("what was found expires in %v", left)
	}
	overwrite(t, a.at("x.vmdk"), "two")
	a.touch("x.vmdk", before.Updated) // as if the clock had not moved
	x.expires = time.Now().Add(-time.Millisecond)
	a.images.parts.put("x.vmdk", x)
	if after := a.image(); after.Version == before.Version {
		t.Errorf("version is %q still", after.Version)
	}
}

// TestPartsPinned opens an image and then changes a part of it.
func TestPartsPinned(t *testing.T) {
	a := newAssembled(t)
	a.old("x.vmdk", "one two")
	a.old("one", "first")
	a.old("two", "second")
	a.old("stranger", "?")
	src := open(t, a.Provider, a.image())
	one, err := src.Resolve("one")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	a.touch("two", time.Unix(1_700_000_000, 0))
	for _, name := range []string{"two", "stranger"} { // not as it was, not of the version
		if _, err := src.Resolve(name); disk.KindOf(err) != disk.Stale {
			t.Errorf("resolve %q: %v, want stale", name, err)
		}
	}
	if got := content(t, one); got != "first" {
		t.Errorf("a part that has not changed reads %q", got)
	}
}

// TestPartsBound gives an image more parts than it may have.
func TestPartsBound(t *testing.T) {
	a := newAssembled(t)
	var text strings.Builder
	for i := range maxParts + 1 {
		fmt.Fprintf(&text, "%05d ", i)
	}
	a.read = func(src providers.Source) (bool, error) { // goes on where parts are missing
		for name := range strings.FieldsSeq(text.String()) {
			_, _ = src.Resolve(name)
		}
		return false, nil
	}
	a.old("x.vmdk", text.String())
	src := open(t, a.Provider, a.image())
	for name, want := range map[string]disk.Kind{"00000": disk.NotFound, fmt.Sprintf("%05d", maxParts): disk.Unsupported} {
		if _, err := src.Resolve(name); disk.KindOf(err) != want {
			t.Errorf("resolve %q: %v, want kind %v", name, err, want)
		}
	}
}

// TestPartsSetMtime sets the time of an image with a newer part while it is
// read.
func TestPartsSetMtime(t *testing.T) {
	a := newAssembled(t)
	a.old("x.vmdk", "one two gone")
	a.old("one", "first")
	a.old("two", "second")
	a.touch("two", time.Unix(1_700_000_000, 0))
	first := a.image()
	src := open(t, a.Provider, first)
	two, err := src.Resolve("two")
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	e := first
	for _, sec := range []int64{1_650_000_000, 1_550_000_000, 1_750_000_000, 1_650_000_000} {
		mtime := time.Unix(sec, 0)
		if e, err = a.SetMtime(t.Context(), e, mtime); err != nil {
			t.Fatal(err)
		}
		if listed := a.image(); !e.Updated.Equal(mtime) || listed.Version != e.Version {
			t.Errorf("set to %v it was updated %v, of the version %q; listed is %q", mtime, e.Updated, e.Version, listed.Version)
		}
		if got := content(t, two); got != "second" {
			t.Errorf("a part reads %q", got)
		}
		part, err := open(t, a.Provider, first).Resolve("two")
		if err != nil {
			t.Fatalf("resolve in the version before SetMtime: %v", err)
		}
		part.Close()
	}
	a.touch("one", time.Unix(1_800_000_000, 0))
	if _, err := a.Open(t.Context(), e, 0); disk.KindOf(err) != disk.Stale {
		t.Errorf("open after a change: %v, want stale", err)
	}
}
