package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// meta reads a file of metadata.
func meta(t testing.TB, path string) map[string]any {
	t.Helper()
	text, err := readAll(path)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatalf("%s: %v\n%s", path, err, text)
	}
	return m
}

// TestMetadataTravels backs images up by rsync, with their metadata, and restores
// them elsewhere: fields and disks are the same, and a second run moves nothing.
func TestMetadataTravels(t *testing.T) {
	t.Parallel()
	need(t, "rsync", "qemu-img")
	a, b, c := newSite(t, "a"), newSite(t, "b"), newSite(t, "c")
	b.more = ", store: qcow2"
	serve(t, a, []plainDisk{{"web", gptExt4(t, 71)}}, containers()[:2]) // a compressed one comes back without
	var images []string
	for _, file := range names(t, a.images) {
		images = append(images, strings.TrimSuffix(file, filepath.Ext(file)))
	}
	s := mount(t, config{sites: []site{a, b, c}})
	for i, name := range images[:1] { // the other has none
		writeFile(t, s.images("a", name+".json"), []byte(`{"firmware": "uefi", "min_disk": `+string(rune('3'+i))+`, "tags": ["x"], "properties": {"hw_`+name+`": "1"}}`))
	}
	backup := t.TempDir()
	for _, step := range [][2]string{{s.images("a"), s.images("b")}, {s.images("b"), backup}, {backup, s.images("c")}} {
		from, to := step[0]+"/", step[1]+"/"
		if n := rsyncCount(t, "-a", "-S", from, to); n != 5*len(images) {
			t.Errorf("rsync to %s transferred %d files, want %d", to, n, 5*len(images))
		}
		if out := run(t, "rsync", "-ai", from, to); strings.Contains(out, "f") {
			t.Errorf("a second rsync to %s:\n%s", to, out)
		}
		for _, name := range images {
			want, got := meta(t, s.images("a", name+".json")), meta(t, filepath.Join(to, name+".json"))
			if !reflect.DeepEqual(got, want) || name == images[0] && got["firmware"] != "uefi" {
				t.Errorf("%s of %s: %v, want %v", name, to, got, want)
			}
			if digest(t, s.images("a", name+".raw")) != digest(t, filepath.Join(to, name+".raw")) {
				t.Errorf("%s of %s is another disk", name, to)
			}
		}
	}
	s = s.again(t, s.dir, s.state)
	if n := rsyncCount(t, "-a", s.images("a")+"/", s.images("b")+"/"); n != 0 {
		t.Errorf("rsync after a remount transferred %d files", n)
	}
}

// TestMetadataOrder: metadata may come before its image and after it, and waits over
// a restart.
func TestMetadataOrder(t *testing.T) {
	t.Parallel()
	need(t, "rsync")
	a, b := newSite(t, "a"), newSite(t, "b")
	for _, name := range []string{"after", "before"} {
		random(t, filepath.Join(a.images, name+".raw"), 256*kib, 72)
		writeFile(t, filepath.Join(a.images, name+".json"), []byte(`{"schema": 1, "firmware": "uefi", "min_disk": 7, "properties": {"p": "`+name+`"}}`))
	}
	long := time.Now().Add(-time.Hour)
	for _, file := range names(t, a.images) {
		if err := os.Chtimes(filepath.Join(a.images, file), long, long); err != nil {
			t.Fatal(err)
		}
	}
	s := mount(t, config{sites: []site{a, b}})
	in := func(name string) string { return s.images("b", name) }
	run(t, "cp", "-p", s.images("a", "before.json"), in(""))
	run(t, "rsync", "-a", s.images("a", "after.raw"), in(""))
	s = s.again(t, s.dir, s.state)
	run(t, "cp", "-p", s.images("a", "before.qcow2"), in(""))
	run(t, "rsync", "-a", s.images("a", "after.json"), in(""))
	for _, name := range []string{"after", "before"} {
		want, got := s.images("a", name+".json"), in(name+".json")
		if !reflect.DeepEqual(meta(t, want), meta(t, got)) || stat(t, want).Mtim != stat(t, got).Mtim {
			t.Errorf("%s: %v of %v, want %v of %v", name, meta(t, got), stat(t, got).Mtim, meta(t, want), stat(t, want).Mtim)
		}
		stored(t, b, name)
	}
	if n := rsyncCount(t, "-a", s.images("a")+"/", in("")); n != 0 {
		t.Errorf("a further rsync transferred %d files", n)
	}
}

// TestTenImages copies ten images under five names each: ten images arrive, and a
// second run moves no data.
func TestTenImages(t *testing.T) {
	t.Parallel()
	need(t, "rsync")
	a, b := newSite(t, "a"), newSite(t, "b")
	for i := range 10 {
		name := "image " + string(rune('0'+i))
		random(t, filepath.Join(a.images, name+".raw"), 512*kib, uint64(80+i))
		writeFile(t, filepath.Join(a.images, name+".json"), []byte(`{"schema": 1, "min_ram": `+string(rune('1'+i%9))+`}`))
	}
	s := mount(t, config{sites: []site{a, b}})
	if n := len(names(t, s.images("a"))); n != 50 {
		t.Fatalf("%d names are listed, want 50", n)
	}
	run(t, "rsync", "-a", s.images("a")+"/", s.images("b")+"/")
	if got := names(t, b.images); len(got) != 20 {
		t.Errorf("the folder holds %q, want ten images and their metadata", got)
	}
	for _, file := range names(t, a.images) {
		if filepath.Ext(file) == ".raw" && digest(t, filepath.Join(a.images, file)) != digest(t, filepath.Join(b.images, file)) {
			t.Errorf("%s is another image", file)
		}
	}
	out := run(t, "rsync", "-a", "--stats", s.images("a")+"/", s.images("b")+"/")
	if !strings.Contains(out, "Total transferred file size: 0 bytes") {
		t.Errorf("the second run:\n%s", out)
	}
	if _, err := os.Stat(s.images("b", "image 9.json")); err != nil {
		t.Error(err)
	}
}
