package openstack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chromogenic/disk/disktest"
	"chromogenic/pipeline/jobs"
)

// An ami is an image with its kernel and its ramdisk, as another client has made them.
type ami struct {
	id, kernel, ramdisk           string
	disk, kernelFile, ramdiskFile string // of the bytes
}

// putAMI makes one. The kernel has an odd size, and begins as a disk with a boot sector
// does, as real ones do.
func putAMI(t testing.TB, a *api, name string, more map[string]any) ami {
	t.Helper()
	dir := t.TempDir()
	file := func(what string, size int) string {
		path := filepath.Join(dir, what)
		sh(t, "sh", "-c", fmt.Sprintf(`head -c %d /dev/urandom >"$1" && printf 'MZ' | dd of="$1" conv=notrunc status=none && printf '\125\252' | dd of="$1" bs=1 seek=510 conv=notrunc status=none`, size), "sh", path)
		return path
	}
	m := ami{kernelFile: file("kernel", 5_000_001), ramdiskFile: file("ramdisk", 7_000_003), disk: testDisk(t)}
	put := func(name, format, path string, more map[string]any) string {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		all := map[string]any{"container_format": format}
		for key, value := range more {
			all[key] = value
		}
		return a.put(t, name, format, f, all)
	}
	m.kernel = put(name+"-vmlinuz", "aki", m.kernelFile, nil)
	m.ramdisk = put(name+"-initrd", "ari", m.ramdiskFile, nil)
	all := map[string]any{"kernel_id": m.kernel, "ramdisk_id": m.ramdisk, "os_distro": "debian"}
	for key, value := range more {
		all[key] = value
	}
	m.id = put(name, "ami", m.disk, all)
	return m
}

// named are the records of a project by their names.
func (a *api) named(t testing.TB) map[string]imageRecord {
	t.Helper()
	all := map[string]imageRecord{}
	for _, r := range a.images(t) {
		if all[r.text("name")] != nil {
			t.Errorf("two images have the name %s", r.text("name"))
		}
		all[r.text("name")] = r
	}
	return all
}

// wantAMI fails unless a project has the set of a name, private and whole.
func wantAMI(t testing.TB, a *api, name string, want ami) {
	t.Helper()
	all := a.named(t)
	image, kernel, ramdisk := all[name], all["web-vmlinuz"], all["web-initrd"]
	if image == nil || kernel == nil || ramdisk == nil {
		t.Fatalf("the images are %v", all)
	}
	if image.text("kernel_id") != kernel.text("id") || image.text("ramdisk_id") != ramdisk.text("id") || image.text("os_distro") != "debian" || image.text("disk_format") != "ami" || image.text("container_format") != "ami" {
		t.Errorf("the image is %v", image)
	}
	for _, r := range []imageRecord{image, kernel, ramdisk} {
		if r.text("visibility") != "private" || r.text("status") != "active" || r.text("chromogenic_state") != "" || r.text("chromogenic_job") != "" {
			t.Errorf("the record is %v", r)
		}
	}
	if kernel.text("disk_format") != "aki" || kernel.text("container_format") != "aki" || ramdisk.text("disk_format") != "ari" || ramdisk.text("container_format") != "ari" {
		t.Errorf("kernel %v, ramdisk %v", kernel, ramdisk)
	}
	for r, file := range map[string]string{image.text("id"): want.disk, kernel.text("id"): want.kernelFile, ramdisk.text("id"): want.ramdiskFile} {
		if out := sh(t, "sha512sum", file); !strings.HasPrefix(out, a.image(t, r).text("os_hash_value")) {
			t.Errorf("%s holds other bytes than %s", r, file)
		}
	}
}

// TestAMI: an AMI is read with its AKI and ARI beside it, is copied as a set, and goes as
// a set.
func TestAMI(t *testing.T) {
	in, a, b := twoSites(t, "")
	web := putAMI(t, a, "web", map[string]any{"visibility": "shared"})
	dir := in.mount(t, "--allow-delete")
	images := func(site, name string) string { return filepath.Join(dir, site, "images", name) }
	list := func(site string) string { return strings.Join(strings.Fields(sh(t, "ls", images(site, ""))), " ") }
	const all = "web.json web.kernel web.ova web.qcow2 web.ramdisk web.raw web.vmdk"

	if got := list("a"); !strings.HasPrefix(got, all) {
		t.Errorf("the images are %q", got)
	}
	sameFile(t, images("a", "web.kernel"), web.kernelFile)
	sameFile(t, images("a", "web.ramdisk"), web.ramdiskFile)
	sameFile(t, images("a", "web.raw"), web.disk)
	if out, err := tryCommand("cat", images("a", "web-vmlinuz.raw")); err == nil {
		t.Errorf("a kernel as a disk: %s", out)
	}

	// By cp within the mount, and by the command.
	sh(t, "cp", images("a", "web.raw"), images("b", ""))
	wantAMI(t, b, "web", web)
	if got := list("b"); got != all {
		t.Errorf("the images are %q", got)
	}
	sameFile(t, images("b", "web.kernel"), web.kernelFile)
	var rec jobs.Record
	for line := range strings.Lines(sh(t, "cat", images("b", "web.json"))) {
		if strings.Contains(line, web.kernel) {
			t.Errorf("the metadata names a kernel of another cloud: %s", line)
		}
	}
	out := in.run(t, "jobs", "list", "--json")
	var records []jobs.Record
	if err := json.Unmarshal([]byte(out), &records); err != nil || len(records) == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	rec = records[len(records)-1]
	if len(rec.Companions) != 2 || rec.Companions[0].Name != "web-vmlinuz" || rec.Companions[0].Bytes != 5_000_001 || rec.Companions[1].BytesDigest == "" {
		t.Errorf("the record of the job is %+v", rec)
	}
	// The same again moves nothing; another name uses the kernel again.
	sh(t, "cp", images("a", "web.raw"), images("b", ""))
	in.run(t, "cp", "a:images/web", "b:images/web2")
	two := b.named(t)
	if len(two) != 4 || two["web2"].text("kernel_id") != two["web"].text("kernel_id") || two["web2"].text("ramdisk_id") != two["web"].text("ramdisk_id") {
		t.Errorf("the images are %v", two)
	}
	// As qcow2, if that is asked for: it boots with the same.
	in.run(t, "cp", "--store", "qcow2", "a:images/web", "b:images/web3")
	if r := b.named(t)["web3"]; r.text("disk_format") != "qcow2" || r.text("kernel_id") != two["web"].text("kernel_id") {
		t.Errorf("the record is %v", r)
	}

	// What others need stays.
	if out := in.run(t, "rm", "--dry-run", "b:images/web"); !strings.Contains(out, "boots with it too") {
		t.Errorf("rm: %s", out)
	}
	sh(t, "rm", images("b", "web.raw"))
	in.run(t, "rm", "--yes", "b:images/web3")
	if left := b.named(t); len(left) != 3 || left["web2"] == nil || left["web-vmlinuz"] == nil {
		t.Errorf("left are %v", left)
	}
	if out := in.run(t, "rm", "--dry-run", "b:images/web2"); !strings.Contains(out, "kernel "+two["web"].text("kernel_id")) {
		t.Errorf("rm: %s", out)
	}
	sh(t, "rm", images("b", "web2.raw"))
	if left := b.images(t); len(left) != 0 {
		t.Errorf("left are %v", left)
	}
	if got := list("a"); !strings.HasPrefix(got, all) {
		t.Errorf("the images of a are %q", got)
	}
}

// TestAMIAborted: an image that does not come leaves neither kernel nor ramdisk; what a
// crash leaves, gc finds, and what is needed it does not.
func TestAMIAborted(t *testing.T) {
	in, a, b := twoSites(t, "")
	web := putAMI(t, a, "web", nil)
	in.run(t, "cp", "--until", "send", "a:images/web", "b:images/web")
	if left := b.debris(t); len(left) != 3 {
		t.Errorf("a copy that waits has %q", left)
	}
	list := in.run(t, "jobs", "list", "--json")
	var records []jobs.Record
	if err := json.Unmarshal([]byte(list), &records); err != nil || len(records) != 1 {
		t.Fatalf("%v: %s", err, list)
	}
	in.run(t, "jobs", "resume", records[0].ID)
	wantAMI(t, b, "web", web)
	b.clear(t)

	in.run(t, "cp", "--until", "send", "a:images/web", "b:images/web")
	list = in.run(t, "jobs", "list", "--json")
	if err := json.Unmarshal([]byte(list), &records); err != nil {
		t.Fatal(err)
	}
	in.run(t, "jobs", "cancel", records[len(records)-1].ID)
	if left := b.images(t); len(left) != 0 {
		t.Errorf("a copy that was given up leaves %v", left)
	}

	// A crash: the state is lost, and the marks say that the process is gone.
	in.run(t, "cp", "--until", "send", "a:images/web", "b:images/web")
	if err := os.RemoveAll(in.state); err != nil {
		t.Fatal(err)
	}
	out := in.run(t, "gc")
	if left := b.images(t); len(left) != 0 || strings.Count(out, "temporary") != 3 {
		t.Errorf("gc leaves %v: %s", left, out)
	}
	// A crash behind the moment in which the image appeared: its kernel stays.
	in.run(t, "cp", "a:images/web", "b:images/web")
	kernel := b.named(t)["web-vmlinuz"].text("id")
	b.call(t, http.MethodPatch, "/images/"+kernel, []map[string]any{
		{"op": "add", "path": "/chromogenic_state", "value": "commit"},
		{"op": "add", "path": "/chromogenic_job", "value": "20200101T000000Z-000000"},
		{"op": "add", "path": "/chromogenic_host", "value": ":1"},
	}, nil)
	in.run(t, "gc")
	if r := b.image(t, kernel); r.text("chromogenic_job") != "" && r.text("chromogenic_state") == "" {
		t.Errorf("the kernel is %v", r)
	}
}

// TestAMIPart: what names a kernel that is not there is read all the same, and says so.
func TestAMIPart(t *testing.T) {
	in, a, b := twoSites(t, "")
	web := putAMI(t, a, "web", nil)
	a.remove(t, web.ramdisk)
	dir := in.mount(t)
	images := func(site, name string) string { return filepath.Join(dir, site, "images", name) }
	if got := strings.Fields(sh(t, "ls", images("a", ""))); !slices.Contains(got, "web.kernel") || slices.Contains(got, "web.ramdisk") {
		t.Errorf("the images are %q", got)
	}
	sameFile(t, images("a", "web.raw"), web.disk)
	if text := sh(t, "cat", images("a", "web.json")); !strings.Contains(text, "ramdisk "+web.ramdisk+": there is no such image") {
		t.Errorf("the metadata is %s", text)
	}
	if out := in.run(t, "inspect", "a:images/web"); !strings.Contains(out, "there is no such image") || !strings.Contains(out, "web-vmlinuz") {
		t.Errorf("inspect: %s", out)
	}
	sh(t, "cp", images("a", "web.raw"), images("b", ""))
	all := b.named(t)
	if len(all) != 2 || all["web"].text("kernel_id") != all["web-vmlinuz"].text("id") || all["web"].text("ramdisk_id") != "" {
		t.Errorf("the images are %v", all)
	}
	// A kernel of the image's own name does not take the name from it.
	a.clear(t)
	kernel := a.put(t, "same", "aki", bytes.NewReader([]byte("kernel")), map[string]any{"container_format": "aki"})
	a.put(t, "same", "ami", body(disktest.Pattern(1<<20, nil)), map[string]any{"container_format": "ami", "kernel_id": kernel})
	in.run(t, "refresh")
	if text := sh(t, "cat", images("a", "same.kernel")); text != "kernel" {
		t.Errorf("the kernel is %q", text)
	}
}

// TestAMIRestored: a set is saved by rsync, also through a folder that is a provider, and
// restored file by file; a second rsync moves nothing.
func TestAMIRestored(t *testing.T) {
	folder := t.TempDir()
	in, a, b := twoSites(t, fmt.Sprintf("  vault: {type: local, images: %s}\n", folder))
	web := putAMI(t, a, "web", nil)
	dir := in.mount(t, "--allow-delete")
	images := func(site string) string { return filepath.Join(dir, site, "images") + "/" }
	backup := t.TempDir() + "/"
	quiet := func(from, to string) {
		t.Helper()
		if out := sh(t, "rsync", "-ai", "--exclude=web-*", from, to); strings.Contains(out, ">f") {
			t.Errorf("the second rsync copies %s", out)
		}
	}
	sh(t, "rsync", "-a", images("a"), backup)
	quiet(images("a"), backup)
	sameFile(t, backup+"web.ramdisk", web.ramdiskFile)
	sh(t, "rsync", "-a", backup, images("b"))
	quiet(backup, images("b"))
	restored := func() {
		t.Helper()
		all := b.named(t)
		image := all["web"]
		if len(all) != 3 || image.text("disk_format") != "ami" || image.text("kernel_id") == "" || image.text("ramdisk_id") == "" || image.text("os_distro") != "debian" {
			t.Fatalf("the images are %v", all)
		}
		// What the mount knows as a copy of a's has the name that it has there.
		kernel, ramdisk := b.image(t, image.text("kernel_id")), b.image(t, image.text("ramdisk_id"))
		for r, file := range map[string]string{image.text("id"): web.disk, kernel.text("id"): web.kernelFile, ramdisk.text("id"): web.ramdiskFile} {
			if out := sh(t, "sha512sum", file); !strings.HasPrefix(out, b.image(t, r).text("os_hash_value")) {
				t.Errorf("%s holds other bytes than %s", r, file)
			}
		}
		if left := b.debris(t); len(left) != 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	restored()
	sh(t, "rsync", "-a", "--delete", t.TempDir()+"/", images("b"))
	if left := b.images(t); len(left) != 0 {
		t.Errorf("left are %v", left)
	}

	// The other way around, by a folder that is a provider, one file at a time.
	sh(t, "cp", "-p", images("a")+"web.raw", images("vault"))
	sameFile(t, filepath.Join(folder, "web.kernel"), web.kernelFile)
	sh(t, "cp", "-p", filepath.Join(folder, "web.ramdisk"), images("b"))
	if out := in.run(t, "ls", "-l", "b:images"); !strings.Contains(out, "waits for the image") {
		t.Errorf("ls: %s", out)
	}
	sh(t, "cp", "-p", filepath.Join(folder, "web.raw"), images("b"))
	sh(t, "cp", "-p", filepath.Join(folder, "web.kernel"), images("b"))
	sh(t, "cp", "-p", filepath.Join(folder, "web.kernel"), images("b"))
	sh(t, "cp", "-p", filepath.Join(folder, "web.json"), images("b"))
	restored()
}
