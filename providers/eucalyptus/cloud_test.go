package eucalyptus

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/ec2test"
)

// TestRenewed changes the credentials while the provider is used.
func TestRenewed(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice")
	r.put(t, "web", disktest.Pattern(1<<20, nil))
	who, source, err := r.Credentials(t.Context())
	if err != nil || !strings.Contains(who, r.account.Number) || source != "eucarc "+r.o.Eucarc || strings.Contains(who+source, r.account.Secret) {
		t.Errorf("it is %q of %q, %v", who, source, err)
	}
	before := r.Location()
	r.account = cloud.Account("bob")
	r.eucarc(t)
	if list, err := r.List(t.Context(), providers.Images); err != nil || len(list) != 0 {
		t.Errorf("bob sees %+v, %v", list, err)
	}
	if r.Location() == before || before == "" {
		t.Error("another account has the same location")
	}
	secret := r.account.Secret
	r.account.Secret = "wrong"
	r.eucarc(t)
	r.account.Secret = secret
	_, err = r.List(t.Context(), providers.Images)
	if disk.KindOf(err) != disk.Denied || strings.Contains(err.Error(), secret) || disk.AsError(err).Hint == "" {
		t.Errorf("with a wrong secret: %v", err)
	}
	if err := r.MayUpload(t.Context()); disk.KindOf(err) != disk.Denied {
		t.Errorf("who may not log in may upload: %v", err)
	}
}

// TestSigV2 signs in version 2: when told to, and when a cloud knows nothing else.
func TestSigV2(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	to, err := url.Parse(cloud.URL)
	if err != nil {
		t.Fatal(err)
	}
	var seen sync.Map
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.Header.Get("Authorization"), "AWS4") {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `<Response><Errors><Error><Code>AuthFailure</Code><Message>Signature version is not supported</Message></Error></Errors></Response>`)
			return
		}
		seen.Store(req.Method, true)
		(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to); p.Out.Host = p.In.Host }}).ServeHTTP(w, req)
	}))
	defer old.Close()
	img := disktest.Pattern(12<<20, func(b int64) bool { return b%3 == 0 })
	for name, change := range map[string]func(*Options){"alice": func(o *Options) { o.SigV2 = true }, "bob": func(*Options) {}} {
		r := newRig(t, cloud, name, change)
		text, err := os.ReadFile(r.o.Eucarc)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, r.o.Eucarc, strings.NewReplacer("http://"+r.wire.addr+"/services/compute", old.URL+"/services/Eucalyptus", "http://"+r.wire.addr+"/services/objectstorage", old.URL+"/services/Walrus").Replace(string(text)))
		e := r.put(t, "a name of spaces & signs", img)
		r.holds(t, e, img)
		r.remove(t, e)
		if left := r.debris(t); len(left) > 0 {
			t.Errorf("%s: left are %q", name, left)
		}
		if who, _, err := r.Credentials(t.Context()); err != nil || !strings.Contains(who, "version 2") {
			t.Errorf("%s: it is %q, %v", name, who, err)
		}
	}
	for _, method := range []string{"GET", "PUT", "POST", "DELETE"} {
		if _, ok := seen.Load(method); !ok {
			t.Errorf("no %s was signed", method)
		}
	}
}

// TestTLS talks to a cloud with an authority of its own.
func TestTLS(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{TLS: true})
	r := newRig(t, cloud, "alice")
	_, err := r.List(t.Context(), providers.Images)
	if disk.KindOf(err) != disk.Unreachable || disk.AsError(err).Hint == "" {
		t.Errorf("an authority that nobody knows: %v (%s)", err, disk.AsError(err).Hint)
	}
	t.Setenv("AWS_CA_BUNDLE", writeFile(t, filepath.Join(r.dir, "ca.pem"), string(cloud.CA)))
	img := disktest.Pattern(1<<20, nil)
	e := r.put(t, "web", img)
	r.holds(t, e, img)

	t.Setenv("AWS_CA_BUNDLE", "")
	rc := filepath.Join(r.dir, "rc")
	ini := fmt.Sprintf("[global]\ndefault-region = cloud\n[region cloud]\nec2-url = https://%s/services/compute\ns3-url = https://%[1]s/services/objectstorage\nuser = alice\ncertificate = %s\n[user alice]\nkey-id = %s\nsecret-key = %s\nprivate-key = %s\ncertificate = %s\n",
		r.wire.addr, filepath.Join(rc, "cloud-cert.pem"), r.account.AccessKey, r.account.Secret, filepath.Join(rc, "pk.pem"), filepath.Join(rc, "cert.pem"))
	for _, line := range []string{"verify-ssl = false", "ca-file = " + filepath.Join(r.dir, "ca.pem")} {
		writeFile(t, filepath.Join(r.dir, ".euca", "a.ini"), strings.Replace(ini, "user = alice", line+"\nuser = alice", 1))
		p, err := New(Options{Name: "euca", Profile: "alice@cloud", Dir: r.o.Dir, Retry: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if list, err := p.List(t.Context(), providers.Images); err != nil || len(list) != 1 {
			t.Errorf("%s: %+v, %v", line, list, err)
		}
	}
}

// TestKernelsOfUsers uploads a kernel as a user who may not register one.
func TestKernelsOfUsers(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "alice")
	img := disktest.Pattern(300_001, nil)
	spec := specOf("web", img)
	spec.Role = providers.Kernel
	_, err := r.upload(t, spec, img)
	if disk.KindOf(err) != disk.Denied || !strings.Contains(disk.AsError(err).Hint, "administrators") {
		t.Errorf("it says %v (%s)", err, disk.AsError(err).Hint)
	}
	if left := r.debris(t); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

// TestSet uploads an image with kernel and ramdisk, and copies it: an EMI that names both.
func TestSet(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	r := newRig(t, cloud, "eucalyptus", func(o *Options) { o.Users = []string{cloud.Account("alice").Number} })
	img := disktest.Pattern(2<<20, nil)
	spec := specOf("web", img)
	spec.Companions = map[providers.Role]providers.Upload{}
	for _, role := range providers.Roles() {
		one := disktest.Pattern(200_000+int64(len(role)), nil)
		s := specOf("web", one)
		s.Role, s.Together, s.Label = role, true, "vmlinuz "+string(role)
		u, err := r.Begin(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Send(t.Context(), one, func(int64) {}); err != nil {
			t.Fatal(err)
		}
		spec.Companions[role] = u
	}
	e, err := r.upload(t, spec, img)
	if err != nil {
		t.Fatal(err)
	}
	i, err := r.record(t.Context(), e.ID)
	if err != nil || i.Virtualization != "paravirtual" || !strings.HasPrefix(i.Kernel, "eki-") || !strings.HasPrefix(i.Ramdisk, "eri-") {
		t.Fatalf("it is registered as %+v, %v", i, err)
	}
	if c, _ := e.Companion(providers.Kernel); c.Name != "vmlinuz kernel" || c.Size != 200_006 {
		t.Errorf("its kernel is %+v", c)
	}
	notes, err := r.Share(t.Context(), e, []string{cloud.Account("bob").Number})
	if err != nil || len(notes) != 1 {
		t.Errorf("shared: %q, %v", notes, err)
	}
	bob := newRig(t, cloud, "bob")
	list, err := bob.List(t.Context(), providers.Images)
	if err != nil || len(list) != 1 || len(list[0].Companions) != 2 || list[0].Companions[0].Reason != "" {
		t.Errorf("bob sees %+v, %v", list, err)
	}
	t.Setenv("HOME", r.dir)
	if _, err := r.Unshare(t.Context(), e, []string{cloud.Account("bob").Number}); err != nil {
		t.Error(err)
	}
	may, err := r.current.ec2.LaunchPermissions(t.Context(), i.Kernel)
	if err != nil || !slices.Equal(may.Accounts, r.o.Users) { // of the upload
		t.Errorf("the kernel is shared with %q, %v", may.Accounts, err)
	}
	for _, name := range []string{"bob", "12345"} {
		if _, err := r.Share(t.Context(), e, []string{name}); disk.KindOf(err) != disk.NotFound || disk.AsError(err).Hint == "" {
			t.Errorf("shared with %q: %v", name, err)
		}
	}
	rights, err := r.Rights(t.Context())
	if err != nil || len(rights) != 4 || rights[0].May != providers.Yes || rights[3].May == providers.No {
		t.Errorf("its rights are %+v, %v", rights, err)
	}
}

// TestRefused are what can be known to fail before anything is sent.
func TestRefused(t *testing.T) {
	cloud := ec2test.Start(t, ec2test.Options{})
	img := disktest.Pattern(1<<20, nil)
	r := newRig(t, cloud, "alice")
	for name, tt := range map[string]struct {
		change func(*providers.Spec)
		kind   disk.Kind
	}{
		"format":   {func(s *providers.Spec) { s.Format = "qcow2" }, disk.Invalid},
		"empty":    {func(s *providers.Spec) { s.Size = 0 }, disk.Invalid},
		"name":     {func(s *providers.Spec) { s.Name = strings.Repeat("x", 256) }, disk.Invalid},
		"disk":     {func(s *providers.Spec) { s.Disk = 1 }, disk.Unsupported},
		"metadata": {func(s *providers.Spec) { s.Props = tooMuch() }, disk.TooLarge},
	} {
		spec := specOf("web", img)
		tt.change(&spec)
		if _, err := r.Begin(t.Context(), spec); disk.KindOf(err) != tt.kind {
			t.Errorf("%s: %v, want kind %s", name, err, tt.kind)
		}
	}
	if _, err := r.Accepts(providers.Spec{Store: "qcow2"}); disk.KindOf(err) != disk.Unsupported {
		t.Errorf("a store of qcow2: %v", err)
	}
	if err := os.Remove(filepath.Join(r.dir, "rc", "cloud-cert.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Begin(t.Context(), specOf("web", img)); disk.KindOf(err) != disk.Denied || !strings.Contains(err.Error(), "cloud-cert.pem") {
		t.Errorf("without the certificate of the cloud: %v", err)
	}
	if err := r.MayUpload(t.Context()); disk.KindOf(err) != disk.Denied {
		t.Errorf("may upload: %v", err)
	}
	r = newRig(t, cloud, "alice", func(o *Options) { o.Dir = "" })
	if _, err := r.Begin(t.Context(), specOf("web", img)); disk.KindOf(err) != disk.Invalid {
		t.Errorf("without a folder for journals: %v", err)
	}
	writeFile(t, filepath.Join(r.dir, "rc", "cert.pem"), string(cloud.Account("bob").Cert))
	if _, err := r.Begin(t.Context(), specOf("web", img)); disk.KindOf(err) != disk.Denied || !strings.Contains(err.Error(), "is not that of the private key") {
		t.Errorf("with another's certificate: %v", err)
	}
	for _, o := range []Options{{}, {Name: "e", Eucarc: "a", Profile: "b"}, {Name: "e", Users: []string{"bob"}}, {Name: "e", Nodes: &NodeAccess{}}} {
		if _, err := New(o); disk.KindOf(err) != disk.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func tooMuch() map[string]string {
	props := map[string]string{}
	for i := range 400 {
		props[fmt.Sprintf("key%d", i*7919)] = short(fmt.Sprint(i))
	}
	return props
}

// TestBetweenClouds copies an image from one account to that of another cloud: it is encrypted
// anew, for the cloud and the user that it comes to.
func TestBetweenClouds(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	from, to := ec2test.Start(t, ec2test.Options{}), ec2test.Start(t, ec2test.Options{Key: key})
	alice, bob := newRig(t, from, "alice", func(o *Options) { o.Index = false }), newRig(t, to, "bob")
	img := disktest.Pattern(12<<20+512, func(b int64) bool { return b%5 < 3 })
	e := alice.put(t, "web", img)
	src, err := alice.Open(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	whole, err := fetched(t.Context(), src.Image)
	if err != nil {
		t.Fatal(err)
	}
	spec := specOf("web", whole)
	spec.Metadata = e.Metadata
	copied, err := bob.upload(t, spec, whole)
	if err != nil {
		t.Fatal(err)
	}
	bob.holds(t, copied, img)
	_, text := bob.content(t, copied)
	m, err := bundle.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if m.User != bob.account.Number {
		t.Errorf("it is of account %s", m.User)
	}
	for name, reader := range map[string]*rsa.PrivateKey{"cloud": key, "user": bob.account.Key} {
		if _, err := m.Secret(reader); err != nil {
			t.Errorf("the %s cannot read it: %v", name, err)
		}
	}
	for name, stranger := range map[string]*rsa.PrivateKey{"cloud": from.Key, "user": alice.account.Key} {
		if _, err := m.Secret(stranger); disk.KindOf(err) != disk.Denied {
			t.Errorf("the other %s can read it: %v", name, err)
		}
	}
}
