package e2e

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A faultStage is a mount with providers on disks that fail: a on the disk source,
// b on the disk target. Good is on a sound one.
type faultStage struct {
	*server
	conf           string // its configuration
	source, target *faulty
	a, b, good     site
	masters        map[string]string // a container of each format, by extension, all of one disk
	cases          int
}

// faultImages makes the containers: of text, which compresses, a hole, and bytes that
// do not compress. All of them are longer than the place of the faults.
func faultImages(t testing.TB) map[string]string {
	t.Helper()
	need(t, "qemu-img")
	dir := t.TempDir()
	disk := append([]byte(hex.EncodeToString(randomBytes(mib+mib/2, 211))), make([]byte, mib)...)
	all := map[string]string{"raw": filepath.Join(dir, "x.raw")}
	dense := filepath.Join(dir, "dense")
	writeFile(t, dense, append(disk, randomBytes(mib, 212)...))
	run(t, "cp", "--sparse=always", dense, all["raw"])
	for _, c := range containers() {
		if c.name == "zlib" || c.name == "stream" || c.name == "ova" {
			all[c.ext] = filepath.Join(dir, "x."+c.ext)
			c.make(t, all["raw"], all[c.ext])
		}
	}
	all["ova"] = signed(t, all["ova"])
	return all
}

// signed is an appliance with a manifest of its digests.
func signed(t testing.TB, ova string) string {
	t.Helper()
	dir := t.TempDir()
	script(t, `tar -C "$1" -xf "$2"
		cd "$1"
		sha256sum --tag *.ovf *.vmdk | sed -E 's/^SHA256 \((.*)\) = /SHA256(\1)= /' > machine.mf
		tar -cf "$1/x.ova" machine.ovf machine.mf *.vmdk`, dir, ova)
	return filepath.Join(dir, "x.ova")
}

// newFaultStage mounts it.
func newFaultStage(t testing.TB, masters map[string]string, flags ...string) *faultStage {
	t.Helper()
	s := &faultStage{source: newFaulty(t, false), target: newFaulty(t, true), masters: masters, good: newSite(t, "good")}
	on := func(name string, d *faulty) site {
		at := site{name: name, images: filepath.Join(d.dir, "images"), instances: filepath.Join(d.dir, "instances")}
		must(t, os.Mkdir(at.images, 0o755))
		must(t, os.Mkdir(at.instances, 0o755))
		// A folder that has files is known from one in which it takes the place.
		writeFile(t, filepath.Join(at.images, ".keep"), nil)
		return at
	}
	s.a, s.b = on("a", s.source), on("b", s.target)
	s.server = mount(t, config{sites: []site{s.a, s.b, s.good}, flags: flags})
	s.conf = s.server.config.write(t)
	t.Cleanup(func() { // before the mount ends, which is not to wait for them
		for _, d := range []*faulty{s.source, s.target} {
			if d.Mount != nil {
				d.Clear()
			}
		}
	})
	return s
}

// A faultCase is one fault on one route, with an image of its own.
type faultCase struct {
	*faultStage
	fault
	route  faultRoute
	disk   *faulty // that has the fault
	name   string  // of the image, and of the copy
	master string  // what the image's file is a copy of
	file   string  // the image's file
	out    string  // a folder on a sound disk, for what programs write outside
}

// newCase puts the image there, as one that was written an hour ago.
func (s *faultStage) newCase(t testing.TB, f fault, r faultRoute) *faultCase {
	t.Helper()
	s.cases++
	x := &faultCase{faultStage: s, fault: f, route: r, disk: s.source, name: fmt.Sprintf("c%d", s.cases), master: s.masters[r.ext], out: t.TempDir()}
	if r.direct && f.direct != 0 {
		x.errno = f.direct
	}
	folder := s.good.images
	if r.into {
		x.disk = s.target
	} else {
		folder = s.a.images
	}
	if r.instance {
		folder = filepath.Join(x.disk.dir, "instances")
	}
	x.file = filepath.Join(folder, x.name+"."+r.ext)
	x.put(t)
	return x
}

// put puts the image there.
func (x *faultCase) put(t testing.TB) {
	t.Helper()
	below := strings.Replace(x.file, x.disk.dir, x.disk.below, 1)
	os.Remove(below)
	run(t, "cp", "--sparse=always", x.master, below)
	old := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(below, old, old))
	x.refresh(t)
}

// view is the image in the format of the route.
func (x *faultCase) view() string {
	if x.route.instance {
		return x.path(x.site(), "instances", x.name+"."+x.route.format)
	}
	return x.images(x.site(), x.name+"."+x.route.format)
}

// site is the provider that has the image.
func (x *faultCase) site() string {
	switch {
	case !x.route.into:
		return "a"
	case x.route.instance:
		return "b"
	}
	return "good"
}

// to is the provider that gets the copy.
func (x *faultCase) to() site {
	if x.route.into {
		return x.b
	}
	return x.good
}

// folder is the one on the failing disk that the route reads from or writes to.
func (x *faultCase) folder() string {
	if x.route.instance {
		return filepath.Join(x.disk.dir, "instances")
	}
	return filepath.Join(x.disk.dir, "images")
}

// temporary is the unfinished file that is being written on the disk.
func (x *faultCase) temporary(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{"images", "instances"} {
		found, _ := filepath.Glob(filepath.Join(x.disk.dir, dir, ".chromogenic-*"))
		if len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("nothing is being written")
	return ""
}

// must fails the test for good.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
