package openstack

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// newUser makes a user with a project of the same name, and one role in it, until the
// end of the test.
func newUser(t testing.TB, name, role string) {
	t.Helper()
	admin, keystone := login(t, "admin"), env(t, "OPENSTACK_KEYSTONE")
	var roles struct{ Roles []struct{ ID string } }
	admin.call(t, http.MethodGet, keystone+"/roles?name="+role, nil, &roles)
	var project struct{ Project struct{ ID string } }
	admin.call(t, http.MethodPost, keystone+"/projects", map[string]any{"project": map[string]any{"name": name, "domain_id": "default"}}, &project)
	t.Cleanup(func() { admin.call(t, http.MethodDelete, keystone+"/projects/"+project.Project.ID, nil, nil) })
	var user struct{ User struct{ ID string } }
	admin.call(t, http.MethodPost, keystone+"/users", map[string]any{"user": map[string]any{"name": name, "domain_id": "default", "password": "secret"}}, &user)
	t.Cleanup(func() { admin.call(t, http.MethodDelete, keystone+"/users/"+user.User.ID, nil, nil) })
	admin.call(t, http.MethodPut, keystone+"/projects/"+project.Project.ID+"/users/"+user.User.ID+"/roles/"+roles.Roles[0].ID, nil, nil)
}

// ownProject makes a project with a user of the same name for one test, so that others may
// run beside it.
func ownProject(t testing.TB, name string) *api {
	t.Helper()
	need(t)
	newUser(t, name, "member")
	a := login(t, name)
	t.Cleanup(func() { a.clear(t) })
	return a
}

// A finding is one of doctor's.
type finding struct {
	Check, Text, Hint string
	Status            string
	More              []string
}

// doctor is what chromogenic doctor says, by the check.
func (in *installation) doctor(t testing.TB) (map[string]finding, string) {
	t.Helper()
	out, _ := in.try("doctor", "--json", t.TempDir())
	var all []finding
	if err := json.Unmarshal([]byte(out[:strings.LastIndex(out, "]")+1]), &all); err != nil {
		t.Fatalf("doctor: %v: %s", err, out)
	}
	by := map[string]finding{}
	for _, f := range all {
		by[f.Check] = f
	}
	if strings.Contains(out, "secret") {
		t.Errorf("doctor tells a secret: %s", out)
	}
	return by, out
}

// TestRights: doctor tells what a role may do, and makes nothing for it; who may not
// upload is told so before anything is done.
func TestRights(t *testing.T) {
	a := login(t, "a")
	a.clear(t)
	newUser(t, "viewer", "reader")
	viewer := login(t, "viewer")
	proxy := proxyOf(t, cloud.glance)
	in := install(t, cloudsFile(t, "viewer", proxy.URL, ""), "  viewer: {type: openstack, cloud: viewer}\n")

	// Of a cloud without an image little is known.
	by, out := in.doctor(t)
	if f := by["viewer:credentials"]; !strings.HasSuffix(f.Text, "user viewer, project viewer, roles reader") {
		t.Errorf("credentials: %+v", f)
	}
	if f := by["viewer:rights"]; f.Status != "ok" || !strings.Contains(f.Text, "may list images") || !strings.Contains(f.Text, "unknown: read images, upload images") {
		t.Errorf("rights: %s", out)
	}
	disk := testDisk(t)
	request := regexp.MustCompile(`req-[0-9a-f-]{36}`)
	refused := func(how string, out string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(out, "403") || !strings.Contains(out, "the role in this project does not allow it") || !request.MatchString(out) {
			t.Errorf("%s: %v: %s", how, err, out)
		}
	}
	uploaded, err := in.try("cp", disk, "viewer:images/x")
	refused("upload of nothing to ask with", uploaded, err)

	// An image that anybody may see is enough to ask with.
	admin := login(t, "admin")
	public := admin.put(t, "public", "raw", strings.NewReader(strings.Repeat("x", 1<<20)), map[string]any{"visibility": "public"})
	defer admin.remove(t, public)
	before := proxy.Received.Load()
	by, out = in.doctor(t)
	f := by["viewer:rights"]
	if f.Status != "warn" || !strings.Contains(f.Text, "may list images, list servers; may not read images, upload images; unknown: capture servers, remove images") ||
		!strings.Contains(strings.Join(f.More, "\n"), "upload images: no: POST /v2/images: 403") || !request.MatchString(strings.Join(f.More, "\n")) {
		t.Errorf("rights: %s", out)
	}
	t.Logf("%s\n%s\n%d bytes were sent for it", f.Text, strings.Join(f.More, "\n"), proxy.Received.Load()-before)
	proxy.Clear()
	uploaded, err = in.try("cp", disk, "viewer:images/x")
	refused("upload", uploaded, err)
	for _, line := range proxy.Log() {
		if strings.HasPrefix(line, "PUT") || strings.Contains(line, "/file") {
			t.Errorf("there was %s", line)
		}
	}
	dir := in.mount(t)
	uploaded, err = tryCommand("cp", disk, filepath.Join(dir, "viewer", "images", "x.raw"))
	if err == nil || !strings.Contains(uploaded, "cannot create regular file") || !strings.Contains(uploaded, "Permission denied") {
		t.Errorf("upload through the mount: %v: %s", err, uploaded)
	}
	if n := len(viewer.images(t)); n != 0 {
		t.Errorf("%d images were made", n)
	}

	// A member may.
	in = install(t, cloud.clouds, "  a: {type: openstack, cloud: a}\n")
	by, out = in.doctor(t)
	if f := by["a:rights"]; f.Status != "ok" || !strings.Contains(f.Text, "may list images, read images, upload images") || !strings.Contains(by["a:credentials"].Text, "roles member") {
		t.Errorf("rights of a member: %s", out)
	}
	if n := len(a.images(t)); n != 0 {
		t.Errorf("asking has made %d images", n)
	}
}
