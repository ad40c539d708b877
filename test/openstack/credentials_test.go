package openstack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A loginCase is one way to tell the program who it is.
type loginCase struct {
	name   string
	files  map[string]string // below the home of the user, "work" for the working directory
	env    []string
	cloud  string   // of the provider; empty for none
	source string   // what doctor says of where they are from
	fails  string   // what is said instead
	hint   string   // what is said then, besides
	never  []string // what is never said
}

// outside is an installation of a user that has nothing but the files and variables of
// a case.
func (l loginCase) outside(t testing.TB) *installation {
	t.Helper()
	provider := "  a: {type: openstack}\n"
	if l.cloud != "" {
		provider = "  a: {type: openstack, cloud: " + l.cloud + "}\n"
	}
	in := install(t, "", provider)
	home := t.TempDir()
	in.dir = filepath.Join(home, "work")
	os.MkdirAll(in.dir, 0o700)
	for name, text := range l.files {
		path := filepath.Join(home, name)
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in.env = append(bare(), "CHROMOGENIC_CONFIG="+in.config, "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, ".config"))
	for _, v := range l.env {
		in.env = append(in.env, strings.ReplaceAll(v, "HOME/", home+"/"))
	}
	return in
}

// bare is the environment without what tells of clouds.
func bare() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "OS_") && !strings.HasPrefix(v, "HOME=") && !strings.HasPrefix(v, "XDG_") {
			env = append(env, v)
		}
	}
	return env
}

// check logs in, or does not.
func (l loginCase) check(t *testing.T) {
	in := l.outside(t)
	if l.fails == "" {
		if out := in.run(t, "ls", "a:images"); !strings.Contains(out, "mine") {
			t.Errorf("ls: %s", out)
		}
		by, out := in.doctor(t)
		if f := by["a:credentials"]; f.Status != "ok" || !strings.Contains(f.Text, l.source) || !strings.Contains(f.Text, "project a, roles member") {
			t.Errorf("doctor: %s", out)
		}
		return
	}
	listed, err := in.try("ls", "a:images")
	by, out := in.doctor(t)
	f := by["a:credentials"]
	if err == nil || !strings.Contains(listed, l.fails) || f.Status != "fail" || !strings.Contains(f.Text, l.fails) {
		t.Errorf("%v: %s, doctor: %s; want %q", err, listed, out, l.fails)
	}
	if !strings.Contains(listed, l.hint) || !strings.Contains(f.Hint, l.hint) {
		t.Errorf("%s, doctor: %+v; want the hint %q", listed, f, l.hint)
	}
	for _, text := range l.never {
		if strings.Contains(listed+out, text) {
			t.Errorf("%q is told: %s %s", text, listed, out)
		}
	}
}

// TestCredentials: every way in which the openstack command finds credentials, against
// the real identity service.
func TestCredentials(t *testing.T) {
	a := login(t, "a")
	a.clear(t)
	a.put(t, "mine", "raw", strings.NewReader(strings.Repeat("x", 4096)), nil)
	keystone := env(t, "OPENSTACK_KEYSTONE")
	var users struct{ Users []struct{ ID string } }
	login(t, "admin").call(t, http.MethodGet, keystone+"/users?name=a", nil, &users)
	user := users.Users[0].ID
	var application struct {
		Credential struct{ ID, Name, Secret string } `json:"application_credential"`
	}
	a.call(t, http.MethodPost, keystone+"/users/"+user+"/application_credentials", map[string]any{"application_credential": map[string]any{"name": "chromo"}}, &application)
	app := application.Credential
	t.Cleanup(func() {
		a.call(t, http.MethodDelete, keystone+"/users/"+user+"/application_credentials/"+app.ID, nil, nil)
	})

	clouds := func(auth string, more ...string) string {
		return "clouds:\n  x:\n    region_name: RegionOne\n    " + strings.Join(append(more, ""), "\n    ") + "auth: {" + auth + "}\n"
	}
	at := "auth_url: \"" + keystone + "\", "
	names := at + "username: a, password: secret, project_name: a, user_domain_name: Default, project_domain_name: Default"
	config := ".config/openstack/"
	file := func(text string) map[string]string { return map[string]string{config + "clouds.yaml": text} }
	envs := func(v ...string) []string { return append([]string{"OS_AUTH_URL=" + keystone}, v...) }
	const fromFile, fromEnv = "cloud x of ", "variables OS_* of the environment"
	for _, l := range []loginCase{
		{name: "file", files: file(clouds(names)), cloud: "x", source: fromFile},
		{name: "OS_CLOUD", files: file(clouds(names)), env: []string{"OS_CLOUD=x"}, source: fromFile},
		{name: "working directory", files: map[string]string{"work/clouds.yaml": clouds(names), config + "clouds.yaml": "clouds: {}"}, cloud: "x", source: "cloud x of clouds.yaml"},
		{name: "OS_CLIENT_CONFIG_FILE", files: map[string]string{"else.yaml": clouds(names)}, env: []string{"OS_CLIENT_CONFIG_FILE=HOME/else.yaml"}, cloud: "x", source: "else.yaml"},
		{name: "secure.yaml", cloud: "x", source: fromFile, files: map[string]string{
			config + "clouds.yaml": clouds(at + "username: a, project_name: a, user_domain_name: Default, project_domain_name: Default"),
			config + "secure.yaml": "clouds: {x: {auth: {password: secret}}}",
		}},
		{name: "profile", cloud: "x", source: fromFile, files: map[string]string{
			config + "clouds.yaml":        "clouds: {x: {profile: vendor, auth: {username: a, password: secret, project_name: a, user_domain_name: Default, project_domain_name: Default}}}",
			config + "clouds-public.yaml": "public-clouds: {vendor: {region_name: RegionOne, auth: {auth_url: \"" + keystone + "\"}}}",
		}},
		{name: "profile elsewhere", cloud: "x", source: fromFile, env: []string{"OS_CLIENT_VENDOR_CONFIG_FILE=HOME/vendor.yaml"}, files: map[string]string{
			config + "clouds.yaml": "clouds: {x: {profile: vendor, auth: {username: a, password: secret, project_name: a, user_domain_name: Default, project_domain_name: Default}}}",
			"vendor.yaml":          "public-clouds: {vendor: {region_name: RegionOne, auth: {auth_url: \"" + keystone + "\"}}}",
		}},
		{name: "ids", files: file(clouds(at + "user_id: " + user + ", password: secret, project_id: " + a.project)), cloud: "x", source: fromFile},
		{name: "ids of domains", files: file(clouds(at + "username: a, password: secret, project_name: a, user_domain_id: default, project_domain_id: default")), cloud: "x", source: fromFile},
		{name: "no domains", files: file(clouds(at + "username: a, password: secret, project_name: a")), cloud: "x", source: fromFile},
		{name: "unknown keys", files: file(clouds(names+", colour: blue", "shape: {round: yes}", "volume_api_version: 3")), cloud: "x", source: fromFile},
		{name: "application credential", files: file(clouds(at+"application_credential_id: "+app.ID+", application_credential_secret: "+app.Secret, "auth_type: v3applicationcredential")), cloud: "x", source: fromFile},
		{name: "application credential by name", files: file(clouds(at+"application_credential_name: chromo, username: a, user_domain_name: Default, application_credential_secret: "+app.Secret, "auth_type: v3applicationcredential")), cloud: "x", source: fromFile},
		{name: "token", files: file(clouds(at+"token: "+a.token+", project_name: a, project_domain_name: Default", "auth_type: v3token")), cloud: "x", source: fromFile},
		{name: "token without a project", files: file(clouds(at+"token: "+a.token, "auth_type: token")), cloud: "x", source: fromFile},
		{name: "variables", env: envs("OS_USERNAME=a", "OS_PASSWORD=secret", "OS_PROJECT_NAME=a", "OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "OS_IDENTITY_API_VERSION=3", "OS_REGION_NAME=RegionOne", "OS_INTERFACE=public"), source: fromEnv},
		{name: "variables with ids", env: envs("OS_USER_ID="+user, "OS_PASSWORD=secret", "OS_PROJECT_ID="+a.project, "OS_PROJECT_NAME=a", "OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_ID=default"), source: fromEnv},
		{name: "variables with one domain", env: envs("OS_USERNAME=a", "OS_PASSWORD=secret", "OS_PROJECT_NAME=a", "OS_DOMAIN_NAME=Default", "OS_ENDPOINT_TYPE=internalURL"), source: fromEnv},
		{name: "variables without domains", env: envs("OS_USERNAME=a", "OS_PASSWORD=secret", "OS_TENANT_NAME=a"), source: fromEnv},
		{name: "variables of an application credential", env: envs("OS_AUTH_TYPE=v3applicationcredential", "OS_APPLICATION_CREDENTIAL_ID="+app.ID, "OS_APPLICATION_CREDENTIAL_SECRET="+app.Secret), source: fromEnv},
		{name: "variables of one by name", env: envs("OS_AUTH_TYPE=v3applicationcredential", "OS_APPLICATION_CREDENTIAL_NAME=chromo", "OS_APPLICATION_CREDENTIAL_SECRET="+app.Secret, "OS_USERNAME=a", "OS_USER_DOMAIN_NAME=Default"), source: fromEnv},
		{name: "variable of a token", env: envs("OS_AUTH_TYPE=v3token", "OS_TOKEN="+a.token, "OS_PROJECT_NAME=a", "OS_PROJECT_DOMAIN_NAME=Default"), source: fromEnv},

		{
			name: "wrong password", files: file(clouds(strings.Replace(names, "password: secret", "password: wr0ng", 1))), cloud: "x",
			fails: "401", hint: "look at the user, password, project and domains", never: []string{"wr0ng"},
		},
		{
			name: "wrong project", files: file(clouds(strings.Replace(names, "project_name: a", "project_name: b", 1))), cloud: "x",
			fails: "401", hint: "look at the user, password, project and domains", never: []string{"secret"},
		},
		{name: "wrong application credential", env: envs("OS_APPLICATION_CREDENTIAL_ID="+app.ID, "OS_APPLICATION_CREDENTIAL_SECRET=wr0ng"), fails: "401", never: []string{"wr0ng"}},
		{name: "token that is none", env: envs("OS_TOKEN=wr0ng"), fails: "log in", never: []string{"wr0ng"}},
		{name: "wrong url", files: file(clouds(strings.Replace(names, keystone, strings.TrimSuffix(keystone, "/v3")+"/other", 1))), cloud: "x", fails: "404", hint: "auth_url"},
		{name: "unknown cloud", files: file(clouds(names)), cloud: "y", fails: `clouds.yaml has no cloud "y"`, hint: "it has x"},
		{name: "no file", cloud: "x", fails: "there is no clouds.yaml among clouds.yaml, ", hint: "OS_CLIENT_CONFIG_FILE"},
		{name: "no file of that name", cloud: "x", env: []string{"OS_CLIENT_CONFIG_FILE=HOME/none.yaml"}, fails: "none.yaml", hint: "OS_CLIENT_CONFIG_FILE"},
		{name: "nothing", fails: "OS_AUTH_URL is not set", hint: "clouds.yaml"},
		{name: "no password", env: envs("OS_USERNAME=a"), fails: "OS_PASSWORD is not set"},
		{name: "bad YAML", files: file("clouds:\n  x: {auth: {password: wr0ng\n"), cloud: "x", fails: "clouds.yaml: yaml: line ", never: []string{"wr0ng"}},
		{name: "bad secure.yaml", cloud: "x", fails: "secure.yaml", never: []string{"wr0ng"}, files: map[string]string{
			config + "clouds.yaml": clouds(names), config + "secure.yaml": "clouds: {x: [wr0ng",
		}},
		{name: "unknown auth_type", files: file(clouds(names, "auth_type: v3kerberos")), cloud: "x", fails: `auth_type "v3kerberos" is not known`, hint: "application credential"},
		{name: "unknown region", files: file(strings.Replace(clouds(names), "RegionOne", "Mars", 1)), cloud: "x", fails: "image service", hint: "region_name"},
		{name: "no CA file", files: file(clouds(names, "cacert: /none.pem")), cloud: "x", fails: "/none.pem"},
	} {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			l.check(t)
		})
	}

	// Nor does the log of a mount.
	t.Run("log", func(t *testing.T) {
		t.Parallel()
		in := loginCase{files: file(clouds(strings.Replace(names, "password: secret", "password: wr0ng", 1))), cloud: "x"}.outside(t)
		dir := in.mount(t)
		if out, err := tryCommand("ls", filepath.Join(dir, "a", "images")); err == nil || !strings.Contains(out, "Permission denied") {
			t.Errorf("ls: %v: %s", err, out)
		}
		log, err := os.ReadFile(filepath.Join(in.state, "log", "mount.log"))
		failures, err2 := os.ReadFile(filepath.Join(dir, ".chromogenic", "errors"))
		if err != nil || err2 != nil || strings.Contains(string(log)+string(failures), "wr0ng") || !strings.Contains(string(failures), "401") {
			t.Errorf("log: %v %v: %s %s", err, err2, log, failures)
		}
	})
}

// TestRegions: the region that is named decides which image service is asked.
func TestRegions(t *testing.T) {
	a := login(t, "a")
	a.clear(t)
	a.put(t, "mine", "raw", strings.NewReader("x"), nil)
	admin, keystone := login(t, "admin"), env(t, "OPENSTACK_KEYSTONE")
	far := proxyOf(t, cloud.glance)
	admin.call(t, http.MethodPost, keystone+"/regions", map[string]any{"region": map[string]any{"id": "Far"}}, nil)
	var services struct{ Services []struct{ ID string } }
	admin.call(t, http.MethodGet, keystone+"/services?type=image", nil, &services)
	var endpoint struct{ Endpoint struct{ ID string } }
	admin.call(t, http.MethodPost, keystone+"/endpoints", map[string]any{"endpoint": map[string]any{
		"service_id": services.Services[0].ID, "interface": "public", "region_id": "Far", "url": far.URL,
	}}, &endpoint)
	t.Cleanup(func() {
		admin.call(t, http.MethodDelete, keystone+"/endpoints/"+endpoint.Endpoint.ID, nil, nil)
		admin.call(t, http.MethodDelete, keystone+"/regions/Far", nil, nil)
	})
	auth := fmt.Sprintf("auth: {auth_url: %q, username: a, password: secret, project_name: a, user_domain_name: Default, project_domain_name: Default}", keystone)
	files := map[string]string{".config/openstack/clouds.yaml": "clouds:\n  x: {regions: [RegionOne, {name: Far}], " + auth + "}\n  far: {region_name: Far, " + auth + "}\n"}
	for _, tt := range []struct {
		cloud, more string
		far         bool
	}{{"x", "", false}, {"x", ", region: Far", true}, {"far", "", true}, {"far", ", region: RegionOne", false}} {
		far.Clear()
		far.Requests.Store(0)
		in := loginCase{cloud: tt.cloud + tt.more, files: files}.outside(t)
		if out := in.run(t, "ls", "a:images"); !strings.Contains(out, "mine") {
			t.Errorf("%s%s: %s", tt.cloud, tt.more, out)
		}
		if got := far.Requests.Load() > 0; got != tt.far {
			t.Errorf("%s%s asks the far region: %v", tt.cloud, tt.more, got)
		}
	}
	// Every region is a provider of its own.
	in := loginCase{cloud: "x", files: files}.outside(t)
	in.env = append(in.env, "CHROMOGENIC_CONFIG=", "CHROMOGENIC_STATE_DIR="+in.state)
	if list := strings.Fields(sh(t, "ls", in.mount(t, "--all"))); strings.Join(list, " ") != "far x-far x-regionone" {
		t.Errorf("the providers are %q", list)
	}
}

// TestCertificates: services behind TLS, of an authority that nobody knows.
func TestCertificates(t *testing.T) {
	a := login(t, "a")
	a.clear(t)
	a.put(t, "mine", "raw", strings.NewReader("x"), nil)
	ca, pair := authority(t)
	dir := t.TempDir()
	caFile := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	keystone, glance := overTLS(t, strings.TrimSuffix(env(t, "OPENSTACK_KEYSTONE"), "/v3"), pair), overTLS(t, cloud.glance, pair)
	file := func(more string) map[string]string {
		return map[string]string{".config/openstack/clouds.yaml": fmt.Sprintf(`clouds:
  x:
    image_endpoint_override: %s
    %s
    auth: {auth_url: %q, username: a, password: secret, project_name: a, user_domain_name: Default, project_domain_name: Default}
`, glance, more, keystone+"/v3")}
	}
	vars := []string{"OS_AUTH_URL=" + keystone + "/v3", "OS_USERNAME=a", "OS_PASSWORD=secret", "OS_PROJECT_NAME=a"}
	for _, l := range []loginCase{
		{name: "unknown", files: file("x: y"), cloud: "x", fails: "certificate signed by unknown authority", hint: "cacert of the cloud in clouds.yaml"},
		{name: "cacert", files: file("cacert: " + caFile), cloud: "x", source: "cloud x"},
		{name: "another cacert", files: file("cacert: /etc/ssl/certs/ca-certificates.crt"), cloud: "x", fails: "certificate signed by unknown authority", hint: "cacert of the cloud in clouds.yaml"},
		{name: "verify: false", files: file("verify: false"), cloud: "x", source: "cloud x"},
		{name: "OS_CACERT", env: append(vars, "OS_CACERT="+caFile), source: "variables OS_*"},
		{name: "OS_INSECURE", env: append(vars, "OS_INSECURE=True"), source: "variables OS_*"},
		{name: "no OS_CACERT", env: vars, fails: "certificate signed by unknown authority", hint: "OS_CACERT"},
	} {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			l.check(t)
			t.Log(time.Since(began).Round(time.Millisecond))
		})
	}
}

// authority makes an authority, and a certificate of 127.0.0.1 that it vouches for.
func authority(t testing.TB) (ca []byte, pair tls.Certificate) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	rootKey, leafKey := newKey(), newKey()
	der, err := x509.CreateCertificate(rand.Reader, root, root, &rootKey.PublicKey, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	own, err := x509.CreateCertificate(rand.Reader, leaf, root, &leafKey.PublicKey, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{own}, PrivateKey: leafKey}
}

// overTLS puts TLS before a service, and gives the URL.
func overTLS(t testing.TB, target string, pair tls.Certificate) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(u))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}
