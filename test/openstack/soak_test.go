package openstack

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"chromogenic/disk/disktest"
)

// soakTime is some minutes in make test-full, and little elsewhere.
func soakTime() time.Duration {
	if full() {
		return 6 * time.Minute
	}
	return 8 * time.Second
}

// soakSeed is that of CHROMOGENIC_SEED, to see again what was seen, or another one.
func soakSeed(t testing.TB) uint64 {
	t.Helper()
	text := os.Getenv("CHROMOGENIC_SEED")
	if text == "" {
		return rand.Uint64()
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("CHROMOGENIC_SEED=%q is no number", text)
	}
	return seed
}

// randomFault is one of a network or a service that has a bad day.
func randomFault(r *rand.Rand, size int) *Fault {
	f := &Fault{Times: 1 + r.IntN(3), Skip: r.IntN(3), After: int64(r.IntN(size))}
	switch r.IntN(4) {
	case 0:
		f.Method, f.Path = http.MethodGet, "/file"
	case 1:
		f.Method, f.Path = http.MethodPut, "/file"
	case 2:
		f.Method = http.MethodGet
	}
	switch r.IntN(6) {
	case 0:
		f.Status, f.Header = http.StatusTooManyRequests, throttled()
	case 1:
		f.Status = http.StatusServiceUnavailable
	case 2:
		f.Stall, f.For = true, time.Duration(r.IntN(1500))*time.Millisecond
	case 3:
		f.Cut = f.Method == http.MethodGet
	case 4:
		f.Status = http.StatusUnauthorized
	}
	return f
}

// soakErrnos are what a program may be told of such a day.
func soakErrnos() []string {
	return []string{"No route to host", "Connection timed out", "Permission denied", "Device or resource busy", "Stale file handle"}
}

// TestSoak copies images between two projects, by several programs, while requests fail
// at random. Each copy is right, or it is not there and its program knows why. In the
// end nothing is left, and the mount takes no more than before.
func TestSoak(t *testing.T) {
	a, b := login(t, "a"), login(t, "b")
	a.clear(t)
	b.clear(t)
	seed := soakSeed(t)
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("CHROMOGENIC_SEED=%d", seed)
	proxy, err := NewProxy(cloud.glance)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	in := install(t, bothClouds(t, proxy.URL, a.nova), "  a: {type: openstack, cloud: a, store: raw}\n  b: {type: openstack, cloud: b, store: qcow2}\n")
	m := in.foreground(t, "--allow-delete")
	size := 12 << 20
	img := disktest.Pattern(int64(size), func(b int64) bool { return b%7 != 3 })
	want := filepath.Join(t.TempDir(), "want.raw")
	p, err := disktest.Read(img)
	if err == nil {
		err = os.WriteFile(want, p, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	qcow2 := filepath.Join(t.TempDir(), "want.qcow2")
	sh(t, "qemu-img", "convert", "-O", "qcow2", want, qcow2)
	q, err := os.ReadFile(qcow2)
	if err != nil {
		t.Fatal(err)
	}
	a.put(t, "one", "raw", strings.NewReader(string(p)), nil)
	b.put(t, "two", "qcow2", strings.NewReader(string(q)), nil)
	sources := []string{"a/images/one.raw", "a/images/one.qcow2", "b/images/two.qcow2", "b/images/two.raw"}
	for _, s := range sources { // what is known of an image is asked once
		sh(t, "dd", "if="+filepath.Join(m.dir, s), "of=/dev/null", "bs=64k", "count=1", "status=none")
	}
	before := m.rested(t)
	done, failed := 0, map[string]int{}
	faults := 0
	for end := time.Now().Add(soakTime()); time.Now().Before(end) && !t.Failed(); done++ {
		src := sources[r.IntN(len(sources))]
		to := map[byte]string{'a': "b", 'b': "a"}[src[0]]
		project := map[string]*api{"a": a, "b": b}[to]
		name := fmt.Sprint("copy", done)
		dst := filepath.Join(m.dir, to, "images.verbatim", name+filepath.Ext(src))
		var put []*Fault
		for range 1 + r.IntN(3) {
			put = append(put, proxy.Inject(randomFault(r, size)))
		}
		from := filepath.Join(m.dir, src)
		program := [][]string{
			{"cp", from, dst},
			{"dd", "if=" + from, "of=" + dst, "bs=1M", "status=none"},
			{"rsync", "-a", "--inplace", from, dst},
			{"env", "CHROMOGENIC_CONFIG=" + in.config, in.path, "cp", strings.Replace(src, "/images/", ":images/", 1), to + ":images/" + name},
		}[r.IntN(4)]
		out, err := tryCommand(program[0], program[1:]...)
		for _, f := range put {
			faults += f.Met()
		}
		proxy.Clear()
		if err != nil {
			why := ""
			for _, text := range soakErrnos() {
				if strings.Contains(out, text) {
					why = text
				}
			}
			if program[0] == "env" && strings.Contains(out, "chromogenic: ") {
				why = "chromogenic cp"
			}
			if why == "" {
				t.Errorf("%q: %v: %s", program, err, out)
			}
			failed[why]++
			m.absent(t, project, name)
			continue
		}
		file := filepath.Join(t.TempDir(), "copied")
		project.save(t, name, file)
		sh(t, "qemu-img", "compare", "-q", "-f", "raw", "-F", map[string]string{"a": "raw", "b": "qcow2"}[to], want, file)
		os.Remove(file)
		sh(t, "rm", dst)
	}
	t.Logf("%d copies with %d faults; not there in the end, and told so: %v", done, faults, failed)
	if faults < done/4 {
		t.Errorf("%d faults alone have met %d copies", faults, done)
	}
	in.run(t, "gc")
	after := m.restedAgain(t, before)
	t.Logf("descriptors and goroutines: %v before, %v after", before, after)
	if na, nb := len(a.images(t)), len(b.images(t)); na != 1 || nb != 1 {
		t.Errorf("there are %d and %d images: %v %v", na, nb, a.images(t), b.images(t))
	}
	if files, _ := filepath.Glob(filepath.Join(in.state, "spool", "*")); len(files) > 0 {
		t.Errorf("left in the spool: %q", files)
	}
}

// absent fails the test if a project has an image of the name that is not marked as
// unfinished.
func (m *benchMount) absent(t testing.TB, project *api, name string) {
	t.Helper()
	for _, r := range project.images(t) {
		if r.text("name") == name && r.text("chromogenic_state") == "" {
			t.Errorf("a copy that has failed is there: %v", r)
		}
	}
	for _, dir := range []string{"a", "b"} {
		if _, err := os.Stat(filepath.Join(m.dir, dir, "images", name+".raw")); err == nil {
			t.Errorf("the mount shows %s of %s, which has failed", name, dir)
		}
	}
}

// save downloads an image by its name, with curl.
func (a *api) save(t testing.TB, name, file string) {
	t.Helper()
	for _, r := range a.images(t) {
		if r.text("name") == name && r.text("status") == "active" && r.text("chromogenic_state") == "" {
			sh(t, "curl", "-sSf", "-o", file, "-H", "X-Auth-Token: "+a.token, cloud.glance+"/v2/images/"+r.text("id")+"/file")
			return
		}
	}
	t.Fatalf("there is no image %q in %v", name, a.images(t))
}

// A footprint is what the mount takes that can leak.
type footprint struct{ descriptors, goroutines int64 }

func (m *benchMount) footprint(t testing.TB) footprint {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.pid))
	if err != nil {
		t.Fatal(err)
	}
	return footprint{int64(len(open)), m.metric(t, "go_goroutines")}
}

// rested is the footprint at rest: what lingers goes after five seconds, and idle
// connections after half a minute.
func (m *benchMount) rested(t testing.TB) footprint {
	time.Sleep(6 * time.Second)
	return m.footprint(t)
}

// restedAgain is that when nothing goes on any more, which must be what it was before, but
// for what comes and goes by itself.
func (m *benchMount) restedAgain(t testing.TB, before footprint) footprint {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		f := m.footprint(t)
		if f.descriptors <= before.descriptors+4 && f.goroutines <= before.goroutines+16 {
			return f
		}
		if time.Now().After(end) {
			t.Errorf("something leaks: %v, before %v", f, before)
			return f
		}
	}
}
