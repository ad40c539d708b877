package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A served is an image in a mounted folder, and the disk it holds.
type served struct {
	name      string // as the mount shows it
	disk      plainDisk
	container container
	file      string // in the folder
}

// serve keeps every disk in every container in a folder.
func serve(t testing.TB, s site, disks []plainDisk, kinds []container) []served {
	t.Helper()
	var all []served
	for _, d := range disks {
		for _, c := range kinds {
			name := d.name + "-" + c.name
			file := filepath.Join(s.images, name+"."+c.ext)
			c.make(t, d.path, file)
			all = append(all, served{name, d, c, file})
		}
	}
	return all
}

// A print is what must never change of a view.
type print struct {
	sum   string
	size  int64
	ino   uint64
	mtime int64
	ctime int64
}

// printOf reads a view to its end, and checks that stat told its size before.
func printOf(t testing.TB, path string) print {
	t.Helper()
	st := stat(t, path)
	sum, n, err := readThrough(path)
	if err != nil {
		t.Errorf("read %s: %v", path, err)
	}
	if n != st.Size {
		t.Errorf("%s: stat says %d bytes, read gives %d", path, st.Size, n)
	}
	return print{sum, st.Size, st.Ino, st.Mtim.Nano(), st.Ctim.Nano()}
}

// TestViews holds every view of every container against the disk it was made
// of, and against itself: at each read, after a remount elsewhere, and, where
// the container itself says which of its clusters are there, with no state.
func TestViews(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	a := newSite(t, "a")
	all := serve(t, a, smallDisks(t), containers())
	s := mount(t, config{sites: []site{a}})

	first := map[string]print{}
	for _, v := range all {
		for _, format := range formats() {
			name := v.name + "." + format
			path := s.images("a", name)
			first[name] = printOf(t, path)
			if again := printOf(t, path); again != first[name] {
				t.Errorf("%s changed from %+v to %+v", name, first[name], again)
			}
			same(t, v.disk.path, path, format)
		}
		// The container as it is, byte for byte, in its own format.
		if own := first[v.name+"."+v.container.ext]; v.container.ext != "raw" && own.sum != digest(t, v.file) {
			t.Errorf("%s is not the file itself", v.name+"."+v.container.ext)
		}
	}

	s = s.again(t, filepath.Join(t.TempDir(), "elsewhere"), s.state)
	for name, want := range first {
		if got := printOf(t, s.images("a", name)); got != want {
			t.Errorf("after a remount %s changed from %+v to %+v", name, want, got)
		}
	}

	s = s.again(t, filepath.Join(t.TempDir(), "third"), filepath.Join(t.TempDir(), "fresh"))
	for _, v := range all {
		if v.container.name == "raw" {
			continue // its holes are the file system's to tell, and frozen in the state
		}
		for _, format := range formats() {
			name := v.name + "." + format
			if got := printOf(t, s.images("a", name)); got != first[name] {
				t.Errorf("with a fresh state %s changed from %+v to %+v", name, first[name], got)
			}
		}
	}
}

// TestHugeSparse serves a disk of 3 GiB and a sector: beyond 31 bits, and one
// sector over everything. Copies out of the mount stay as small as it is.
func TestHugeSparse(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	a := newSite(t, "a")
	disk := plainDisk{"huge", islands(t, filepath.Join(t.TempDir(), "huge"), 3*gib+512)}
	kinds := containers()
	if testing.Short() {
		kinds = kinds[:2]
	}
	all := serve(t, a, []plainDisk{disk}, kinds)
	s := mount(t, config{sites: []site{a}})
	for _, v := range all {
		for _, format := range formats() {
			path := s.images("a", v.name+"."+format)
			if size := stat(t, path).Size; format == "raw" && size != 3*gib+512 {
				t.Errorf("%s: size %d", path, size)
			}
			same(t, disk.path, path, format)
			out := copyOut(t, path, disk.path)
			if format != "raw" {
				if digest(t, out) != digest(t, path) {
					t.Errorf("%s: the copy differs", path)
				}
			}
			os.Remove(out)
		}
	}
}

// copyOut copies a view out of the mount and checks that the copy takes no
// more space than the disk has data, with 64 KiB for each run of it, and the
// container's own tables.
func copyOut(t testing.TB, view, disk string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	run(t, "cp", view, out)
	runs := int64(len(dataRuns(t, disk)))
	limit := allocated(t, disk) + runs*64*kib
	if filepath.Ext(view) != ".raw" {
		// qcow2 has a dozen clusters of tables and 8 bytes for each of the data;
		// a VMDK 2 KiB for each 32 MiB that has data, and 512 for each grain.
		limit += limit/64 + mib + 4*kib*(stat(t, disk).Size/(32*mib))
	}
	if got := allocated(t, out); got > limit {
		t.Errorf("cp of %s allocates %d bytes, want at most %d", view, got, limit)
	}
	return out
}

// TestHoles checks that the raw view tells its holes truly: in st_blocks, in
// SEEK_HOLE, and by what a copy takes.
func TestHoles(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	a := newSite(t, "a")
	disks := []plainDisk{{"gpt-ext4", gptExt4(t, 11)}, {"mbr-xfs", mbrXFS(t, 12)}}
	all := serve(t, a, disks, containers())
	s := mount(t, config{sites: []site{a}})
	for _, v := range all {
		path := s.images("a", v.name+".raw")
		runs := dataRuns(t, path)
		checkHoles(t, path, runs)
		data := dataLen(runs)
		if blocks := allocated(t, path); blocks < data-64*kib || blocks > data+64*kib*int64(len(runs)+1) {
			t.Errorf("%s: st_blocks tells %d bytes, SEEK_DATA %d", path, blocks, data)
		}
		for _, format := range formats() {
			copyOut(t, s.images("a", v.name+"."+format), v.disk.path)
		}
	}
}

// checkHoles reads what lies between the runs of data: nothing but zeros.
func checkHoles(t testing.TB, path string, runs []extent) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	off := int64(0)
	for _, r := range append(runs, extent{int64(len(b)), int64(len(b))}) {
		for i, x := range b[off:r.off] {
			if x != 0 {
				t.Errorf("%s: hole at %d holds %#x", path, off+int64(i), x)
				return
			}
		}
		off = r.end
	}
	if holes := int64(len(b)) - dataLen(runs); holes < int64(len(b))/4 {
		t.Errorf("%s: only %d of %d bytes are holes", path, holes, len(b))
	}
}

func dataLen(runs []extent) (n int64) {
	for _, r := range runs {
		n += r.end - r.off
	}
	return n
}

// TestVirtV2V has virt-v2v read our appliances.
func TestVirtV2V(t *testing.T) {
	t.Parallel()
	need(t, "virt-v2v", "qemu-img")
	a := newSite(t, "a")
	disk := plainDisk{"gpt-ext4", gptExt4(t, 21)}
	all := serve(t, a, []plainDisk{disk}, containers()[:1])
	two := filepath.Join(a.images, "two.ova")
	makeOVA(t, two, disk.path, random(t, filepath.Join(t.TempDir(), "second"), mib, 22))
	s := mount(t, config{sites: []site{a}})
	for _, name := range []string{all[0].name, "two"} {
		out := run(t, "virt-v2v", "--print-source", "-i", "ova", s.images("a", name+".ova"))
		for _, want := range []string{"source name:", "[scsi]", "NICs:"} {
			if !strings.Contains(out, want) {
				t.Errorf("virt-v2v says nothing of %q:\n%s", want, out)
			}
		}
	}
	if got := len(tarMembers(t, s.images("a", "two.ova"))); got < 3 {
		t.Errorf("the appliance of two disks has %d members", got)
	}
	same(t, disk.path, s.images("a", "two.qcow2"), "qcow2")
}
