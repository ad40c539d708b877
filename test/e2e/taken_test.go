package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// overwriters are the programs that write over a file that is there; the others
// remove it first, which the mount refuses. Early are those that write into it, and
// not into another file which they rename.
func overwriters() (some []program, early map[string]bool) {
	early = map[string]bool{}
	for _, p := range programs() {
		removes := p.moves || p.name == "install" || strings.HasPrefix(p.name, "tar")
		if removes || p.stores != "" {
			continue
		}
		some = append(some, p)
		early[p.name] = !strings.HasPrefix(p.name, "rsync") || strings.Contains(p.name, "inplace")
	}
	more := []program{
		{name: "dd-64k", line: shell(`dd if="$1" of="$2" bs=64k`)},
		{name: "dd-notrunc", line: shell(`dd if="$1" of="$2" bs=64k conv=notrunc`)},
		{name: "dd-seek", line: shell(`dd if="$1" of="$2" bs=4k skip=1 seek=1 conv=notrunc status=none && dd if="$1" of="$2" bs=4k count=1 conv=notrunc`)},
		{name: "tar-overwrite", line: shell(`tar -C "$(dirname "$1")" --transform="flags=r;s|.*|$4|" -cf - "$(basename "$1")" | tar -C "$3" --overwrite -xf -`)},
		{name: "python-mmap-size", line: argv("python3", "-c", `import shutil, sys
with open(sys.argv[1], "rb") as a, open(sys.argv[2], "r+b") as b:
    shutil.copyfileobj(a, b); b.truncate()`)},
	}
	for _, p := range more {
		early[p.name] = p.name == "dd-64k" || p.name == "dd-notrunc" || p.name == "tar-overwrite"
	}
	return append(some, more...), early
}

// another makes a copy of a disk with one byte changed, and appends to it, or cuts
// it, by more bytes.
func another(t testing.TB, disk string, at int64, more int) string {
	t.Helper()
	p, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if at >= 0 {
		if p[at] ^= 0x40; p[at] == 0 {
			p[at] = 1
		}
	}
	if more < 0 {
		p = p[:len(p)+more]
	} else {
		p = append(p, randomBytes(more, 183)...)
	}
	file := filepath.Join(t.TempDir(), "another.raw")
	writeFile(t, file, p)
	return file
}

// TestTakenName writes over an image with every program that can: the same disk is a
// success, and another fails at the write that brings the first byte which differs.
func TestTakenName(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	const size = 3*mib + 512
	disk := random(t, filepath.Join(t.TempDir(), "disk.raw"), size, 181)
	a, b := newSite(t, "a"), newSite(t, "b")
	sources := map[string]struct {
		file string
		at   int64 // where it differs; -1 nowhere
		late bool  // that shows at the end only
	}{
		"same":    {disk, -1, false},
		"first":   {another(t, disk, 7, 0), 7, false},
		"last":    {another(t, disk, size-1, 0), size - 1, false},
		"shorter": {another(t, disk, -1, -512), size - 512, true},
		"longer":  {another(t, disk, -1, 1024), size, false},
	}
	for kind, src := range sources {
		run(t, "cp", src.file, filepath.Join(a.images, kind+".raw"))
	}
	age(t, time.Hour, a.images)
	s := mount(t, config{sites: []site{a, b}})
	programs, early := overwriters()
	within := pick("cp", "cp-noreflink", "cp-sparse", "dd", "rsync", "rsync-inplace", "shutil.copy")
	check := func(t *testing.T, p program, kind, path string) {
		src := sources[kind]
		name := strings.ReplaceAll(t.Name(), "/", "-")
		file := filepath.Join(b.images, name+".raw")
		run(t, "cp", disk, file)
		defer os.Remove(file)
		age(t, 2*time.Hour, b.images) // or rsync would see no difference
		s.refresh(t)
		before, counted, reasons := stat(t, file), spooled(t, s), s.reasons(t)
		r := p.copy(t, path, s.images("b", name+".raw"))
		if kind == "same" != (r.code == 0) {
			t.Errorf("exit status %d\n%s\nreasons:\n%s", r.code, r.out, last(s.reasons(t), 3))
		}
		if kind != "same" {
			checkTaken(t, p, r, s.reasonsSince(t, reasons), src.at, early[p.name] && !src.late)
		}
		if n := spooled(t, s) - counted; n != 0 && (kind == "same" || early[p.name]) {
			t.Errorf("%d bytes of scratch space", n)
		}
		if after := stat(t, file); after.Ino != before.Ino || digest(t, file) != digest(t, disk) {
			t.Error("the image that was there is another")
		}
	}
	// The shorter first: it is a part of others, and would be taken for a copy of one
	// that somebody has read a moment ago.
	for _, kind := range []string{"shorter", "same", "first", "last", "longer"} {
		src := sources[kind]
		for _, p := range programs {
			if kind == "shorter" && (p.name == "dd-notrunc" || p.name == "dd-seek") {
				continue // they leave the rest, and so the same disk
			}
			t.Run(kind+"/outside/"+p.name, func(t *testing.T) { check(t, p, kind, src.file) })
		}
		for _, p := range within {
			t.Run(kind+"/within/"+p.name, func(t *testing.T) { check(t, p, kind, s.images("a", kind+".raw")) })
		}
	}
	noTemporaries(t, b)
}

// checkTaken checks how a program failed that wrote another disk under a taken name.
func checkTaken(t *testing.T, p program, r result, reasons string, at int64, early bool) {
	t.Helper()
	if !strings.Contains(r.out, "File exists") {
		t.Errorf("%s does not say that the file exists: %s", p.name, r.out)
	}
	if !early {
		if !strings.Contains(reasons, `"EEXIST"`) {
			t.Errorf("no reason:\n%s", reasons)
		}
		return
	}
	var f struct{ Op, Errno, Message, Hint string }
	first, _, _ := strings.Cut(reasons, "\n")
	if err := json.Unmarshal([]byte(first), &f); err != nil {
		t.Fatalf("%v in %q", err, reasons)
	}
	if f.Op != "write" && f.Op != "copy_file_range" || f.Errno != "EEXIST" || f.Hint == "" {
		t.Errorf("the first failure is %+v", f)
	}
	if want := fmt.Sprintf("at offset %d", at); !strings.HasSuffix(f.Message, want) {
		t.Errorf("the reason is %q, want one that ends with %q", f.Message, want)
	}
}

// age makes the images of folders look as if they were written a while ago.
func age(t testing.TB, by time.Duration, folders ...string) {
	t.Helper()
	when := time.Now().Add(-by)
	for _, dir := range folders {
		for _, n := range names(t, dir) {
			if err := os.Chtimes(filepath.Join(dir, n), when, when); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestTakenNameReplaced: where a copy may take the place of another image nothing
// fails early, and what is equal needs no scratch space.
func TestTakenNameReplaced(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	disk := random(t, filepath.Join(t.TempDir(), "disk.raw"), 3*mib, 182)
	other := another(t, disk, 2*mib, 0)
	age(t, 3*time.Hour, filepath.Dir(other)) // or rsync would see no difference
	b := newSite(t, "b")
	programs, _ := overwriters()
	for _, p := range programs {
		run(t, "cp", disk, filepath.Join(b.images, p.name+".raw"))
	}
	age(t, time.Hour, b.images)
	s := mount(t, config{sites: []site{b}, flags: []string{"--allow-replace"}})
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			file, dst := filepath.Join(b.images, p.name+".raw"), s.images("b", p.name+".raw")
			counted, before := spooled(t, s), stat(t, file)
			if r := p.copy(t, disk, dst); r.code != 0 {
				t.Fatalf("the same: exit status %d\n%s", r.code, r.out)
			}
			if n := spooled(t, s) - counted; n != 0 || stat(t, file).Ino != before.Ino {
				t.Errorf("the same disk took %d bytes of scratch space", n)
			}
			if p.name == "dd-seek" {
				return // it is two writers, and half of a copy is another disk
			}
			if r := p.copy(t, other, dst); r.code != 0 {
				t.Fatalf("another: exit status %d\n%s\nreasons:\n%s", r.code, r.out, last(s.reasons(t), 2))
			}
			if digest(t, file) != digest(t, other) {
				t.Error("the other disk has not taken its place")
			}
		})
	}
	noTemporaries(t, b)
}

// TestTakenContainer hands over a disk in another container than the one that has
// the name: only the whole of it tells whether it is the same.
func TestTakenContainer(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	disk := gptExt4(t, 184)
	b := newSite(t, "b")
	run(t, "cp", "--sparse=always", disk, filepath.Join(b.images, "web.raw"))
	age(t, time.Hour, b.images)
	foreign, compressed := filepath.Join(t.TempDir(), "x.qcow2"), filepath.Join(t.TempDir(), "y.qcow2")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4096", disk, foreign)
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", disk, compressed)
	wrong := filepath.Join(t.TempDir(), "wrong.qcow2")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", gptExt4(t, 185), wrong)
	s := mount(t, config{sites: []site{b}})
	own := filepath.Join(t.TempDir(), "own.qcow2")
	run(t, "cp", s.images("b", "web.qcow2"), own)
	for _, p := range pick("cp", "dd", "rsync", "rsync-inplace", "shutil.copyfile", "cat") {
		for kind, src := range map[string]string{"own": own, "foreign": foreign, "compressed": compressed, "wrong": wrong} {
			t.Run(p.name+"/"+kind, func(t *testing.T) {
				counted := spooled(t, s)
				r := p.copy(t, src, s.images("b", "web.qcow2"))
				if kind == "wrong" {
					if r.code == 0 || !strings.Contains(r.out, "File exists") {
						t.Errorf("another disk: exit status %d\n%s", r.code, r.out)
					}
				} else if r.code != 0 {
					t.Errorf("the same disk: exit status %d\n%s\nreasons:\n%s", r.code, r.out, last(s.reasons(t), 2))
				}
				if n := spooled(t, s) - counted; kind == "own" && n != 0 {
					t.Errorf("%d bytes of scratch space for what the mount itself has given out", n)
				}
			})
		}
	}
	if file, _ := stored(t, b, "web"); digest(t, file) != digest(t, disk) {
		t.Error("the image has changed")
	}
}

// atOnce runs two commands to their ends.
func atOnce(t testing.TB, a, b *exec.Cmd) (x, y result) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { x = tryCmd(t, a) })
	wg.Go(func() { y = tryCmd(t, b) })
	wg.Wait()
	return x, y
}

// TestRace has two programs write one name at the same time, again and again. Of one
// disk both succeed; of two disks one does, and what is there is wholly its.
func TestRace(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	one := random(t, filepath.Join(t.TempDir(), "one.raw"), 4*mib, 186)
	two := another(t, one, 4*mib-1, 0)
	run(t, "cp", one, filepath.Join(a.images, "one.raw"))
	run(t, "cp", two, filepath.Join(a.images, "two.raw"))
	age(t, time.Hour, a.images)
	s := mount(t, config{sites: []site{a, b}})
	within := []string{s.images("a", "one.raw"), s.images("a", "two.raw")}
	for _, p := range pick("cp", "cp-noreflink", "dd", "rsync", "rsync-inplace", "cat", "shutil.copy") {
		for kind, src := range map[string][]string{
			"same/within": {within[0], within[0]}, "same/outside": {one, one}, "same/both": {one, within[0]},
			"different/within": within, "different/outside": {one, two}, "different/both": {within[0], two},
		} {
			t.Run(p.name+"/"+kind, func(t *testing.T) {
				name := strings.ReplaceAll(p.name+"-"+kind, "/", "-")
				dst := s.images("b", name+".raw")
				counted := spooled(t, s)
				x, y := atOnce(t, p.line(src[0], dst), p.line(src[1], dst))
				file, _ := stored(t, b, name)
				switch sum := digest(t, file); {
				case strings.HasPrefix(kind, "same"):
					if x.code != 0 || y.code != 0 || sum != digest(t, one) {
						t.Errorf("exit status %d and %d\n%s%s\nreasons:\n%s", x.code, y.code, x.out, y.out, last(s.reasons(t), 3))
					}
				case (x.code == 0) == (y.code == 0):
					t.Errorf("exit status %d and %d\n%s%s", x.code, y.code, x.out, y.out)
				case sum != digest(t, one) && sum != digest(t, two):
					t.Error("the image is a mix of both")
				case !strings.Contains(x.out+y.out, "File exists"):
					t.Errorf("the loser says %s%s", x.out, y.out)
				}
				if n := spooled(t, s) - counted; n != 0 && strings.HasSuffix(kind, "within") {
					t.Errorf("%d bytes of scratch space", n)
				}
			})
		}
	}
	noTemporaries(t, b)
}

// TestTakenNameQemu: qemu-img does not notice when its last close fails, so it may
// not even begin.
func TestTakenNameQemu(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	b := newSite(t, "b")
	disk := random(t, filepath.Join(b.images, "web.raw"), mib, 187)
	s := mount(t, config{sites: []site{b}})
	for _, args := range [][]string{{"-n"}, {}} {
		args = append([]string{"convert", "-f", "raw", "-O", "raw"}, append(args, disk, s.images("b", "web.raw"))...)
		if r := try(t, "qemu-img", args...); r.code == 0 || !strings.Contains(r.out, "File exists") {
			t.Errorf("qemu-img %q: exit status %d: %s", args, r.code, r.out)
		}
	}
}

// TestRaceOfMounts has two mounts of one folder take a name at the same time.
func TestRaceOfMounts(t *testing.T) {
	t.Parallel()
	b := newSite(t, "b")
	one := random(t, filepath.Join(t.TempDir(), "one.raw"), 8*mib, 188)
	two := another(t, one, 4*mib, 0)
	x, y := mount(t, config{sites: []site{b}}), mount(t, config{sites: []site{b}})
	for round, other := range []string{one, two, one, two} {
		name := fmt.Sprintf("round%d", round)
		p, q := atOnce(t, command("cp", one, x.images("b", name+".raw")), command("cp", other, y.images("b", name+".raw")))
		file, _ := stored(t, b, name)
		switch sum := digest(t, file); {
		case other == one && (p.code != 0 || q.code != 0 || sum != digest(t, one)):
			t.Errorf("%s: exit status %d and %d\n%s%s", name, p.code, q.code, p.out, q.out)
		case other == two && ((p.code == 0) == (q.code == 0) || sum != digest(t, one) && sum != digest(t, two)):
			t.Errorf("%s: exit status %d and %d\n%s%s", name, p.code, q.code, p.out, q.out)
		}
	}
	noTemporaries(t, b)
}
