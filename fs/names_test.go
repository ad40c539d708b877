package fs

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"chromogenic/formats"
	"chromogenic/providers"

	"chromogenic/disk/disktest"
)

func TestEncode(t *testing.T) {
	for name, want := range map[string]string{
		"debian 12":        "debian 12",
		"Überraschung":     "Überraschung",
		"a/b":              "a%2Fb",
		"100%":             "100%25",
		"a%2Fb":            "a%252Fb",
		".hidden":          "%2Ehidden",
		"..":               "%2E.",
		"a~b@c":            "a%7Eb%40c",
		"x.qcow2":          "x%2Eqcow2",
		"x.QCOW2":          "x%2EQCOW2",
		"x.raw.raw":        "x.raw%2Eraw",
		"x.json":           "x%2Ejson",
		"x.disks":          "x%2Edisks",
		"x.vhdx":           "x%2Evhdx",
		"x.tar":            "x.tar",
		"a\x00b\nc\x7f":    "a%00b%0Ac%7F",
		"nel\u0085":        "nel%C2%85",
		"bad\xff\xfeutf":   "bad%FF%FEutf",
		"trailing percent": "trailing percent",
		".raw":             "%2Eraw",
	} {
		if got := Encode(name); got != want {
			t.Errorf("Encode(%q) = %q, want %q", name, got, want)
		}
		if got := Decode(want); got != name {
			t.Errorf("Decode(%q) = %q, want %q", want, got, name)
		}
	}
}

func TestDecodeIsLenient(t *testing.T) {
	for stem, want := range map[string]string{
		"100%": "100%", "100%2": "100%2", "%zz": "%zz", "a%2fb": "a/b", "%": "%", "a~b": "a~b", "% 41": "% 41", "%+1x": "%+1x",
	} {
		if got := Decode(stem); got != want {
			t.Errorf("Decode(%q) = %q, want %q", stem, got, want)
		}
	}
}

// TestMaxStem fails when a new extension is longer than the room that is left.
func TestMaxStem(t *testing.T) {
	for _, f := range formats.Table() {
		for _, ext := range f.Exts {
			if maxStem+1+len(ext) > maxName {
				t.Errorf("a stem of %d bytes and .%s are longer than a name", maxStem, ext)
			}
		}
	}
	if maxStem+len(disksExt) > maxName {
		t.Errorf("a stem of %d bytes and %s are longer than a name", maxStem, disksExt)
	}
}

// listingOf makes entries, the first of which is the oldest.
func listingOf(names ...string) []providers.Entry {
	var out []providers.Entry
	for i, name := range names {
		out = append(out, providers.Entry{ID: fmt.Sprintf("id-%d", i), Name: name, Created: time.Unix(int64(i), 0)})
	}
	return out
}

func shownNames(entries []providers.Entry) map[string]string {
	out := map[string]string{}
	for _, n := range Shown(entries) {
		out[n.Entry.ID] = n.Name
	}
	return out
}

func TestDuplicates(t *testing.T) {
	entries := listingOf("web", "web", "db", "", "web")
	before := shownNames(entries)
	want := map[string]string{
		"id-0": "web",
		"id-1": "web~eb66c623", // sha256("id-1")
		"id-2": "db",
		"id-3": "id-3",
		"id-4": "web~8a0f517a",
	}
	if diff := cmp.Diff(want, before); diff != "" {
		t.Fatalf("shown names (-want +got):\n%s", diff)
	}
	// Whatever the order of the listing, and whoever comes later, a name stays.
	entries = append([]providers.Entry{{ID: "new", Name: "web", Created: time.Unix(99, 0)}}, entries...)
	after := shownNames(entries)
	for id, name := range before {
		if after[id] != name {
			t.Errorf("a newcomer renames %s from %q to %q", id, name, after[id])
		}
	}
}

func TestFindByEveryName(t *testing.T) {
	long := strings.Repeat("ü%", 150)
	entries := listingOf("web", "web", "a/b", "50% off", "x.qcow2", long, long, "", "bad\xff")
	entries = append(entries, providers.Entry{ID: "sha256:ab/cd", Name: "slash id", Created: time.Unix(50, 0)})
	for _, n := range Shown(entries) {
		if len(n.Name) > maxStem || !utf8.ValidString(n.Name) || strings.ContainsAny(n.Name, "/\x00") {
			t.Errorf("shown name %q of %d bytes is no file name", n.Name, len(n.Name))
		}
		for _, stem := range []string{n.Name, n.Entry.ID, Encode(n.Entry.ID)} {
			if got, ok := Find(entries, stem); !ok || got.Entry.ID != n.Entry.ID {
				t.Errorf("Find(%q) = %q, %v, want %q", stem, got.Entry.ID, ok, n.Entry.ID)
			}
		}
	}
	// A name as somebody types it.
	for stem, id := range map[string]string{"50% off": "id-3", "x.qcow2": "id-4", "a%2fb": "id-2"} {
		if got, ok := Find(entries, stem); !ok || got.Entry.ID != id {
			t.Errorf("Find(%q) = %q, %v, want %q", stem, got.Entry.ID, ok, id)
		}
	}
	if _, ok := Find(entries, "nothing"); ok {
		t.Error("Find finds what is not there")
	}
}

// TestCopiesOfLongNames: the file name of a cut or doubled name, copied to
// another provider, is short enough there too.
func TestCopiesOfLongNames(t *testing.T) {
	long := strings.Repeat("n", 300)
	for _, n := range Shown(listingOf(long, "web", "web")) {
		copied := listingOf(Decode(n.Name))
		if shown := Shown(copied)[0].Name; len(shown) > maxStem {
			t.Errorf("the copy of %q is shown as %q", n.Name, shown)
		}
		if _, ok := Find(copied, n.Name); !ok {
			t.Errorf("the copy of %q is not found by that name", n.Name)
		}
	}
}

func TestOneIDTwice(t *testing.T) {
	var entries []providers.Entry
	for range 40 {
		entries = append(entries, providers.Entry{ID: "same", Name: "same"})
	}
	seen := map[string]bool{}
	for _, n := range Shown(entries) {
		if seen[n.Name] || len(n.Name) > maxStem {
			t.Errorf("name %q twice, or too long", n.Name)
		}
		seen[n.Name] = true
	}
}

func TestParse(t *testing.T) {
	for file, want := range map[string][2]string{
		"x.raw": {"x", "raw"}, "x.img": {"x", "raw"}, "x.QCOW2": {"x", "qcow2"}, "x.tar.ova": {"x.tar", "ova"},
		"x%2Eraw.vmdk": {"x%2Eraw", "vmdk"}, "x.ovf": {"x", "ovf"}, "x.txt": {}, ".raw": {}, "raw": {}, "x.": {}, "": {},
	} {
		stem, f, ok := Parse(file)
		if ok != (want != [2]string{}) || ok && (stem != want[0] || f.Name != want[1]) {
			t.Errorf("Parse(%q) = %q, %q, %v, want %q", file, stem, f.Name, ok, want)
		}
	}
}

func TestParsePlace(t *testing.T) {
	type result struct {
		Place
		ok bool
	}
	for s, want := range map[string]result{
		"office:images/web.qcow2":                   {Place{Provider: "office", Kind: "images", Stem: "web", Format: "qcow2"}, true},
		"office:images/web":                         {Place{Provider: "office", Kind: "images", Stem: "web"}, true},
		"office:images/":                            {Place{Provider: "office", Kind: "images", Stem: ""}, true},
		"office:images":                             {Place{Provider: "office", Kind: "images", Stem: ""}, true},
		"a-1_b:instances/x.img":                     {Place{Provider: "a-1_b", Kind: "instances", Stem: "x", Format: "raw"}, true},
		"office:instances/web@20261121T030000Z":     {Place{Provider: "office", Kind: "instances", Stem: "web@20261121T030000Z"}, true},
		"office:instances/web@20261121T030000Z.ova": {Place{Provider: "office", Kind: "instances", Stem: "web@20261121T030000Z", Format: "ova"}, true},
		"office:images/web.disks/1-vdb.qcow2":       {Place{Provider: "office", Kind: "images", Stem: "web", Format: "qcow2", Disk: 1, Device: "vdb", InDisks: true}, true},
		"office:images/a.b.disks/0":                 {Place{Provider: "office", Kind: "images", Stem: "a.b", InDisks: true}, true},
		"office:images/web.disks/12-a%2Fb":          {Place{Provider: "office", Kind: "images", Stem: "web", Disk: 12, Device: "a/b", InDisks: true}, true},
		"office:instances/vm.disks/3.raw":           {Place{Provider: "office", Kind: "instances", Stem: "vm", Format: "raw", Disk: 3, InDisks: true}, true},
		"office:images/web.disks":                   {Place{Provider: "office", Kind: "images", Stem: "web.disks"}, true},
		"office:other/web":                          {},
		"/tmp/office:images/x.raw":                  {},
		"Office:images/x.raw":                       {},
		"x.raw":                                     {},
		"office:imagesx/y":                          {},
		"office:images/a%2Fb.qcow2":                 {Place{Provider: "office", Kind: "images", Stem: "a%2Fb", Format: "qcow2"}, true},
	} {
		p, ok, err := ParsePlace(s)
		if err != nil || cmp.Diff(want, result{p, ok}, cmp.AllowUnexported(result{})) != "" {
			t.Errorf("ParsePlace(%q) = %+v, %v, %v, want %+v", s, p, ok, err, want)
		}
	}
	for _, s := range []string{
		"office:images/a/b.raw", "office:images/web.disks/", "office:images/web.disks/vdb.raw", "office:images/web.disks/1-vdb.ova",
		"office:images/web.disks/256.raw", "office:images/web.disks/01.raw", "office:images/.disks/1.raw", "office:images/a/b.disks/1.raw",
	} {
		if _, ok, err := ParsePlace(s); !ok || err == nil {
			t.Errorf("ParsePlace(%q) is no error", s)
		}
	}
}

func TestParseDisk(t *testing.T) {
	for file, want := range map[string]struct {
		n      int
		device string
		format string
	}{
		"0-vda.raw": {0, "vda", "raw"}, "1-vdb.qcow2": {1, "vdb", "qcow2"}, "255-x.img": {255, "x", "raw"}, "7.vmdk": {7, "", "vmdk"},
		"1-a-b%2Fc.raw": {1, "a-b/c", "raw"}, "10-.raw": {10, "", "raw"},
		"256-x.raw": {}, "-1.raw": {}, "01-x.raw": {}, "+1-x.raw": {}, "1-x.ova": {}, "1-x.ovf": {}, "1-x": {}, "x.raw": {}, "1-x.json": {}, "": {}, ".1-x.raw": {},
	} {
		n, device, f, ok := ParseDisk(file)
		if ok != (want.format != "") || ok && (n != want.n || device != want.device || f.Name != want.format) {
			t.Errorf("ParseDisk(%q) = %d, %q, %q, %v, want %v", file, n, device, f.Name, ok, want)
		}
	}
	for _, device := range []string{"vdb", "", "a/b", "größe", "x.raw", "~", strings.Repeat("d", 300)} {
		n, got, _, ok := ParseDisk(DiskStem(3, device) + ".qcow2")
		if want := device; !ok || n != 3 || got != want && device != "" && len(device) < 200 {
			t.Errorf("disk 3 of device %q is parsed as %d of %q, %v", want, n, got, ok)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"", "web", ".x", "a/b", "100%25", "x.qcow2", "a~b", "\xff", "%", "%4", "x.ova.", strings.Repeat("é", 200)} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		disktest.Within(t)
		enc := Encode(a)
		if Decode(enc) != a {
			t.Fatalf("Decode(Encode(%q)) = %q", a, Decode(enc))
		}
		if !utf8.ValidString(enc) || strings.ContainsAny(enc, "/\x00~@\n") || strings.HasPrefix(enc, ".") {
			t.Fatalf("Encode(%q) = %q", a, enc)
		}
		if _, _, known := Parse(enc); known {
			t.Fatalf("Encode(%q) = %q ends in an extension", a, enc)
		}
		Decode(b)
		n, device, _, ok := ParseDisk(DiskStem(7, b) + ".raw")
		if !ok || n != 7 || b != "" && len(b) < 60 && device != b { // an escape takes three bytes
			t.Fatalf("the name of disk 7 of device %q is parsed as %d of %q, %v", b, n, device, ok)
		}
		entries := listingOf(a, b, a)
		seen := map[string]bool{}
		for _, n := range Shown(entries) {
			if n.Name == "" || len(n.Name) > maxStem || seen[n.Name] {
				t.Fatalf("%q and %q: name %q", a, b, n.Name)
			}
			seen[n.Name] = true
			stem, _, ok := Parse(n.Name + ".qcow2")
			if got, found := Find(entries, stem); !ok || !found || got.Entry.ID != n.Entry.ID {
				t.Fatalf("%q and %q: %q is not found by its name", a, b, n.Name)
			}
		}
	})
}

// TestIndexAll: who must not guess gets every image that a stem may mean.
func TestIndexAll(t *testing.T) {
	at := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	entries := []providers.Entry{
		{ID: "web.raw", Name: "web", Created: at},
		{ID: "web.img", Name: "web", Created: at.Add(time.Second)},
		{ID: "db.raw", Name: "db", Created: at},
		{ID: "x.raw.qcow2", Name: "x.raw", Created: at},
		{ID: "x.raw", Name: "x", Created: at},
		{ID: "i-1", Name: "", Created: at},
	}
	entries = append(entries, capturesOf("i-2", "vm", at)...)
	x := NewIndex(entries)
	shown := map[string]string{}
	for _, n := range x.Shown() {
		shown[n.Entry.ID] = n.Name
	}
	for stem, want := range map[string][]string{
		"web":                 {"web.raw", "web.img"},
		"w%65b":               {"web.raw", "web.img"},
		shown["web.img"]:      {"web.img"},
		"web%2Eraw":           {"web.raw"},
		"web%2Eimg":           {"web.img"},
		"db":                  {"db.raw"},
		"x%2Eraw":             {"x.raw.qcow2"}, // a name goes before an id
		"x":                   {"x.raw"},
		"i-1":                 {"i-1"},
		"vm":                  {"i-2"},
		"vm@20261121T030000Z": {capturesOf("i-2", "vm", at)[1].ID},
		"we":                  nil,
		"web~":                nil,
		"":                    nil,
	} {
		var got []string
		for _, n := range x.All(stem) {
			got = append(got, n.Entry.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("All(%q) = %q, want %q", stem, got, want)
		}
	}
}
