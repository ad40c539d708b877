package e2e

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A failure is a way in which a copy cannot succeed.
type failure struct {
	says   string // what a program prints that tells the errno
	reason string // what .chromogenic/errors tells
}

// checkFailed runs a program that must fail, and looks for what it must not
// leave: an image, a part of one, a changed source.
func checkFailed(t *testing.T, s *server, to site, p program, src, name string, f failure) {
	t.Helper()
	before, sum := names(t, to.images), digestOrError(src)
	reasons := s.reasons(t)
	dst := s.images(to.name, name+p.ext(src))
	w := watching(s, to, dst)
	r := p.copy(t, src, dst)
	w.nothing(t)
	if r.code == 0 {
		t.Errorf("exit status 0\n%s", r.out)
	}
	if !p.quiet && !strings.Contains(r.out, f.says) {
		t.Errorf("the program does not say %q:\n%s", f.says, r.out)
	}
	if f.reason != "" && !strings.Contains(s.reasonsSince(t, reasons), f.reason) {
		t.Errorf("no reason %q in .chromogenic/errors:\n%s", f.reason, s.reasonsSince(t, reasons))
	}
	if after := names(t, to.images); strings.Join(before, "/") != strings.Join(after, "/") {
		t.Errorf("the folder held %q and holds %q", before, after)
	}
	if got := digestOrError(src); got != sum {
		t.Errorf("the source was %s and is %s", sum, got)
	}
}

// digestOrError tells of a file what reading it gives.
func digestOrError(path string) string {
	sum, _, err := readThrough(path)
	if err != nil {
		return err.Error()
	}
	return sum
}

// TestNoSpace copies into a folder whose file system is too small.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needPrograms(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	tmpfs(t, b.images, "4M")
	src := random(t, filepath.Join(a.images, "big.raw"), 9*mib, 71)
	s := mount(t, config{sites: []site{a, b}})
	t.Cleanup(func() { s.stop(t) }) // before the file system goes away
	full := failure{"No space left on device", "CHR-0009"}
	for _, p := range append(programs(), scp(t)) {
		t.Run(p.name, func(t *testing.T) { checkFailed(t, s, b, p, src, p.name, full) })
		if !p.moves {
			t.Run(p.name+"-within", func(t *testing.T) { checkFailed(t, s, b, p, s.images("a", "big.raw"), p.name+"-within", full) })
		}
	}
}

// TestReadOnly copies into a mount that takes nothing.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	b := newSite(t, "b")
	s := mount(t, config{sites: []site{b}, flags: []string{"--read-only"}})
	src := random(t, filepath.Join(t.TempDir(), "x.raw"), mib, 72)
	for _, p := range append(programs(), scp(t)) {
		t.Run(p.name, func(t *testing.T) {
			checkFailed(t, s, b, p, src, p.name, failure{says: "Read-only file system"})
		})
	}
}

// TestDamagedSource copies images of which a part cannot be read.
func TestDamagedSource(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	damage(t, filepath.Join(a.images, "bad.qcow2"))
	s := mount(t, config{sites: []site{a, b}})
	for _, p := range append(programs(), scp(t)) {
		if p.moves {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			checkFailed(t, s, b, p, s.images("a", "bad.raw"), p.name, failure{says: "Bad message"})
		})
	}
	for _, p := range pick("cp", "rsync", "dd") {
		for _, format := range []string{"qcow2", "vmdk", "ova"} {
			t.Run(p.name+"-"+format, func(t *testing.T) {
				checkFailed(t, s, b, p, s.images("a", "bad."+format), p.name+"-"+format, failure{})
			})
		}
	}
}

// damage makes a qcow2 of zlib clusters and overwrites some: its tables are
// sound, its content is not.
func damage(t testing.TB, to string) {
	t.Helper()
	// Text, for what does not compress is kept as it is, and damage to it
	// cannot be seen.
	text := []byte(hex.EncodeToString(randomBytes(8*mib, 73)))
	disk := filepath.Join(t.TempDir(), "text.raw")
	writeFile(t, disk, text)
	qemuConvert("-O", "qcow2", "-c")(t, disk, to)
	f, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	junk := make([]byte, 200*kib)
	for i := range junk {
		junk[i] = 0xff
	}
	if _, err := f.WriteAt(junk, info.Size()/2); err != nil {
		t.Fatal(err)
	}
	if r := try(t, "qemu-img", "convert", to, disk); r.code == 0 {
		t.Fatal("qemu-img can read it")
	}
}

// TestExists copies onto a name that another disk has.
func TestExists(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	b := newSite(t, "b")
	src := random(t, filepath.Join(t.TempDir(), "x.raw"), 2*mib, 74)
	for _, p := range append(programs(), scp(t)) {
		random(t, filepath.Join(b.images, p.name+".raw"), 3*mib+512, 75)
	}
	s := mount(t, config{sites: []site{b}})
	for _, p := range append(programs(), scp(t)) {
		t.Run(p.name, func(t *testing.T) {
			file := filepath.Join(b.images, p.name+".raw")
			before, files := stat(t, file), names(t, b.images)
			sum := digest(t, file)
			r := p.copy(t, src, s.images("b", p.name+p.ext(src)))
			if r.code == 0 {
				t.Errorf("exit status 0\n%s", r.out)
			}
			// Some remove what is there before they write, and may not: EPERM.
			if removes := p.moves || p.name == "install" || strings.HasPrefix(p.name, "tar"); !p.quiet && !removes && !strings.Contains(r.out, "File exists") {
				t.Errorf("the program does not say that the file exists:\n%s", r.out)
			}
			if after := stat(t, file); after.Ino != before.Ino || after.Mtim != before.Mtim || digest(t, file) != sum {
				t.Error("the image that was there has changed")
			}
			if got := names(t, b.images); len(got) != len(files) {
				t.Errorf("the folder held %q and holds %q", files, got)
			}
			same(t, file, s.images("b", p.name+".qcow2"), "qcow2")
		})
	}
}

// TestSameAgain copies the disk that is there already: a success, and no work.
func TestSameAgain(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	disk := gptExt4(t, 76)
	serve(t, a, []plainDisk{{"web", disk}}, containers()[:2])
	s := mount(t, config{sites: []site{a, b}})
	run(t, "cp", s.images("a", "web-raw.raw"), s.images("b", "web.raw"))
	file, _ := stored(t, b, "web")
	before := stat(t, file)
	for _, p := range pick("cp", "cp-a", "cp-sparse", "cp-dense", "dd", "dd-fsync", "tee", "cat", "rsync", "rsync-S", "rsync-inplace", "shutil.copy", "shutil.copyfile") {
		for _, src := range []string{disk, s.images("a", "web-raw.raw"), s.images("a", "web-plain.qcow2"), s.images("a", "web-raw.ova")} {
			ext := filepath.Ext(src)
			if ext == "" {
				ext = ".raw"
			}
			if r := p.copy(t, src, s.images("b", "web"+ext)); r.code != 0 {
				t.Errorf("%s of %s: exit status %d\n%s\nreasons:\n%s", p.name, src, r.code, r.out, last(s.reasons(t), 1))
			}
			now, _ := stored(t, b, "web")
			if after := stat(t, now); now != file || after.Ino != before.Ino {
				t.Errorf("%s of %s made the image anew: %s", p.name, src, now)
			}
		}
	}
	noTemporaries(t, b)
}

// TestStore copies into providers that keep everything in one format.
func TestStore(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a := newSite(t, "a")
	disk := gptExt4(t, 77)
	serve(t, a, []plainDisk{{"web", disk}}, containers())
	sites := []site{a}
	for _, store := range []string{"raw", "qcow2", "vmdk"} {
		b := newSite(t, "to-"+store)
		b.more = ", store: " + store
		sites = append(sites, b)
	}
	s := mount(t, config{sites: sites})
	for _, to := range sites[1:] {
		for _, c := range containers() {
			name := "web-" + c.name
			run(t, "cp", s.images("a", name+"."+c.ext), s.images(to.name))
			file, format := stored(t, to, name)
			if want := strings.TrimPrefix(to.name, "to-"); format != want {
				t.Errorf("%s stores %s, want %s", to.name, file, want)
			}
			same(t, disk, file, format)
		}
	}
}
