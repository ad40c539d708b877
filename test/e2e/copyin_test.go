package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestCopyFromOutside copies a raw disk into the mount with every program, and
// the containers with a few.
func TestCopyFromOutside(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	b := newSite(t, "b")
	s := mount(t, config{sites: []site{b}})
	disk := gptExt4(t, 61)
	for _, p := range append(programs(), scp(t)) {
		t.Run(p.name, func(t *testing.T) {
			copyIn(t, s, b, p, disk, source(t, containers()[0], disk), p.name)
		})
	}
	for _, c := range containers()[1:] {
		for _, p := range pick("cp", "dd", "rsync", "cat") {
			t.Run(p.name+"-"+c.name, func(t *testing.T) {
				copyIn(t, s, b, p, disk, source(t, c, disk), p.name+"-"+c.name)
			})
		}
	}
}

// source makes a container of a disk in a folder of its own.
func source(t testing.TB, c container, disk string) string {
	t.Helper()
	src := filepath.Join(t.TempDir(), "source."+c.ext)
	c.make(t, disk, src)
	return src
}

// pick takes programs out of the table.
func pick(names ...string) (some []program) {
	for _, p := range programs() {
		if slices.Contains(names, p.name) {
			some = append(some, p)
		}
	}
	return some
}

// TestCopyWithin copies from one provider to another with every program.
func TestCopyWithin(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	disk := gptExt4(t, 62)
	serve(t, a, []plainDisk{{"web", disk}}, containers())
	s := mount(t, config{sites: []site{a, b}})
	for _, p := range append(programs(), scp(t)) {
		if p.moves {
			continue // TestMoveWithin
		}
		t.Run(p.name, func(t *testing.T) {
			w := copyIn(t, s, b, p, disk, s.images("a", "web-raw.raw"), p.name)
			if limit := int64(2 * mib); p.stores == "" && w.spool > limit {
				t.Errorf("the spool took %d bytes; the copied bytes are known to be those of the source", w.spool)
			}
		})
	}
	some := pick("cp", "rsync", "dd-fsync")
	for i, c := range containers() {
		for j, format := range formats() {
			p := some[(i+j)%len(some)] // each meets each format and each container
			name := p.name + "-" + c.name + "-" + format
			t.Run(name, func(t *testing.T) {
				copyIn(t, s, b, p, disk, s.images("a", "web-"+c.name+"."+format), name)
				if file, stores := stored(t, b, name); stores == "ova" && c.name != "ova" {
					t.Errorf("an appliance that was only a view is stored as one: %s", file)
				}
			})
		}
	}
}

// copyIn copies src to an image of the given name and checks everything that
// can be seen of it, meanwhile and afterwards.
func copyIn(t *testing.T, s *server, to site, p program, disk, src, name string) *watch {
	t.Helper()
	dst := s.images(to.name, name+p.ext(src))
	w := watching(s, to, dst)
	r := p.copy(t, src, dst)
	if r.code != 0 {
		w.done(t, src)
		t.Fatalf("exit status %d\n%s\nreasons:\n%s", r.code, r.out, last(s.reasons(t), 2))
	}
	file, format := stored(t, to, name)
	w.done(t, file)
	same(t, disk, file, format)
	listed := names(t, s.images(to.name))
	for i, f := range formats() {
		if !slices.Contains(listed, name+"."+f) {
			t.Errorf("%s.%s is not listed", name, f)
		}
		if !sampled() || i == len(name)%len(formats()) {
			same(t, disk, s.images(to.name, name+"."+f), f)
		}
	}
	if _, err := os.Lstat(src); p.moves != (errno(err) == syscall.ENOENT) {
		t.Errorf("source after the copy: %v", err)
	}
	noTemporaries(t, to)
	return w
}

// noTemporaries checks that a folder holds images only.
func noTemporaries(t testing.TB, s site) {
	t.Helper()
	filepath.WalkDir(s.images, func(path string, d fs.DirEntry, _ error) error {
		if path != s.images && strings.HasPrefix(d.Name(), ".") {
			t.Errorf("left in the folder: %s", path)
		}
		return nil
	})
}

// TestMoveWithin: mv between providers is refused, and never by EXDEV, upon
// which mv would copy and then remove the source.
func TestMoveWithin(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	a, b := newSite(t, "a"), newSite(t, "b")
	all := serve(t, a, []plainDisk{{"web", random(t, filepath.Join(t.TempDir(), "r"), mib, 63)}}, containers()[:1])
	s := mount(t, config{sites: []site{a, b}})
	view := s.images("a", all[0].name+".raw")
	if err := os.Rename(view, s.images("b", "moved.raw")); errno(err) != syscall.EPERM {
		t.Errorf("rename between providers: %v, want EPERM", err)
	}
	if r := try(t, "mv", view, s.images("b", "moved.raw")); r.code == 0 {
		t.Error("mv between providers ends with 0")
	}
	if r := try(t, "mv", view, filepath.Join(t.TempDir(), "out.raw")); r.code == 0 {
		t.Error("mv out of the mount ends with 0")
	}
	for name, op := range map[string]func(string) error{"unlink": os.Remove, "truncate": func(p string) error { return os.Truncate(p, 0) }} {
		if err := op(view); err == nil {
			t.Errorf("%s of an image succeeds", name)
		}
	}
	for _, dir := range []string{s.path("a"), s.images("a")} {
		if err := syscall.Rmdir(dir); err != syscall.EPERM {
			t.Errorf("rmdir %s: %v, want EPERM", dir, err)
		}
	}
	if got := names(t, b.images); len(got) != 0 {
		t.Errorf("b holds %q", got)
	}
	same(t, all[0].disk.path, all[0].file, "raw")
}

// TestCopyWholeFolder copies all views of all images at once: each image meets
// itself under several names and is stored once.
func TestCopyWholeFolder(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "rsync")
	a := newSite(t, "a")
	disk := gptExt4(t, 64)
	serve(t, a, []plainDisk{{"web", disk}}, containers())
	sites := []site{a}
	commands := map[string]func(from, to string) []string{
		"cp":     func(from, to string) []string { return []string{"cp", "-r", from, filepath.Dir(to)} },
		"cp-dot": func(from, to string) []string { return []string{"cp", "-a", from + "/.", to} },
		"rsync":  func(from, to string) []string { return []string{"rsync", "-a", from + "/", to + "/"} },
	}
	for name := range commands {
		sites = append(sites, newSite(t, name))
	}
	s := mount(t, config{sites: sites})
	for _, to := range sites[1:] {
		line := commands[to.name](s.images("a"), s.images(to.name))
		t.Run(to.name, func(t *testing.T) {
			for range 2 { // the second finds everything there
				r := try(t, line[0], line[1:]...)
				if r.code != 0 {
					t.Fatalf("%q: exit status %d\n%s\nreasons:\n%s", line, r.code, r.out, last(s.reasons(t), 3))
				}
				for _, c := range containers() {
					file, format := stored(t, to, "web-"+c.name)
					same(t, disk, file, format)
				}
			}
			noTemporaries(t, to)
		})
	}
}
