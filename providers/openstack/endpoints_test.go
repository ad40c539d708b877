package openstack

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"chromogenic/disk"
)

// TestLocate: the services are found in the catalog alone.
func TestLocate(t *testing.T) {
	at := func(region, kind, url string) tokens.Endpoint {
		return tokens.Endpoint{Region: region, Interface: kind, URL: url}
	}
	catalog := &tokens.ServiceCatalog{Entries: []tokens.CatalogEntry{
		{Type: "image", Endpoints: []tokens.Endpoint{
			at("one", "internal", "http://inside:9292"), at("one", "public", "https://one/image/"), at("two", "public", "https://two/image/v2/"),
		}},
		{Type: "compute", Endpoints: []tokens.Endpoint{at("one", "public", "https://one/compute/v2.1/0a1b"), at("two", "public", "https://two:8774/")}},
		{Type: "volumev3", Endpoints: []tokens.Endpoint{at("two", "public", "https://two/volume/v3/0a1b")}},
	}}
	for name, tt := range map[string]struct {
		opts           gophercloud.EndpointOpts
		override       map[string]string
		image, compute string
		volumes        bool
	}{
		"the first":   {image: "https://one/image/v2", compute: "https://one/compute/v2.1/0a1b", volumes: true},
		"two":         {opts: gophercloud.EndpointOpts{Region: "two"}, image: "https://two/image/v2", compute: "https://two:8774/v2.1", volumes: true},
		"internal":    {opts: gophercloud.EndpointOpts{Region: "one", Availability: "internal"}, image: "http://inside:9292/v2"},
		"override":    {opts: gophercloud.EndpointOpts{Region: "one"}, override: map[string]string{"image": "http://proxy:1/"}, image: "http://proxy:1/v2", compute: "https://one/compute/v2.1/0a1b"},
		"another one": {opts: gophercloud.EndpointOpts{Region: "three"}},
	} {
		s := &session{endpoints: map[string]string{}}
		err := s.locate(catalog, &credentials{endpoints: tt.opts, override: tt.override})
		if tt.image == "" {
			if disk.KindOf(err) != disk.Unsupported {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || s.endpoints[imageService] != tt.image || s.endpoints[computeService] != tt.compute || s.volumes != tt.volumes {
			t.Errorf("%s: %v, %v, %v", name, s.endpoints, s.volumes, err)
		}
	}
}

// TestRedirected: a token goes to no other host than the one it is for.
func TestRedirected(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("another host was asked, with the token %q", r.Header.Get("X-Auth-Token"))
	}))
	defer other.Close()
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/here" {
			http.Redirect(w, r, "/there", http.StatusFound)
		} else if r.URL.Path != "/there" {
			http.Redirect(w, r, other.URL+"/token", http.StatusFound)
		}
	}))
	defer first.Close()
	c := newClient(Options{})
	_, client := newHTTP(nil)
	s := &session{token: "secret", endpoints: map[string]string{imageService: first.URL}, http: client}
	for path, want := range map[string]int{"/away": http.StatusFound, "/here": http.StatusOK} {
		resp, end, err := c.send(t.Context(), s, request{service: imageService, method: http.MethodGet, path: path})
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
		if err := answerError(resp, nil); want == http.StatusFound && (disk.KindOf(err) != disk.Unreachable || disk.AsError(err).Hint == "") {
			t.Errorf("%s: %v", path, err)
		}
		end()
	}
}

// TestReserved: a configuration sets no property that would say what an image is.
func TestReserved(t *testing.T) {
	for key, reserved := range map[string]bool{
		"visibility": true, "name": true, "id": true, "owner": true, "protected": true, "os_hidden": true, "chromogenic_state": true,
		"hw_disk_bus": false, "department": false,
	} {
		if _, err := New(Options{Name: "a", Properties: map[string]string{key: "x"}}); (err != nil) != reserved {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestAnchor: paths of credentials are good in another working directory too.
func TestAnchor(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, key := range []string{"OS_CLIENT_CONFIG_FILE", "OS_CERT", "OS_KEY", "OS_CLIENT_VENDOR_CONFIG_FILE"} {
		t.Setenv(key, "")
	}
	t.Setenv("OS_CACERT", "ca.pem")
	if err := os.WriteFile("clouds.yaml", []byte("clouds: {here: {}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Anchor(); err != nil {
		t.Fatal(err)
	}
	t.Chdir("/")
	if clouds, err := Clouds(); err != nil || len(clouds) != 1 || clouds[0].Name != "here" {
		t.Errorf("%v, %v", clouds, err)
	}
	if got, want := os.Getenv("OS_CACERT"), filepath.Join(dir, "ca.pem"); got != want {
		t.Errorf("OS_CACERT=%s, not %s", got, want)
	}
	if got := os.Getenv("OS_CERT"); got != "" {
		t.Errorf("OS_CERT=%s", got)
	}
}
