package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// activities are what goes on.
func (k *soak) activities() []activity {
	all := []activity{
		{"nightly rsync", 20 * time.Second, k.backup},
		{"ls -l", 3 * time.Second, k.list},
		{"copy in", 2 * time.Second, k.copyIn},
		{"copy within", 4 * time.Second, k.copyWithin},
		{"capture", 15 * time.Second, k.capture},
		{"metadata set", 5 * time.Second, k.setMeta},
		{"image changed", 2 * time.Second, k.change},
		{"changing image read", 300 * time.Millisecond, k.readChanging},
		{"refresh", 7 * time.Second, func(int) { k.s.refresh(k.t) }},
		{"hangup", 30 * time.Second, func(int) { syscall.Kill(k.s.pid, syscall.SIGHUP) }},
		{"other mount", 30 * time.Second, k.remount},
	}
	r := newReaders(k.views, k.end)
	for i := range 4 {
		chance := rand.New(rand.NewPCG(uint64(i), 9))
		got, want := make([]byte, mib), make([]byte, mib)
		all = append(all, activity{"view read", 50 * time.Millisecond, func(int) {
			v := r.views[chance.IntN(len(r.views))]
			if err := r.read(v, chance, got, want); err != nil {
				k.t.Errorf("read %s: %v", v.path, err)
			}
		}})
	}
	return all
}

// changing begins the names of images that change and vanish in their folder.
const changing = "changing-"

// backup backs the mount up, but for what changes: after the first time there is
// nothing to do.
func (k *soak) backup(round int) {
	to := filepath.Join(k.dir, "backup")
	n := rsyncCount(k.t, "-a", "-S", "--delete", "--exclude="+changing+"*", k.s.images("a")+"/", to+"/")
	if (n == 0) != (round > 0) {
		k.t.Errorf("rsync number %d transferred %d files", round+1, n)
	}
	if round%10 == 9 {
		if n := rsyncCount(k.t, "-a", "-c", "--exclude="+changing+"*", k.s.images("a")+"/", to+"/"); n != 0 {
			k.t.Errorf("rsync by checksum transferred %d files", n)
		}
	}
}

// fleeting begins the names of what may be gone by the time it is looked at.
var fleeting = regexp.MustCompile(`/images/(` + changing + `|in-|within-)|/instances/vm@`)

// list looks at everything.
func (k *soak) list(int) {
	r := try(k.t, "ls", "-lR", k.s.dir)
	for line := range strings.Lines(r.out) {
		if strings.HasPrefix(line, "ls: ") && !fleeting.MatchString(line) {
			k.t.Errorf("ls -lR: %s", line)
		}
	}
	for _, v := range k.views {
		if !strings.Contains(r.out, v.name+"."+v.format+"\n") {
			k.t.Errorf("ls -lR does not show %s.%s", v.name, v.format)
		}
	}
}

// published compares a new image of b with what it should be, and removes it.
func (k *soak) published(name, format, want string) {
	k.grow(2)
	path := k.s.images("b", name+"."+format)
	if sum, _, err := readThrough(k.s.images("b", name+".raw")); sum != want {
		k.t.Errorf("%s is not what was copied: %v", name, err)
	}
	if err := remove(path); err != nil {
		k.t.Error(err)
	}
}

// copyIn copies an image from outside, by cp or rsync.
func (k *soak) copyIn(round int) {
	name := fmt.Sprintf("in-%06d", round)
	from := random(k.t, filepath.Join(k.dir, name+".raw"), mib+round%mib, uint64(round%1000))
	defer os.Remove(from)
	to := k.s.images("b", name+".raw")
	run(k.t, []string{"cp", "rsync"}[round%2], from, to)
	k.published(name, "raw", digest(k.t, from))
}

// copyWithin copies an image from the one provider to the other, in each format by
// turns.
func (k *soak) copyWithin(round int) {
	v := k.views[round%len(k.views)]
	name := fmt.Sprintf("within-%06d", round)
	to := k.s.images("b", name+"."+v.format)
	run(k.t, "cp", v.path, to)
	k.published(name, v.format, digest(k.t, v.disk))
}

// capture captures the machine and keeps three.
func (k *soak) capture(int) {
	k.grow(3)
	ok(k.t, k.s.file, "capture", "--state-dir", k.s.state, "--keep", "3", "a:instances/vm")
	if n := len(captures(k.t, k.a)); n < 1 || n > 3 {
		k.t.Errorf("there are %d captures, to be kept are 3", n)
	}
}

// setMeta sets metadata as a file, and a property.
func (k *soak) setMeta(round int) {
	k.grow(2)
	path := k.s.images("b", "meta.json")
	text := fmt.Sprintf(`{"min_disk": %d, "properties": {"round": "%d"}}`, round%100+1, round)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		k.t.Error(err)
		return
	}
	if m := meta(k.t, path); m["min_disk"] != float64(round%100+1) {
		k.t.Errorf("metadata is %v after %s was written", m, text)
	}
	run(k.t, "setfattr", "-n", "user.chromogenic.prop.other", "-v", fmt.Sprint(round), k.s.images("b", "meta.raw"))
}

// change makes an image anew in its folder, or removes it. All its bytes are one
// version's.
func (k *soak) change(round int) {
	k.grow(2)
	name := fmt.Sprintf("%s%d.raw", changing, round%5)
	path := filepath.Join(k.a.images, name)
	if round%7 == 6 {
		if err := remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.t.Error(err)
		}
		return
	}
	temp := filepath.Join(k.dir, name)
	writeFile(k.t, temp, bytes.Repeat([]byte{byte(round), byte(round >> 8), 0xA5, 0x5A}, mib/2))
	if err := os.Rename(temp, path); err != nil {
		k.t.Error(err)
	}
}

// readChanging reads an image that may change: it is all of one version, or the read
// fails as it should.
func (k *soak) readChanging(round int) {
	path := k.s.images("a", fmt.Sprintf("%s%d.raw", changing, round%5))
	p, err := os.ReadFile(path)
	switch {
	case err == nil && len(p) > 0 && !bytes.Equal(p, bytes.Repeat(p[:4], len(p)/4)):
		k.t.Errorf("%s has bytes of two versions", path)
	case err != nil && !slices.Contains([]syscall.Errno{syscall.ENOENT, syscall.ESTALE}, errno(err)):
		k.t.Errorf("read %s: %v", path, err)
	}
}

// remount has another server mount the same folders elsewhere, read them and end.
func (k *soak) remount(round int) {
	c := config{sites: k.s.sites, flags: []string{"--read-only"}, state: filepath.Join(k.dir, "state"), dir: filepath.Join(k.dir, "mnt")}
	other := mount(k.t, c)
	v := k.views[round%len(k.views)]
	if digest(k.t, other.images("a", v.name+"."+v.format)) != digest(k.t, v.want.Name()) {
		k.t.Errorf("another mount shows other bytes of %s.%s", v.name, v.format)
	}
	other.live = false
	if err := other.unmount(); err != nil {
		k.t.Errorf("unmount: %v", err)
	}
	select {
	case err := <-other.exit:
		if err != nil {
			k.t.Errorf("the other server ended with %v\n%s", err, other.logged())
		}
	case <-time.After(30 * time.Second):
		k.t.Error("the other server does not end")
	}
}
