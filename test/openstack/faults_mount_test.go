package openstack

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A mountFault is something that goes wrong while a program works on the mount, and what
// the program is told of it.
type mountFault struct {
	name   string
	fault  *Fault
	before func(t testing.TB, x *mountCase) // what somebody has done before; nil is nothing
	do     func(t testing.TB, x *mountCase) // what somebody does when the fault strikes; nil is nothing
	errno  syscall.Errno                    // 0 for one that is mended
	cause  string                           // what the reason says
	undo   func(t testing.TB, x *mountCase) // when the program has ended; nil is nothing
	alone  bool                             // nobody else can use the cloud meanwhile
	gone   bool                             // the same cannot succeed afterwards
	late   bool                             // all that is asked for may have come by then, and must be right
	gc     bool                             // chromogenic gc is needed
	sample bool                             // in make test too
	within time.Duration                    // the program ends; 0 for whenever
}

// A mountCase is a mount of the projects a and b, behind a proxy of its own.
type mountCase struct {
	in      *installation
	a, b    *api
	glance  *Proxy
	nova    *Proxy
	clouds  string // the path
	dir     string // of the mount
	id      string // of the image that is read
	command []string
	name    string // of the image that the command reads or makes
}

// newMountCase makes them. Uploads to a are kept raw, so that bytes are easy to find.
func newMountCase(t testing.TB, a, b *api) *mountCase {
	t.Helper()
	x := &mountCase{a: a, b: b}
	for target, p := range map[string]**Proxy{cloud.glance: &x.glance, strings.TrimSuffix(a.nova, "/v2.1"): &x.nova} {
		proxy, err := NewProxy(target)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Close)
		*p = proxy
	}
	x.clouds = bothClouds(t, x.glance.URL, x.nova.URL+"/v2.1")
	x.in = install(t, x.clouds, "  a: {type: openstack, cloud: a, store: raw}\n  b: {type: openstack, cloud: b, store: qcow2}\n")
	x.dir = x.in.mount(t)
	return x
}

// bothClouds writes the clouds.yaml of a and b, whose services are elsewhere.
func bothClouds(t testing.TB, glance, nova string) string {
	t.Helper()
	text := "clouds:\n"
	for _, user := range []string{"a", "b"} {
		text += fmt.Sprintf("  %s:\n    region_name: RegionOne\n    image_endpoint_override: %s\n    compute_endpoint_override: %s\n"+
			"    auth: {auth_url: %q, username: %s, password: secret, project_name: %s, user_domain_name: Default, project_domain_name: Default}\n",
			user, glance, nova, env(t, "OPENSTACK_KEYSTONE"), user, user)
	}
	path := filepath.Join(t.TempDir(), "clouds.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (x *mountCase) path(parts ...string) string {
	return filepath.Join(append([]string{x.dir}, parts...)...)
}

// play lets a fault strike the command, and checks what follows.
func (x *mountCase) play(t *testing.T, f mountFault, right func(t testing.TB)) {
	t.Helper()
	if f.do != nil {
		f.fault.Do = func() { f.do(t, x) }
	}
	x.proxyOf(f.fault).Inject(f.fault)
	began := time.Now()
	out, err := tryCommand(x.command[0], x.command[1:]...)
	took := time.Since(began)
	t.Logf("%q: %v, %v: %s", x.command, took.Round(time.Millisecond), err, strings.TrimSpace(out))
	if f.within > 0 && took > f.within {
		t.Errorf("it has taken %v to say so, more than %v", took, f.within)
	}
	if f.fault.Met() == 0 {
		t.Errorf("the fault has met nothing: %q", append(x.glance.Log(), x.nova.Log()...))
	}
	if f.errno == 0 || f.late && err == nil {
		if err != nil {
			t.Errorf("it is not mended: %s", x.failures(t))
		} else {
			right(t)
		}
	} else {
		x.explained(t, f, out, err)
	}
	x.glance.Clear()
	x.nova.Clear()
	if f.undo != nil {
		f.undo(t, x)
	}
	if f.gc {
		x.in.run(t, "gc")
	}
	x.nothingHalf(t)
	if f.errno != 0 && !f.gone {
		out, err := tryCommand(x.command[0], x.command[1:]...)
		if err != nil && f.fault.Stall { // what the kernel has read ahead meanwhile hung too, and whoever needed it has failed now
			out, err = tryCommand(x.command[0], x.command[1:]...)
		}
		if err != nil {
			t.Errorf("the same again: %v: %s", err, out)
		} else {
			right(t)
		}
	}
}

// proxyOf is the one before the service that a fault is of.
func (x *mountCase) proxyOf(f *Fault) *Proxy {
	if f.Path == "/action" {
		return x.nova
	}
	return x.glance
}

// explained checks what the program, the mount and explain say of a failure.
func (x *mountCase) explained(t *testing.T, f mountFault, out string, err error) {
	t.Helper()
	if err == nil {
		t.Error("the program is told nothing")
		return
	}
	if want := strings.ReplaceAll(f.errno.Error(), "NFS ", ""); !strings.Contains(strings.ToLower(out), want) {
		t.Errorf("the program does not say %q: %s", want, out)
	}
	var last struct{ Path, Code, Errno, Message string }
	for line := range strings.Lines(x.failures(t)) {
		var one struct{ Path, Code, Errno, Message string }
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if strings.Contains(one.Path, "/"+x.name+".") {
			last = one
		}
	}
	if last.Errno != unix.ErrnoName(f.errno) || !strings.Contains(last.Message, f.cause) || len(last.Message) < 20 {
		t.Errorf("the reason is %+v, want %s with %q", last, unix.ErrnoName(f.errno), f.cause)
		return
	}
	path := x.path(last.Path)
	for _, p := range []string{path, filepath.Dir(path)} {
		value := make([]byte, 4096)
		n, err := unix.Getxattr(p, "user.chromogenic.error", value)
		if err != nil && p != path || err == nil && !strings.HasPrefix(string(value[:n]), last.Code) {
			t.Errorf("the attribute of %s is %q, %v", p, value[:max(0, n)], err)
		}
	}
	if said, err := x.in.try("explain", path); err != nil || !strings.Contains(said, last.Code) || !strings.Contains(said, "remedy") {
		t.Errorf("explain says %v: %s", err, said)
	}
}

func (x *mountCase) failures(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(x.path(".chromogenic", "errors"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// nothingHalf checks that no record, snapshot or file of this mount is left.
func (x *mountCase) nothingHalf(t *testing.T) {
	t.Helper()
	var left []string
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(500 * time.Millisecond) { // a source stays open for a moment
		left = nil
		for _, one := range append(x.a.debris(t), x.b.debris(t)...) {
			if slices.ContainsFunc(x.jobs(t), func(id string) bool { return strings.Contains(one, id) }) {
				left = append(left, one)
			}
		}
		files, _ := filepath.Glob(filepath.Join(x.in.state, "spool", "*"))
		if left = append(left, files...); len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("left behind: %q", left)
			return
		}
	}
}

// jobs are the ids of those that this mount has run.
func (x *mountCase) jobs(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(x.path(".chromogenic", "jobs"))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids
}

// throttled is an answer that asks to come again.
func throttled() http.Header { return http.Header{"Retry-After": {"1"}} }

// restartGlance is with other variables of openstack.sh.
func restartGlance(t testing.TB, more ...string) {
	t.Helper()
	cmd := exec.Command("./openstack.sh", "restart", "glance")
	cmd.Env = append(cloud.env, more...)
	cmd.WaitDelay = 10 * time.Second
	log, err := os.Create(filepath.Join(t.TempDir(), "restart"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Errorf("restart glance: %v: %s", err, text)
	}
}

// password gives the user a another one.
func (x *mountCase) password(t testing.TB, text string) {
	t.Helper()
	admin := login(t, "admin")
	keystone := env(t, "OPENSTACK_KEYSTONE")
	var users struct{ Users []struct{ ID string } }
	admin.call(t, http.MethodGet, keystone+"/users?name=a", nil, &users)
	admin.call(t, http.MethodPatch, keystone+"/users/"+users.Users[0].ID, map[string]any{"user": map[string]any{"password": text}}, nil)
	time.Sleep(revocationTime)
}

// file writes the password of a into the clouds.yaml of the mount.
func (x *mountCase) file(t testing.TB, old, text string) {
	t.Helper()
	enc, err := os.ReadFile(x.clouds)
	if err == nil {
		err = os.WriteFile(x.clouds, []byte(strings.Replace(string(enc), "username: a, password: "+old, "username: a, password: "+text, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// full tells whether all faults are wanted, and not a sample of them.
func full() bool { return os.Getenv("CHROMOGENIC_FULL") != "" }
