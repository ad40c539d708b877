package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// rmMount mounts images of 8 MiB in a, and a second provider b with none.
func rmMount(t testing.TB, images []string, flags ...string) *server {
	t.Helper()
	c := config{sites: []site{newSite(t, "a"), newSite(t, "b")}, flags: flags}
	for _, name := range images {
		putDisk(t, filepath.Join(c.sites[0].images, name+".raw"))
	}
	return mount(t, c)
}

// putDisk writes a disk of 8 MiB that holds its own name, an hour old.
func putDisk(t testing.TB, path string) {
	t.Helper()
	sparse(t, path, 8*mib)
	script(t, `printf "this is $1" | dd of="$1" bs=1M seek=1 conv=notrunc status=none; touch -d '1 hour ago' "$1"`, path)
}

// A kept file is one that nobody has touched.
type keptFile struct {
	ino uint64
	sum string
}

// folder is what is in a folder, by name.
func folder(t testing.TB, dir string) map[string]keptFile {
	t.Helper()
	all := map[string]keptFile{}
	for _, name := range names(t, dir) {
		path := filepath.Join(dir, name)
		all[name] = keptFile{stat(t, path).Ino, digest(t, path)}
	}
	return all
}

// wantFolder fails unless a folder holds these files, untouched, and no others.
func wantFolder(t testing.TB, what, dir string, before map[string]keptFile, left ...string) {
	t.Helper()
	now := folder(t, dir)
	for _, name := range left {
		if now[name] != before[name] {
			t.Errorf("%s: %s is %+v, it was %+v", what, name, now[name], before[name])
		}
	}
	if len(now) != len(left) {
		t.Errorf("%s: the folder holds %q, want %q", what, names(t, dir), left)
	}
}

// filesOf are the listed names of images.
func filesOf(images ...string) []string {
	var all []string
	for _, image := range images {
		all = append(all, image+".json")
		for _, format := range formats() {
			all = append(all, image+"."+format)
		}
	}
	slices.Sort(all)
	return all
}

// TestRmRefused: a mount that was not told to delete keeps everything, whoever tries,
// and says why.
func TestRmRefused(t *testing.T) {
	t.Parallel()
	need(t, "rsync")
	s := rmMount(t, []string{"web", "db"})
	in, out, src := s.images("a"), t.TempDir(), t.TempDir()
	run(t, "cp", "-p", filepath.Join(s.sites[0].images, "web.raw"), src)
	before := folder(t, s.sites[0].images)
	for _, c := range []struct {
		told string
		code int
		args []string
	}{
		{"Operation not permitted", 1, []string{"rm", in + "/web.raw"}},
		{"Operation not permitted", 1, []string{"rm", "-f", in + "/web.qcow2"}},
		{"Operation not permitted", 1, []string{"rm", in + "/web.json"}},
		{"Operation not permitted", 1, []string{"rm", "-rf", in}},
		{"Operation not permitted", 1, []string{"rm", "-rf", s.path("a")}},
		{"Operation not permitted", 1, []string{"unlink", in + "/web.ova"}},
		{"Operation not permitted", 1, []string{"rmdir", in}},
		{"Operation not permitted", 1, []string{"find", in, "-type", "f", "-delete"}},
		{"Operation not permitted", 1, []string{"mv", in + "/web.qcow2", out}},
		{"Operation not permitted", 1, []string{"mv", in + "/web.raw", s.images("b")}},
		{"Operation not permitted", 23, []string{"rsync", "-a", "--delete", src + "/", in + "/"}},
		{"Operation not permitted", 23, []string{"rsync", "-a", "--remove-source-files", in + "/", out + "/"}},
	} {
		r := try(t, c.args[0], c.args[1:]...)
		if r.code != c.code || !strings.Contains(r.out, c.told) {
			t.Errorf("%q: status %d, want %d and %q\n%s", c.args, r.code, c.code, c.told, r.out)
		}
		wantFolder(t, strings.Join(c.args, " "), s.sites[0].images, before, "web.raw", "db.raw")
	}
	if got := names(t, in); !slices.Equal(got, filesOf("web", "db")) {
		t.Errorf("listed: %q", got)
	}
	if left := names(t, s.sites[1].images); len(left) > 0 {
		t.Errorf("b holds %q", left)
	}
	if digest(t, filepath.Join(out, "web.raw")) != before["web.raw"].sum {
		t.Error("what was copied before it could not be removed is another disk")
	}
	if reasons := s.reasons(t); !strings.Contains(reasons, "chromogenic rm a:images/web") {
		t.Errorf("the reasons are\n%s", reasons)
	}
}

// TestRmAllowed: where it may, a mount removes images once, whatever they are called
// in, and nothing else.
func TestRmAllowed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		line string // of shell; $1 is the directory
		code int
		gone []string
	}{
		"rm":                      {`rm "$1/web.qcow2"`, 0, []string{"web"}},
		"rm of a json":            {`rm "$1/web.json"`, 0, nil},
		"rm of all names":         {`rm "$1"/web.*`, 1, []string{"web"}}, // the others are gone with the first
		"rm -f of all names":      {`rm -f "$1"/web.*`, 0, []string{"web"}},
		"rm of all images":        {`rm "$1"/*.raw`, 0, []string{"web", "db", "old"}},
		"rm -r":                   {`rm -r "$1"`, 1, []string{"web", "db", "old"}},
		"rm -rf":                  {`rm -rf "$1"`, 1, []string{"web", "db", "old"}}, // the directory itself stays
		"rm -rf of what is in it": {`rm -rf "$1"/*`, 0, []string{"web", "db", "old"}},
		"find -delete":            {`find "$1" -name 'web.raw' -delete`, 0, []string{"web"}},
		"find -delete all":        {`find "$1" -type f -delete`, 1, []string{"web", "db", "old"}},
		"find -delete, calm":      {`find "$1" -ignore_readdir_race -type f -delete`, 0, []string{"web", "db", "old"}},
		"find -exec rm -f":        {`find "$1" -name 'd*' -exec rm -f {} +`, 0, []string{"db"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := rmMount(t, []string{"web", "db", "old"}, "--allow-delete")
			dir := s.sites[0].images
			before := folder(t, dir)
			run(t, "ls", "-l", s.images("a")) // so that the kernel knows all names
			r := try(t, "sh", "-c", c.line, "sh", s.images("a"))
			if r.code != c.code || c.code == 0 && r.out != "" {
				t.Errorf("status %d, want %d\n%s", r.code, c.code, r.out)
			}
			var left, files []string
			for _, image := range []string{"web", "db", "old"} {
				if !slices.Contains(c.gone, image) {
					left, files = append(left, image), append(files, image+".raw")
				}
			}
			wantFolder(t, c.line, dir, before, files...)
			if got := names(t, s.images("a")); !slices.Equal(got, filesOf(left...)) {
				t.Errorf("listed: %q", got)
			}
			for _, file := range filesOf(c.gone...) {
				if _, err := os.Stat(s.images("a", file)); !os.IsNotExist(err) {
					t.Errorf("%s: %v", file, err)
				}
			}
			if n := strings.Count(run(t, "ls", s.path(".chromogenic", "jobs")), "Z-"); n != len(c.gone) {
				t.Errorf("%d jobs for %d removals", n, len(c.gone))
			}
		})
	}
}

// TestRmWhileRead: what somebody reads stays for him, and goes when he is done.
func TestRmWhileRead(t *testing.T) {
	t.Parallel()
	s := rmMount(t, []string{"web"}, "--allow-delete")
	want := digest(t, s.images("a", "web.qcow2"))
	fifo := filepath.Join(t.TempDir(), "go on")
	run(t, "mkfifo", fifo)
	reader := command("sh", "-ec", `exec 3<"$1"; head -c 1000 <&3; read go < "$2"; cat <&3`, "sh", s.images("a", "web.qcow2"), fifo)
	var out bytes.Buffer
	reader.Stdout = &out
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	gate, err := os.OpenFile(fifo, os.O_WRONLY, 0) // waits for the reader
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"rm", s.images("a", "web.raw")}, {"rm", "-rf", s.images("a")}, {"mv", s.images("a", "web.ova"), t.TempDir()}, {"rm", s.images("a", "web.json")}} {
		if r := try(t, args[0], args[1:]...); r.code != 1 || !strings.Contains(r.out, "Device or resource busy") {
			t.Errorf("%q: status %d\n%s", args, r.code, r.out)
		}
	}
	if _, err := gate.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	gate.Close()
	if err := reader.Wait(); err != nil {
		t.Error(err)
	}
	got := filepath.Join(t.TempDir(), "read")
	writeFile(t, got, out.Bytes())
	if digest(t, got) != want {
		t.Error("the reader has read something else")
	}
	run(t, "rm", s.images("a", "web.raw"))
	if left := names(t, s.sites[0].images); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestRmRsync makes a directory of a mount like another one: what that has is not
// touched, in whatever format it has it, and what it has not goes, without an error.
func TestRmRsync(t *testing.T) {
	t.Parallel()
	need(t, "rsync")
	for _, when := range []string{"--delete-before", "--delete-during", "--delete-delay", "--delete-after"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			s := rmMount(t, []string{"web", "db", "old"}, "--allow-delete")
			to := s.sites[0].images
			plain, other := t.TempDir(), s.sites[1].images
			for _, dir := range []string{plain, other} {
				run(t, "cp", "-p", filepath.Join(to, "web.raw"), filepath.Join(to, "db.raw"), dir)
			}
			writeFile(t, s.images("a", "web.json"), []byte(`{"firmware": "uefi"}`))
			before := folder(t, to)
			if r := try(t, "rsync", "-a", when, plain+"/", s.images("a")+"/"); r.code != 0 {
				t.Errorf("status %d\n%s", r.code, r.out)
			}
			wantFolder(t, "from a folder that knows one name of each", to, before, "web.raw", "web.json", "db.raw")

			// From a mount, where each has all its names.
			run(t, "rm", filepath.Join(other, "db.raw"))
			s.refresh(t)
			if r := try(t, "rsync", "-a", when, s.images("b")+"/", s.images("a")+"/"); r.code != 0 {
				t.Errorf("status %d\n%s", r.code, r.out)
			}
			before["web.json"] = folder(t, to)["web.json"] // it was copied
			wantFolder(t, "from a mount", to, before, "web.raw", "web.json")
			if got := names(t, s.images("a")); !slices.Equal(got, filesOf("web")) {
				t.Errorf("listed: %q", got)
			}

			// A provider that is gone is no empty directory.
			away := other + "-away"
			run(t, "mv", other, away)
			if r := try(t, "rsync", "-a", when, s.images("b")+"/", s.images("a")+"/"); r.code == 0 {
				t.Errorf("from nowhere: status 0\n%s", r.out)
			}
			wantFolder(t, "from nowhere", to, before, "web.raw", "web.json")
			run(t, "mv", away, other)
		})
	}
}

// TestRmMv: mv takes an image out of a mount that allows it, whole.
func TestRmMv(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	s := rmMount(t, []string{"web", "db"}, "--allow-delete")
	out := t.TempDir()
	disk := filepath.Join(out, "disk")
	run(t, "cp", filepath.Join(s.sites[0].images, "web.raw"), disk)
	run(t, "mv", s.images("a", "web.qcow2"), out)
	run(t, "qemu-img", "compare", filepath.Join(out, "web.qcow2"), disk)
	if got := names(t, s.sites[0].images); !slices.Equal(got, []string{"db.raw"}) {
		t.Errorf("left: %q", got)
	}
	run(t, "rsync", "-a", "--remove-source-files", "--include=*.raw", "--exclude=*", s.images("a")+"/", out+"/")
	// rsync removes by name, and has taken one of them.
	if got := names(t, s.images("a")); !slices.Equal(got, filesOf("db")) {
		t.Errorf("listed: %q", got)
	}
	run(t, "mv", filepath.Join(out, "web.qcow2"), s.images("b")) // and back, elsewhere
	if got := names(t, s.sites[1].images); !slices.Equal(got, []string{"web.qcow2"}) {
		t.Errorf("b holds %q", got)
	}
}

// TestRmProtected: what its owner has protected stays, with all that belongs to it.
func TestRmProtected(t *testing.T) {
	t.Parallel()
	need(t, "chattr")
	s := rmMount(t, []string{"web", "db"}, "--allow-delete")
	dir := s.sites[0].images
	writeFile(t, s.images("a", "web.json"), []byte(`{"firmware": "uefi"}`))
	file := filepath.Join(dir, "web.raw")
	if r := try(t, "chattr", "+i", file); r.code != 0 {
		missing(t, "no file can be made immutable: %s", r.out)
	}
	t.Cleanup(func() { run(t, "chattr", "-i", file) })
	before := folder(t, dir)
	for _, args := range [][]string{{"rm", s.images("a", "web.raw")}, {"rm", s.images("a", "web.json")}, {"rm", "-rf", s.images("a")}} {
		if r := try(t, args[0], args[1:]...); r.code != 1 || !strings.Contains(r.out, "Device or resource busy") {
			t.Errorf("%q: status %d\n%s", args, r.code, r.out)
		}
	}
	wantFolder(t, "rm", dir, before, "web.raw", "web.json")
	if r := chromogenic(t, s.write(t), "rm", "--yes", "a:images/web"); r.code != 1 || !strings.Contains(r.out, "protected") {
		t.Errorf("chromogenic rm: status %d\n%s", r.code, r.out)
	}
	if reasons := s.reasons(t); !strings.Contains(reasons, "chattr -i") {
		t.Errorf("the reasons are\n%s", reasons)
	}
}

// TestRmShred: who writes over an image and then removes it has done neither, and is
// told so.
func TestRmShred(t *testing.T) {
	t.Parallel()
	for _, flags := range [][]string{nil, {"--allow-delete"}} {
		s := rmMount(t, []string{"web"}, flags...)
		before := folder(t, s.sites[0].images)
		if r := try(t, "shred", "-u", s.images("a", "web.raw")); r.code != 1 {
			t.Errorf("%q: status %d\n%s", flags, r.code, r.out)
		}
		wantFolder(t, "shred", s.sites[0].images, before, "web.raw")
	}
}

// TestRmNewcomer: a program that removes what it has listed meets an image that was
// put under the name meanwhile, and leaves it.
func TestRmNewcomer(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	s := rmMount(t, []string{"web"}, "--allow-delete")
	file := filepath.Join(s.sites[0].images, "web.raw")
	other := filepath.Join(t.TempDir(), "other")
	sparse(t, other, 4*mib)
	out := run(t, "python3", "-c", `
import os, shutil, sys, time
mnt, file, other = sys.argv[1:]
names = sorted(os.listdir(mnt), reverse=True)
os.remove(os.path.join(mnt, names[0]))
shutil.copy(other, file)
time.sleep(1.5) # a folder is looked at every second
for name in names[1:]:
    try:
        os.remove(os.path.join(mnt, name))
    except OSError as e:
        print(name, e.strerror)
`, s.images("a"), file, other)
	if n := strings.Count(out, "Device or resource busy"); n != len(formats())-1 {
		t.Errorf("the program was told\n%s", out)
	}
	if digest(t, file) != digest(t, other) {
		t.Error("the new image is another one")
	}
}

// TestRmAtOnce: of many programs that remove the same images each image goes once,
// and a copy that runs meanwhile is whole or not there.
func TestRmAtOnce(t *testing.T) {
	t.Parallel()
	var images []string
	for i := range 12 {
		images = append(images, fmt.Sprintf("image%d", i))
	}
	s := rmMount(t, images, "--allow-delete")
	want := map[string]string{}
	for _, name := range images {
		want[name] = digest(t, filepath.Join(s.sites[0].images, name+".raw"))
	}
	done := make(chan result)
	lines := []string{
		`for f in "$1"/*.raw; do cp "$f" "$2"; done`,
		`rm -f "$1"/*.raw`, `rm -f "$1"/*.qcow2`, `find "$1" -type f -delete`,
	}
	for i, line := range lines {
		if i == 1 { // when the copies have begun
			await(t, s, s.sites[1], "image0")
		}
		go func() {
			cmd := command("sh", "-c", line, "sh", s.images("a"), s.images("b"))
			out, _ := cmd.CombinedOutput()
			done <- result{cmd.ProcessState.ExitCode(), string(out)}
		}()
	}
	for range lines {
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("a program hangs")
		}
	}
	run(t, "sh", "-c", `rm -f "$1"/*.raw`, "sh", s.images("a")) // what was being copied
	if left := names(t, s.sites[0].images); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	copied := names(t, s.sites[1].images)
	if len(copied) == 0 {
		t.Error("nothing was copied")
	}
	for _, file := range copied {
		if name := strings.TrimSuffix(file, ".raw"); digest(t, filepath.Join(s.sites[1].images, file)) != want[name] {
			t.Errorf("the copy %s is not whole", file)
		}
	}
	removed := strings.Count(script(t, `cat "$1"/*/status`, s.path(".chromogenic", "jobs")), `"stage": "remove"`)
	if removed != len(images) {
		t.Errorf("%d removals of %d images", removed, len(images))
	}
	t.Logf("%d images removed, %d copied before", removed, len(copied))
}
