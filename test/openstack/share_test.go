package openstack

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk/disktest"
)

// memberIDs are those of an image, as Glance tells its owner.
func (a *api) memberIDs(t testing.TB, id string) map[string]string {
	t.Helper()
	var answer struct {
		Members []struct {
			ID     string `json:"member_id"`
			Status string
		}
	}
	a.call(t, http.MethodGet, "/images/"+id+"/members", nil, &answer)
	all := map[string]string{}
	for _, m := range answer.Members {
		all[m.ID] = m.Status
	}
	return all
}

// TestShare: an AMI is shared with another project, which accepts it, boots with it and
// copies it; and is taken back.
func TestShare(t *testing.T) {
	in, a, b := twoSites(t, "")
	web := putAMI(t, a, "web", nil)
	dir := in.mount(t)
	list := func() string { return sh(t, "ls", filepath.Join(dir, "b", "images")) }
	if out := list(); out != "" {
		t.Errorf("b sees %q", out)
	}

	out := in.run(t, "share", "a:images/web", b.project)
	if !strings.Contains(out, "the visibility of image "+web.id+" was private, and is shared now") || !strings.Contains(out, "kernel "+web.kernel) {
		t.Errorf("share says %s", out)
	}
	for _, id := range []string{web.id, web.kernel, web.ramdisk} {
		if m := a.memberIDs(t, id); len(m) != 1 || m[b.project] != "pending" || a.image(t, id).text("visibility") != "shared" {
			t.Errorf("the members of %s are %v", id, m)
		}
	}
	if out := in.run(t, "share", "a:images/web", b.project); strings.Contains(out, "note") {
		t.Errorf("the same again says %s", out)
	}
	var members []struct{ ID, Status string }
	if err := json.Unmarshal([]byte(in.run(t, "members", "--json", "a:images/web")), &members); err != nil || len(members) != 1 || members[0].ID != b.project || members[0].Status != "pending" {
		t.Errorf("the members are %v, %v", members, err)
	}

	// It is in no listing until it is accepted.
	in.run(t, "refresh")
	if out := list(); out != "" {
		t.Errorf("b sees %q", out)
	}
	if out := in.run(t, "members", "--pending", "b:images"); !strings.Contains(out, "b:images/"+web.id) || !strings.Contains(out, "pending") || strings.Contains(out, web.kernel) || !strings.Contains(out, a.project) {
		t.Errorf("what is pending is %s", out)
	}
	in.run(t, "members", "--accept", "b:images/web")
	for _, id := range []string{web.id, web.kernel, web.ramdisk} {
		if m := a.memberIDs(t, id); m[b.project] != "accepted" {
			t.Errorf("the members of %s are %v", id, m)
		}
	}
	if out := list(); strings.Join(strings.Fields(out), " ") != "web.json web.kernel web.ova web.qcow2 web.ramdisk web.raw web.vmdk" {
		t.Errorf("b sees %q", out)
	}
	sameFile(t, filepath.Join(dir, "b", "images", "web.kernel"), web.kernelFile)
	if out, err := in.try("share", "b:images/web", a.project); err == nil || !strings.Contains(out, "is of project "+a.project) {
		t.Errorf("who is not the owner shares: %v: %s", err, out)
	}
	if out := in.run(t, "members", "b:images/web"); !strings.Contains(out, "accepted") {
		t.Errorf("the members are %s", out)
	}

	// The copy of what is shared is private, with its kernel.
	in.run(t, "cp", "b:images/web", "b:images/own")
	own := b.named(t)["own"]
	for _, id := range []string{own.text("id"), own.text("kernel_id"), own.text("ramdisk_id")} {
		if r := b.image(t, id); r.text("visibility") != "private" || r.text("owner") != b.project {
			t.Errorf("the copy is %v", r)
		}
	}

	in.run(t, "members", "--reject", "b:images/"+web.id)
	if out := list(); strings.Contains(out, "web.raw") {
		t.Errorf("b sees %q", out)
	}
	if out := in.run(t, "members", "--pending", "b:images", "--json"); !strings.Contains(out, `"rejected"`) {
		t.Errorf("what is pending is %s", out)
	}
	if out, err := in.try("members", "--accept", "b:images/nothing"); err == nil || !strings.Contains(out, "no such image") {
		t.Errorf("%v: %s", err, out)
	}

	// A kernel that another shared image needs stays shared.
	a.put(t, "second", "ami", body(disktest.Pattern(1<<20, nil)), map[string]any{"container_format": "ami", "kernel_id": web.kernel})
	in.run(t, "share", "a:images/second", b.project)
	if out := in.run(t, "unshare", "a:images/web", b.project); !strings.Contains(out, "stays shared") || !strings.Contains(out, "is private now") {
		t.Errorf("unshare says %s", out)
	}
	if m := a.memberIDs(t, web.kernel); len(m) != 1 {
		t.Errorf("the members of the kernel are %v", m)
	}
	in.run(t, "unshare", "a:images/second", b.project)
	for _, id := range []string{web.id, web.kernel, web.ramdisk} {
		if r := a.image(t, id); r.text("visibility") != "private" {
			t.Errorf("what nobody shares any longer is %v", r)
		}
	}
	if out, err := in.try("members", "--accept", "b:images/"+web.id); err == nil {
		t.Errorf("accepted what is not shared: %s", out)
	}
	if out, err := in.try("share", "a:images/web", "no such project"); err == nil || !strings.Contains(out, "find project") {
		t.Errorf("%v: %s", err, out)
	}
	// By name, where the user may see it: its own.
	if out, err := in.try("share", "a:images/web", "a"); err != nil && !strings.Contains(out, "409") && !strings.Contains(out, "403") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := in.try("share", "a:images/web"); err == nil {
		t.Errorf("no project: %s", out)
	}
}

// TestPrivate: no copy is visible to others, whatever its source is, by whatever way, and
// with whatever metadata.
func TestPrivate(t *testing.T) {
	in, a, b := twoSites(t, "")
	admin := login(t, "admin")
	img := disktest.Pattern(1<<20, nil)
	public := admin.put(t, "public", "raw", body(img), map[string]any{"visibility": "public"})
	defer admin.remove(t, public)
	a.put(t, "community", "raw", body(disktest.Pattern(1<<20+512, nil)), map[string]any{"visibility": "community"})
	shared := a.put(t, "shared", "raw", body(disktest.Pattern(1<<20+1024, nil)), map[string]any{"visibility": "shared"})
	a.call(t, http.MethodPost, "/images/"+shared+"/members", map[string]string{"member": b.project}, nil)
	backup := t.TempDir()
	dir := in.mount(t)
	images := func(site string) string { return filepath.Join(dir, site, "images") + "/" }
	want := func(how string, names ...string) {
		t.Helper()
		all := b.named(t)
		for _, name := range names {
			if r := all[name]; r.text("visibility") != "private" || r.text("status") != "active" {
				t.Errorf("by %s the copy %s is %v", how, name, r)
			}
		}
		if len(all) != len(names) {
			t.Errorf("by %s there are %v", how, all)
		}
		b.clear(t)
		in.run(t, "refresh")
	}
	for _, name := range []string{"public", "community", "shared"} {
		in.run(t, "cp", "a:images/"+name, "b:images/own-"+name)
	}
	want("chromogenic cp", "own-public", "own-community", "own-shared")
	for _, name := range []string{"public", "community", "shared"} {
		sh(t, "cp", images("a")+name+".raw", images("b")+"own-"+name+".raw")
	}
	want("cp", "own-public", "own-community", "own-shared")

	// With the metadata that a backup keeps, before the image and after it.
	sh(t, "rsync", "-a", "--include=*.json", "--include=*.raw", "--exclude=*", images("a"), backup)
	text, err := os.ReadFile(filepath.Join(backup, "community.json"))
	if err != nil || !strings.Contains(string(text), "community") {
		t.Fatalf("the metadata is %s, %v", text, err)
	}
	for _, name := range []string{"community", "shared"} {
		for _, order := range [][]string{{"json", "raw"}, {"raw", "json"}} {
			for _, ext := range order {
				sh(t, "cp", filepath.Join(backup, name+"."+ext), images("b")+fmt.Sprintf("%s-%s.%s", order[0], name, ext))
			}
		}
	}
	want("cp of a backup", "json-community", "raw-community", "json-shared", "raw-shared")
	in.run(t, "cp", "a:images/shared", "b:images/meta")
	in.run(t, "meta", "copy", "a:images/community", "b:images/meta")
	want("meta copy", "meta")
}

// TestShareUnknown: a project that there is not is refused, as far as Keystone tells.
func TestShareUnknown(t *testing.T) {
	in, a, _ := twoSites(t, "  root: {type: openstack, cloud: admin}\n")
	admin := login(t, "admin")
	id := admin.put(t, "root", "raw", body(disktest.Pattern(1<<20, nil)), nil)
	defer admin.remove(t, id)
	const nobody = "0123456789abcdef0123456789abcdef"
	for _, project := range []string{nobody, "nobody"} {
		if out, err := in.try("share", "root:images/root", project); err == nil || !strings.Contains(out, "find project") {
			t.Errorf("share with %s: %v: %s", project, err, out)
		}
	}
	if r := admin.image(t, id); r.text("visibility") != "private" {
		t.Errorf("what was not shared is %v", r)
	}
	in.run(t, "share", "root:images/root", "a") // by its name, which the administrator may see
	if m := admin.memberIDs(t, id); m[a.project] != "pending" {
		t.Errorf("the members are %v", m)
	}
	if out := in.run(t, "members", "--pending", "a:images"); !strings.Contains(out, id) {
		t.Errorf("what is pending is %s", out)
	}
}
