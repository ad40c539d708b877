package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A named is an image of the names test: a file in the folder and the name that
// it stands for.
type named struct {
	file, name string
	disk       []byte
}

// strange are names that are hard on a path: the stem of the file in a
// provider's folder, and the true name.
func strange() map[string]string {
	long := strings.Repeat("long-name-", 26)[:251]
	wide := strings.Repeat("日本", 41)
	return map[string]string{
		"with spaces in it": "with spaces in it", " leading and trailing ": " leading and trailing ",
		"50%": "50%", "50%off": "50%off", "%41": "%41", "100%25": "100%25", "a%2Fb": "a/b", "%2Fabs": "/abs", "%252F": "%2F", "%2fsmall": "%2fsmall",
		"new%0Aline": "new\nline", "tab%09": "tab\t", "%2Ehidden": ".hidden", "%2E.": "..", "%2E%2E": ".%2E", "ends.with.dot.": "ends.with.dot.",
		"x.qcow2": "x.qcow2", "y.raw": "y.raw", "z.json": "z.json", "UPPER.QCOW2": "UPPER.QCOW2", "two.raw.vmdk": "two.raw.vmdk", "v1.2": "v1.2",
		"tilde~deadbeef": "tilde~deadbeef", "at@20261121T030000Z": "at@20261121T030000Z", "-rf": "-rf", "*": "*", `qu"o'te\`: `qu"o'te\`,
		"Grüße": "Grüße", "日本語": "日本語", "😀": "😀", "invalid\xff\xfe": "invalid\xff\xfe", "by-id": "by-id", "some.disks": "some.disks",
		long: long, wide: wide,
	}
}

// manyImages fills a folder with 300 images; 20 of them have names of others.
func manyImages(t testing.TB, s site) []named {
	t.Helper()
	var all []named
	add := func(stem, ext, name string) {
		file := stem + "." + ext
		disk := random(t, filepath.Join(t.TempDir(), "disk"), 1024, uint64(1000+len(all)))
		b, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(containers()[1:], func(c container) bool { return c.ext == ext }); i >= 0 {
			containers()[1+i].make(t, disk, filepath.Join(s.images, file))
		} else {
			writeFile(t, filepath.Join(s.images, file), b)
		}
		all = append(all, named{file, name, b})
	}
	for stem, name := range strange() {
		add(stem, "raw", name)
	}
	for i := range 4 {
		for _, ext := range []string{"raw", "img", "qcow2", "vmdk", "ova"} {
			add(fmt.Sprintf("shared %d", i), ext, fmt.Sprintf("shared %d", i))
		}
	}
	for i := len(all); i < 300; i++ {
		name := fmt.Sprintf("image-%03d", i)
		add(name, "raw", name)
	}
	return all
}

// attr is an extended attribute of chromogenic.
func attr(t testing.TB, path, key string) string {
	t.Helper()
	b := make([]byte, 64*kib)
	n, err := unix.Lgetxattr(path, "user.chromogenic."+key, b)
	if err != nil {
		t.Errorf("xattr %s of %s: %v", key, path, err)
		return ""
	}
	return string(b[:n])
}

// shownNames maps the id of each image to the name under which it is listed,
// and checks that it is listed once in each format.
func shownNames(t testing.TB, s *server, site string) map[string]string {
	t.Helper()
	shown := map[string]string{}
	listed := names(t, s.images(site))
	if dup := len(listed) - len(slices.Compact(slices.Clone(listed))); dup > 0 {
		t.Errorf("%d names are listed twice", dup)
	}
	for _, n := range listed {
		name, ok := strings.CutSuffix(n, ".raw")
		if !ok {
			continue
		}
		id := attr(t, s.images(site, n), "id")
		if other, twice := shown[id]; twice {
			t.Errorf("%q is listed as %q and %q", id, other, name)
		}
		shown[id] = name
		for _, ext := range formats() {
			if _, ok := slices.BinarySearch(listed, name+"."+ext); !ok {
				t.Errorf("%s.%s is not listed", name, ext)
			}
		}
	}
	if want := len(shown) * (len(formats()) + 1); len(listed) != want {
		t.Errorf("%d names are listed of %d images, want %d", len(listed), len(shown), want)
	}
	return shown
}

// TestNames lists 300 images, reaches each, and copies those with hard names to
// another provider and on to a third.
func TestNames(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	a, b, c := newSite(t, "a"), newSite(t, "b"), newSite(t, "c")
	all := manyImages(t, a)
	s := mount(t, config{sites: []site{a, b, c}})
	shown := shownNames(t, s, "a")
	plain := map[string]int{}
	for _, im := range all {
		name, ok := shown[im.file]
		if !ok {
			t.Errorf("%q is not listed", im.file)
			continue
		}
		view := s.images("a", name+".raw")
		if got, err := os.ReadFile(view); err != nil || !bytes.Equal(got, im.disk) {
			t.Errorf("%q: %d bytes, %v; not the image's", view, len(got), err)
		}
		if got := attr(t, view, "name"); got != im.name {
			t.Errorf("%q has the name %q, want %q", im.file, got, im.name)
		}
		sum := sha256.Sum256([]byte(im.file))
		id8 := hex.EncodeToString(sum[:4])
		switch shared := strings.HasPrefix(im.name, "shared"); {
		case shared && name == im.name:
			plain[im.name]++
		case shared && name != im.name+"~"+id8:
			t.Errorf("%q is shown as %q, want it plain or with ~%s", im.file, name, id8)
		case !shared && strings.Contains(name, "~") && len(name) < 200:
			t.Errorf("%q is alone and is shown as %q", im.file, name)
		}
	}
	if len(plain) != 4 || plain["shared 0"] != 1 {
		t.Errorf("of each shared name one image keeps it plain: %v", plain)
	}

	t.Run("newcomer", func(t *testing.T) { newcomers(t, s, a, shown) })
	t.Run("cp", func(t *testing.T) { roundTrip(t, s, all, shown, c) })
}

// newcomers adds images with names that are taken, one of them with an older
// time, as cp -p makes it. What was listed stays what it was.
func newcomers(t *testing.T, s *server, a site, shown map[string]string) {
	for i, c := range containers()[1:4] {
		disk := random(t, filepath.Join(t.TempDir(), "d"), 1024, uint64(2000+i))
		for _, stem := range []string{"image-299", "%2Ehidden", "image-298"} {
			file := filepath.Join(a.images, stem+"."+c.ext)
			c.make(t, disk, file)
			run(t, "touch", "-d", "2001-01-01", file)
		}
	}
	s.refresh(t)
	now := shownNames(t, s, "a")
	for id, name := range shown {
		if now[id] != name {
			t.Errorf("a newcomer has renamed %q from %q to %q", id, name, now[id])
		}
	}
	if len(now) <= len(shown) {
		t.Errorf("%d images are listed, there were %d: the newcomers are missing", len(now), len(shown))
	}
}

// roundTrip copies images from a to b and from there to c.
func roundTrip(t *testing.T, s *server, all []named, shown map[string]string, c site) {
	all = all[:80] // the strange ones, the shared ones, and some more
	for _, step := range [][2]string{{"a", "b"}, {"b", "c"}} {
		var args []string
		for _, im := range all {
			args = append(args, s.images(step[0], shown[im.file]+".raw"))
		}
		r := try(t, "cp", append(args, s.images(step[1]))...)
		if r.code != 0 {
			t.Fatalf("cp of all images from %s to %s: %s\nreasons:\n%s", step[0], step[1], r.out, last(s.reasons(t), 3))
		}
	}
	for _, im := range all {
		view := s.images("c", shown[im.file]+".raw")
		if got, err := os.ReadFile(view); err != nil || !bytes.Equal(got, im.disk) {
			t.Errorf("%q: %d bytes, %v; not the image's", view, len(got), err)
		}
		if strings.Contains(shown[im.file], "~") {
			continue // a name that another image shares, or that is cut
		}
		if got := attr(t, view, "name"); got != im.name {
			t.Errorf("%q has come to c as %q", im.name, got)
		}
		// A raw image is stored as .raw, whatever it was called.
		stored := strings.TrimSuffix(im.file, ".img")
		if stored != im.file {
			stored += ".raw"
		}
		if _, err := os.Lstat(filepath.Join(c.images, stored)); err != nil {
			t.Errorf("%q is not stored in c under its name: %v", im.name, err)
		}
	}
}

// TestByID reaches images by their ids.
func TestByID(t *testing.T) {
	t.Parallel()
	a := newSite(t, "a")
	disk := random(t, filepath.Join(a.images, "web server.raw"), 4096, 111)
	s := mount(t, config{sites: []site{a}})
	view := s.images("a", "web server.raw")
	id := attr(t, view, "id")
	link := s.images("a", "by-id", id+".raw")
	if got, err := os.Readlink(link); err != nil || filepath.Base(got) != "web server.raw" {
		t.Errorf("%s leads to %q, %v", link, got, err)
	}
	if digest(t, link) != digest(t, disk) {
		t.Errorf("%s is not the image", link)
	}
	if slices.Contains(names(t, s.images("a")), "by-id") {
		t.Error("by-id is listed")
	}
}
