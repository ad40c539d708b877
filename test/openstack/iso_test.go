package openstack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk/disktest"
)

// makeISO writes an ISO of one file of random bytes, that boots from a hybrid boot sector
// if hybrid is set: by its bytes it is a disk too.
func makeISO(t testing.TB, hybrid bool) string {
	t.Helper()
	dir := t.TempDir()
	sh(t, "sh", "-c", `head -c 5000001 /dev/urandom >"$1/file"`, "sh", dir)
	path := filepath.Join(dir, "made")
	sh(t, "genisoimage", "-quiet", "-J", "-R", "-V", "TEST", "-o", path, filepath.Join(dir, "file"))
	if hybrid {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		// A partition over the whole, and the mark of a boot sector.
		if _, err := f.WriteAt([]byte{0x80, 0, 1, 0, 0x17, 0, 1, 0, 0, 0, 0, 0, 0, 8, 0, 0}, 446); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0x55, 0xaa}, 510); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestISO: an ISO is one file, byte for byte, wherever it goes.
func TestISO(t *testing.T) {
	folder := t.TempDir()
	in, a, b := twoSites(t, fmt.Sprintf("  vault: {type: local, images: %s, store: qcow2}\n", folder))
	disc, hybrid := makeISO(t, false), makeISO(t, true)
	stacks(t, "a", fmt.Sprintf("image create --disk-format iso --file %s debian", disc))
	a.put(t, "plain", "raw", body(disktest.Pattern(1<<20, nil)), nil)
	dir := in.mount(t, "--allow-delete")
	images := func(site, name string) string { return filepath.Join(dir, site, "images", name) }
	list := func(site string) string { return strings.Join(strings.Fields(sh(t, "ls", images(site, ""))), " ") }

	if got := list("a"); got != "debian.iso debian.json plain.json plain.ova plain.qcow2 plain.raw plain.vmdk" {
		t.Errorf("the images are %q", got)
	}
	sameFile(t, images("a", "debian.iso"), disc)
	sameFile(t, images("a", "debian.raw"), disc)
	if out, err := tryCommand("stat", images("a", "plain.iso")); err == nil || !strings.Contains(out, "No such file") {
		t.Errorf("a disk as an ISO: %v: %s", err, out)
	}

	// In, by cp and by the command; across; to a folder that keeps disks as qcow2.
	sh(t, "cp", hybrid, images("a", "hybrid.iso"))
	sh(t, "cp", images("a", "hybrid.iso"), images("b", ""))
	sh(t, "cp", images("a", "debian.iso"), images("vault", ""))
	in.run(t, "cp", "vault:images/debian", "b:images/")
	if got := list("b"); got != "debian.iso debian.json hybrid.iso hybrid.json" {
		t.Errorf("the images are %q", got)
	}
	for _, r := range append(b.images(t), a.images(t)...) {
		want := "iso"
		if r.text("name") == "plain" {
			want = "raw"
		}
		if r.text("disk_format") != want || r.text("container_format") != "bare" || r.text("visibility") != "private" && r.text("name") == "hybrid" {
			t.Errorf("the record is %v", r)
		}
	}
	sameFile(t, images("b", "debian.iso"), disc)
	sameFile(t, images("b", "hybrid.iso"), hybrid)
	sameFile(t, filepath.Join(folder, "debian.iso"), disc)
	sh(t, "cp", disc, images("b", "debian.iso")) // the same again
	if out, err := tryCommand("cp", hybrid, images("b", "debian.iso")); err == nil || !strings.Contains(out, "File exists") {
		t.Errorf("another ISO: %v: %s", err, out)
	}

	// One that was cut off is no ISO.
	half := filepath.Join(t.TempDir(), "half.iso")
	sh(t, "sh", "-c", `head -c 3000000 "$1" >"$2"`, "sh", disc, half)
	if out, err := in.try("cp", half, "b:images/"); err == nil || !strings.Contains(out, "looks truncated") {
		t.Errorf("half an ISO: %v: %s", err, out)
	}

	// A backup and its restoration; the second of each moves nothing.
	backup := t.TempDir()
	sh(t, "rsync", "-a", images("b", "")+"/", backup)
	quiet := func(from, to string) {
		t.Helper()
		if out := sh(t, "rsync", "-ai", from, to); strings.TrimSpace(strings.ReplaceAll(out, ".d..t...... ./", "")) != "" {
			t.Errorf("the second rsync copies %s", out)
		}
	}
	quiet(images("b", "")+"/", backup)
	b.clear(t)
	in.run(t, "refresh")
	sh(t, "rsync", "-a", backup+"/", images("b", ""))
	quiet(backup+"/", images("b", ""))
	sameFile(t, images("b", "hybrid.iso"), hybrid)

	if out := in.run(t, "inspect", "b:images/debian"); !strings.Contains(out, "iso") {
		t.Errorf("inspect: %s", out)
	}
	if out := in.run(t, "ls", "-l", "b:images"); strings.Count(out, " iso ") != 2 {
		t.Errorf("ls: %s", out)
	}
	sh(t, "rm", images("b", "debian.iso"))
	if got := list("b"); got != "hybrid.iso hybrid.json" {
		t.Errorf("the images are %q", got)
	}
	for _, x := range []*api{a, b} {
		if left := x.debris(t); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}
