package openstack

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chromogenic/disk/disktest"
)

// TestMount: the programs that people use, on a mount of two projects.
func TestMount(t *testing.T) {
	in, a, b := twoSites(t, "")
	disk := testDisk(t)
	dir := in.mount(t, "--allow-delete")
	images := func(site, name string) string { return filepath.Join(dir, site, "images", name) }

	sh(t, "cp", disk, images("a", "web.raw")) // kept as qcow2
	if list := strings.Fields(sh(t, "ls", filepath.Join(dir, "a", "images"))); strings.Join(list, " ") != "web.json web.ova web.qcow2 web.raw web.vmdk" {
		t.Errorf("the images are %q", list)
	}
	back := filepath.Join(t.TempDir(), "back.raw")
	sh(t, "cp", images("a", "web.raw"), back)
	sameFile(t, back, disk)
	record := a.images(t)[0]
	if record.text("visibility") != "private" || record.text("disk_format") != "qcow2" || record.text("status") != "active" {
		t.Errorf("the record is %v", record)
	}

	// Metadata travels, to another project and through a folder, and private stays so.
	a.call(t, http.MethodPatch, "/images/"+record.text("id"), []map[string]any{
		{"op": "add", "path": "/hw_firmware_type", "value": "uefi"},
		{"op": "add", "path": "/hw_disk_bus", "value": "scsi"},
		{"op": "add", "path": "/os_distro", "value": "debian"},
		{"op": "add", "path": "/team", "value": "blue"},
		{"op": "replace", "path": "/min_disk", "value": 3},
		{"op": "replace", "path": "/tags", "value": []string{"golden"}},
	}, nil)
	in.run(t, "refresh")
	time.Sleep(6 * time.Second) // views of the version before stay open for 5 s, and a copy may be taken for one of them
	sh(t, "cp", images("a", "web.raw"), filepath.Join(dir, "b", "images.verbatim"))
	backup := t.TempDir()
	sh(t, "rsync", "-a", filepath.Join(dir, "b", "images")+"/", backup)
	for range 2 {
		if out := sh(t, "rsync", "-ai", filepath.Join(dir, "b", "images")+"/", backup); strings.TrimSpace(strings.ReplaceAll(out, ".d..t...... ./", "")) != "" {
			t.Errorf("the second rsync copies %s", out)
		}
	}
	sh(t, "cp", filepath.Join(backup, "web.qcow2"), images("b", "restored.qcow2"))
	sh(t, "cp", filepath.Join(backup, "web.json"), images("b", "restored.json"))
	copies := b.images(t)
	if len(copies) != 2 {
		t.Fatalf("project b has %v", copies)
	}
	for _, r := range copies {
		if r.text("visibility") != "private" || r.text("hw_firmware_type") != "uefi" || r.text("hw_disk_bus") != "scsi" || r.text("os_distro") != "debian" ||
			r.text("team") != "blue" || fmt.Sprint(r["min_disk"]) != "3" || fmt.Sprint(r["tags"]) != "[golden]" {
			t.Errorf("%s: the metadata is %v", r.text("name"), r)
		}
	}

	// The same again is a success without work; another disk is refused.
	sh(t, "cp", disk, images("a", "web.raw"))
	if out, err := tryCommand("cp", back+"x", images("a", "web.raw")); err == nil {
		t.Error(out)
	}
	other := filepath.Join(t.TempDir(), "other.raw")
	sh(t, "sh", "-c", `cp "$1" "$2" && printf x | dd of="$2" bs=1 seek=1000 conv=notrunc status=none`, "sh", disk, other)
	if out, err := tryCommand("cp", other, images("a", "web.raw")); err == nil || !strings.Contains(out, "File exists") {
		t.Errorf("another disk: %v: %s", err, out)
	}
	sh(t, "rm", images("a", "web.raw"))
	for _, x := range []*api{a, b} {
		if left := x.debris(t); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	if n := len(a.images(t)); n != 0 {
		t.Errorf("%d images are left of none", n)
	}
}

// TestMountAway: of a cloud that goes away the last listing is served, and rsync deletes
// nothing; of one that was never there, none.
func TestMountAway(t *testing.T) {
	t.Parallel()
	a := ownProject(t, "away")
	a.put(t, "one", "raw", body(disktest.Pattern(1<<20, nil)), nil)
	proxy, err := NewProxy(cloud.glance)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	in := install(t, cloudsFile(t, "away", proxy.URL, ""), "  a: {type: openstack, cloud: away}\n")
	dir := in.mount(t)
	images := filepath.Join(dir, "a", "images")
	settle(t, proxy) // a mount looks for what a crash has left when it starts
	want := sh(t, "ls", images)
	requests := proxy.Requests.Load()
	began := time.Now()
	sh(t, "ls", images)
	if took := time.Since(began); proxy.Requests.Load() != requests {
		t.Errorf("a second ls makes %d requests in %v", proxy.Requests.Load()-requests, took)
	}
	backup := t.TempDir()
	sh(t, "rsync", "-a", images+"/", backup)
	proxy.Close()
	if out, err := in.try("refresh"); err == nil {
		t.Errorf("a refresh of a cloud that is away: %s", out)
	}
	if got := sh(t, "ls", images); got != want {
		t.Errorf("the listing of a cloud that is away is %q, was %q", got, want)
	}
	if out, err := tryCommand("rsync", "-a", "--delete", images+"/", backup); err == nil {
		t.Logf("rsync: %s", out) // its sizes and times are known, so nothing is read
	}
	for name := range strings.Lines(want) {
		if _, err := os.Stat(filepath.Join(backup, strings.TrimSpace(name))); err != nil {
			t.Errorf("the backup has lost %v", err)
		}
	}
	sh(t, "umount", dir)
	again := in.mount(t)
	if got := sh(t, "ls", filepath.Join(again, "a", "images")); got != want {
		t.Errorf("after a remount the listing of a cloud that is away is %q, was %q", got, want)
	}
	if state := sh(t, "cat", filepath.Join(again, ".chromogenic", "status")); !strings.Contains(state, `"stale": true`) {
		t.Errorf("it is not marked as old: %s", state)
	}
	never := install(t, cloudsFile(t, "away", proxy.URL, ""), "  a: {type: openstack, cloud: away}\n").mount(t)
	if out, err := tryCommand("ls", filepath.Join(never, "a", "images")); err == nil || !strings.Contains(out, "No route to host") {
		t.Errorf("of a cloud that was never there: %v: %s", err, out)
	}
}

// TestReadCost: the first MiB of the raw view of a large qcow2 costs its tables alone.
func TestReadCost(t *testing.T) {
	t.Parallel()
	a := ownProject(t, "cost")
	each := 16 // MiB
	if full() {
		each = 128 // 2 GiB in all, as TestBenchFirst has it too
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "big.qcow2")
	sh(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "8G")
	for i := range 16 { // in each of the areas that a table maps
		sh(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -q -P %d %dM %dM", i+1, i*512, each), path)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a.put(t, "big", "qcow2", f, nil)
	proxy, err := NewProxy(cloud.glance)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	in := install(t, cloudsFile(t, "cost", proxy.URL, ""), "  a: {type: openstack, cloud: cost}\n")
	mounted := in.mount(t)
	proxy.Clear()
	began := time.Now()
	sh(t, "sh", "-c", `head -c 1048576 "$1" | cmp -n 1048576 - "$2"`, "sh", filepath.Join(mounted, "a", "images", "big.raw"), pattern(t, 1))
	took := time.Since(began)
	t.Logf("%d bytes in %d requests and %v: %q", proxy.Sent.Load(), proxy.Requests.Load(), took, proxy.Log())
	if n := proxy.Sent.Load(); n > 8<<20 {
		t.Errorf("%d bytes were transferred", n)
	}
}

// pattern is a file of 1 MiB of one byte.
func pattern(t testing.TB, b byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pattern")
	if err := os.WriteFile(path, []byte(strings.Repeat(string([]byte{b}), 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMountAll: every cloud of clouds.yaml is a provider without a configuration.
func TestMountAll(t *testing.T) {
	need(t)
	login(t, "b").clear(t)
	in := install(t, cloud.clouds, "")
	in.env = append(in.env, "CHROMOGENIC_CONFIG=", "HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir(), "CHROMOGENIC_STATE_DIR="+in.state)
	dir := in.mount(t, "--all")
	if list := strings.Fields(sh(t, "ls", dir)); strings.Join(list, " ") != "a admin b" {
		t.Errorf("the providers are %q", list)
	}
	sh(t, "cp", testDisk(t), filepath.Join(dir, "b", "images", "x.raw"))
	var findings []struct{ Check, Grade, Text string }
	out := in.run(t, "doctor", "--all", "--json", dir)
	if err := json.Unmarshal([]byte(out), &findings); err != nil || !strings.Contains(out, "cloud b of "+cloud.clouds) || !strings.Contains(out, "user b, project b") || strings.Contains(out, "secret") {
		t.Errorf("doctor: %v: %s", err, out)
	}
}
