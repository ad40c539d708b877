package openstack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/openstack"
)

// An api asks the services as another client of the cloud would: nothing of it is the
// code that is tested.
type api struct {
	token, project string
	nova           string
}

// plain has a connection for each request: keystone closes those that wait without a word.
var plain = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// login logs in as the user of a project.
func login(t testing.TB, user string) *api {
	t.Helper()
	need(t)
	keystone := env(t, "OPENSTACK_KEYSTONE")
	domain := map[string]any{"name": "Default"}
	body := map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": user, "domain": domain, "password": "secret"},
		}},
		"scope": map[string]any{"project": map[string]any{"name": user, "domain": domain}},
	}}
	enc, _ := json.Marshal(body)
	resp, err := plain.Post(keystone+"/auth/tokens", "application/json", bytes.NewReader(enc))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token struct {
			Project struct{ ID string }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("log in as %s: %s, %v", user, resp.Status, err)
	}
	return &api{token: resp.Header.Get("X-Subject-Token"), project: answer.Token.Project.ID, nova: env(t, "OPENSTACK_COMPUTE")}
}

// env is what openstack.sh tells.
func env(t testing.TB, key string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cloud.dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "export "+key+"="); ok {
			return v
		}
	}
	t.Fatalf("openstack.sh tells no %s", key)
	return ""
}

// call makes a request; the path is that of Glance, or a whole URL.
func (a *api) call(t testing.TB, method, path string, body, into any) {
	t.Helper()
	url := path
	if strings.HasPrefix(path, "/") {
		url = cloud.glance + "/v2" + path
	}
	kind := "application/json"
	r, raw := body.(io.Reader)
	if raw {
		kind = "application/octet-stream"
	} else if body != nil {
		enc, _ := json.Marshal(body)
		r = bytes.NewReader(enc)
	}
	if method == http.MethodPatch && strings.HasPrefix(path, "/") {
		kind = "application/openstack-images-v2.1-json-patch"
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", a.token)
	req.Header.Set("Content-Type", kind)
	req.Header.Set("X-OpenStack-Nova-API-Version", "2.47")
	resp, err := plain.Do(req)
	// SQLite has one writer, and Glance does not wait for it for ever.
	seeker, seeks := r.(io.Seeker)
	again := method == http.MethodDelete || method == http.MethodPut && seeks
	for end := time.Now().Add(time.Minute); err == nil && again && resp.StatusCode == http.StatusInternalServerError && time.Now().Before(end); resp, err = plain.Do(req) {
		resp.Body.Close()
		time.Sleep(500 * time.Millisecond)
		if seeks {
			if _, err := seeker.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			req.Body = io.NopCloser(r)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s, %v: %s", method, url, resp.Status, err, out)
	}
	if into != nil {
		if err := json.Unmarshal(out, into); err != nil {
			t.Fatalf("%s %s: %v: %s", method, url, err, out)
		}
	}
}

// An imageRecord is as much of Glance's as the tests look at.
type imageRecord map[string]any

func (r imageRecord) text(key string) string {
	s, _ := r[key].(string)
	return s
}

// images are all of the project, whatever their state.
func (a *api) images(t testing.TB) []imageRecord {
	t.Helper()
	var all []imageRecord
	next := "/images?limit=1000&owner=" + a.project
	for next != "" {
		var page struct {
			Images []imageRecord
			Next   string
		}
		a.call(t, http.MethodGet, next, nil, &page)
		all = append(all, page.Images...)
		next = strings.TrimPrefix(page.Next, "/v2")
	}
	return all
}

func (a *api) image(t testing.TB, id string) imageRecord {
	t.Helper()
	var r imageRecord
	a.call(t, http.MethodGet, "/images/"+id, nil, &r)
	return r
}

// put makes an image of bytes, with further fields of its record.
func (a *api) put(t testing.TB, name, format string, bytes io.Reader, more map[string]any) string {
	t.Helper()
	body := map[string]any{"name": name, "disk_format": format, "container_format": "bare", "visibility": "private"}
	for key, value := range more {
		body[key] = value
	}
	var r imageRecord
	a.call(t, http.MethodPost, "/images", body, &r)
	a.call(t, http.MethodPut, "/images/"+r.text("id")+"/file", bytes, nil)
	return r.text("id")
}

func (a *api) remove(t testing.TB, id string) {
	t.Helper()
	a.call(t, http.MethodDelete, "/images/"+id, nil, nil)
}

// clear removes all images of the project, and all servers.
func (a *api) clear(t testing.TB) {
	t.Helper()
	var page struct{ Servers []struct{ ID string } }
	if os.Getenv("OPENSTACK_NOVA") != "off" {
		a.call(t, http.MethodGet, a.nova+"/servers", nil, &page)
	}
	for _, s := range page.Servers {
		a.call(t, http.MethodDelete, a.nova+"/servers/"+s.ID, nil, nil)
	}
	for end := time.Now().Add(time.Minute); len(page.Servers) > 0; {
		a.call(t, http.MethodGet, a.nova+"/servers", nil, &page)
		if time.Now().After(end) {
			t.Fatalf("%d servers do not go", len(page.Servers))
		}
		time.Sleep(200 * time.Millisecond)
	}
	for _, r := range a.images(t) {
		if r["protected"] == true {
			a.call(t, http.MethodPatch, "/images/"+r.text("id"), []map[string]any{{"op": "replace", "path": "/protected", "value": false}}, nil)
		}
		a.remove(t, r.text("id"))
	}
}

// body is all of an image as a reader.
func body(img disk.Image) io.Reader { return io.NewSectionReader(img, 0, img.Size()) }

// A rig is a provider of an empty project, behind a proxy.
type rig struct {
	*api
	*openstack.Provider
	proxy *Proxy
}

// newRig makes the provider of a project. Its time-outs are short.
func newRig(t testing.TB, user string, change func(*openstack.Options)) *rig {
	t.Helper()
	login(t, user).clear(t)
	return quickRig(t, user, change)
}

// quickRig is newRig for a project as it is.
func quickRig(t testing.TB, user string, change func(*openstack.Options)) *rig {
	t.Helper()
	a, proxy := login(t, user), proxyOf(t, cloud.glance)
	t.Setenv("OS_CLIENT_CONFIG_FILE", cloudsFile(t, user, proxy.URL, ""))
	o := openstack.Options{Name: "site-" + user, Cloud: user, Retry: 3 * time.Second, Stall: 2 * time.Second}
	if change != nil {
		change(&o)
	}
	p, err := openstack.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{a, p, proxy}
}

// cloudsFile writes the clouds.yaml of a user whose images come by way of a proxy.
func cloudsFile(t testing.TB, user, proxy, more string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clouds.yaml")
	text := fmt.Sprintf(`clouds:
  %s:
    region_name: RegionOne
    image_endpoint_override: %s
    auth: {auth_url: %q, username: %s, password: secret, project_name: %s, user_domain_name: Default, project_domain_name: Default}
%s`, user, proxy, env(t, "OPENSTACK_KEYSTONE"), user, user, more)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// one is the one entry of a name.
func (r *rig) one(t testing.TB, kind providers.Kind, name string) providers.Entry {
	t.Helper()
	entries, err := r.List(t.Context(), kind)
	if err != nil {
		t.Fatal(err)
	}
	var found []providers.Entry
	for _, e := range entries {
		if e.Name == name {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d %s of name %q in %d", len(found), kind, name, len(entries))
	}
	return found[0]
}

// holds compares the bytes of an image.
func (r *rig) holds(t testing.TB, e providers.Entry, want disk.Image) {
	t.Helper()
	src, err := r.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	cache := disk.NewCache(disk.CacheOptions{})
	defer cache.Close()
	disktest.Compare(t, cache.Image("", src), want)
}

// debris names what our records of this project say is not finished.
func (a *api) debris(t testing.TB) []string {
	t.Helper()
	var left []string
	for _, r := range a.images(t) {
		if r.text("chromogenic_state") != "" || r.text("status") != "active" {
			left = append(left, fmt.Sprintf("%s %s %s %s", r.text("id"), r.text("name"), r.text("status"), r.text("chromogenic_state")))
		}
	}
	return left
}
