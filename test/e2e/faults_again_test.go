package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chromogenic/test/faultfs"
)

// TestReplugged: a disk goes away and comes back. Who has an image of it open reads
// on, and so does who opens it.
func TestReplugged(t *testing.T) {
	t.Parallel()
	s := newFaultStage(t, faultImages(t))
	for _, n := range []string{"x.raw", "x.qcow2", "x.vmdk"} {
		run(t, "cp", s.masters[n[2:]], filepath.Join(s.source.below, "images", n[2:]+"."+n[2:]))
	}
	script(t, `touch -d '1 hour ago' "$1"/images/*`, s.source.below)
	s.refresh(t)
	want, err := os.ReadFile(s.masters["raw"])
	must(t, err)
	open := map[string]*os.File{}
	for _, n := range []string{"raw.raw", "qcow2.raw", "vmdk.raw"} {
		f, err := os.Open(s.images("a", n))
		must(t, err)
		defer f.Close()
		_, err = f.ReadAt(make([]byte, 4096), 0)
		must(t, err)
		open[n] = f
	}
	must(t, s.source.Kill())
	for n, f := range open {
		if _, err := f.ReadAt(make([]byte, 4096), 2*mib); errno(err) != syscall.EHOSTUNREACH {
			t.Errorf("%s of a disk that is gone: %v", n, err)
		}
	}
	if _, err := readNames(s.images("a")); errno(err) != syscall.EHOSTUNREACH {
		t.Errorf("the folder of a disk that is gone: %v", err)
	}
	s.source.plug(t)
	s.refresh(t)
	for n, f := range open {
		p := make([]byte, len(want))
		if _, err := f.ReadAt(p, 0); err != nil || string(p) != string(want) {
			t.Errorf("%s of a disk that is back, in the same open file: %v", n, err)
		}
		same(t, s.masters["raw"], s.images("a", n), "raw")
	}
}

// TestCannotRemove: the unfinished file of a copy that has failed cannot be removed
// either. The program is told the first cause, the reason has both, and gc removes
// the file when it can.
func TestCannotRemove(t *testing.T) {
	t.Parallel()
	s := newFaultStage(t, faultImages(t))
	full := failing(faultfs.Write, syscall.ENOSPC)
	stuck := failing(faultfs.Unlink, syscall.EIO)
	full.File, stuck.File = ".chromogenic-*", ".chromogenic-*"
	s.target.set(t, full)
	s.target.set(t, stuck)
	r := try(t, "cp", s.masters["raw"], s.images("b", "x.raw"))
	if r.code == 0 || !says(r.out, said(syscall.ENOSPC)) {
		t.Errorf("exit status %d\n%s", r.code, r.out)
	}
	reasons := s.reasons(t)
	for _, want := range []string{"no space left", "remove what was sent", "input/output error", "CHR-0009"} {
		if !strings.Contains(reasons, want) {
			t.Errorf("the reason does not say %q:\n%s", want, reasons)
		}
	}
	s.target.mend(t)
	if out := run(t, binary(), "gc", "--dry-run", "--config", s.conf); !strings.Contains(out, "temporary") {
		t.Errorf("gc does not find it: %q", out)
	}
	run(t, binary(), "gc", "--config", s.conf)
	if got := names(t, s.b.images); len(got) != 1 {
		t.Errorf("gc leaves %q", got)
	}
}

// TestStateLost cuts the database of a running mount, as a disk does that cannot read
// it any longer. Images are served on, copies are refused, and the next mount says
// why it does not begin.
func TestStateLost(t *testing.T) {
	t.Parallel()
	good := newSite(t, "good")
	web := random(t, filepath.Join(good.images, "web.raw"), 2*mib, 222)
	for i := range 40 { // of which the database keeps something
		must(t, os.Link(web, filepath.Join(good.images, strings.Repeat("x", 100+i)+".raw")))
	}
	old := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(web, old, old))
	s := mount(t, config{sites: []site{good}})
	run(t, "ls", "-l", s.images("good"))
	must(t, os.Truncate(filepath.Join(s.state, "state.db"), 2*4096))
	same(t, web, s.images("good", "web.qcow2"), "qcow2")
	for _, c := range pick("cp", "dd", "rsync") {
		src := random(t, filepath.Join(t.TempDir(), "x.raw"), mib, 223)
		if r := c.copy(t, src, s.images("good", c.name+".raw")); r.code == 0 || !says(r.out, said(syscall.EIO)) {
			t.Errorf("%s: exit status %d\n%s", c.name, r.code, r.out)
		}
	}
	if reasons := s.reasons(t); !strings.Contains(reasons, "state.db") {
		t.Errorf("the reason does not name the database:\n%s", reasons)
	}
	run(t, "ls", "-l", s.images("good"))
	same(t, web, s.images("good", "web.vmdk"), "vmdk")
	if got := names(t, good.images); len(got) != 41 {
		t.Errorf("the folder holds %d files", len(got))
	}
}
