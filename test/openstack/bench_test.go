package openstack

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// benchPairs is how often both sides of a comparison run.
const benchPairs = 5

// benchSize is the size of the images that are read and sent, in bytes.
func benchSize(t testing.TB) int64 {
	t.Helper()
	if os.Getenv("CHROMOGENIC_BENCH") == "" {
		t.Skip("for make bench")
	}
	need(t)
	text := os.Getenv("CHROMOGENIC_BENCH_MIB")
	if text == "" {
		return 1 << 30
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 8 {
		t.Fatalf("CHROMOGENIC_BENCH_MIB=%q is no size in MiB, at least 8", text)
	}
	return n << 20
}

// randomFile makes a file without a hole.
func randomFile(t testing.TB, name string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	random, p := rand.NewChaCha8([32]byte{1}), make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(p)) {
		random.Read(p)
		if _, err := f.Write(p[:min(int64(len(p)), size-off)]); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// A side is one of two that are compared.
type side struct {
	name  string
	run   func()
	after func() // not measured; nil for nothing
}

// once measures it, in seconds.
func (s side) once() float64 {
	began := time.Now()
	s.run()
	took := time.Since(began).Seconds()
	if s.after != nil {
		s.after()
	}
	return took
}

// compare measures both in turns, so that a busy machine is unfair to both, prints a
// row, and gives the median of how fast ours is: 1 is as fast as theirs.
func compare(t testing.TB, size int64, ours, theirs side, wanted float64) {
	t.Helper()
	ours.once() // the first run fills caches
	theirs.once()
	var a, b, ratios []float64
	for range benchPairs {
		x, y := ours.once(), theirs.once()
		a, b, ratios = append(a, x), append(b, y), append(ratios, y/x)
	}
	for _, all := range [][]float64{a, b, ratios} {
		slices.Sort(all)
	}
	middle, mib := benchPairs/2, float64(size)/(1<<20)
	t.Logf("%-46s %7.2f s (%4.0f MiB/s)   %-28s %7.2f s (%4.0f MiB/s)   %.2f (%.2f to %.2f), wanted %.1f",
		ours.name, a[middle], mib/a[middle], theirs.name, b[middle], mib/b[middle], ratios[middle], ratios[0], ratios[benchPairs-1], wanted)
	if ratios[middle] < wanted {
		t.Errorf("%s has %.2f of the speed of %s, wanted %.1f", ours.name, ratios[middle], theirs.name, wanted)
	}
}

// A benchMount is a mount in the foreground, whose memory can be looked at.
type benchMount struct {
	dir string
	pid int
}

// foreground mounts the installation until the end of the test.
func (in *installation) foreground(t testing.TB, args ...string) *benchMount {
	t.Helper()
	m := &benchMount{dir: t.TempDir()}
	cmd := exec.Command(in.path, append([]string{"mount", m.dir}, args...)...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Env, cmd.Stdout, cmd.Stderr = in.env, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.pid = cmd.Process.Pid
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the mount has ended: %v: %s", err, text)
		}
		if exec.Command("mountpoint", "-q", m.dir).Run() == nil {
			t.Errorf("%s is mounted still", m.dir)
			exec.Command("umount", "-l", m.dir).Run()
		}
	})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(m.dir, ".chromogenic", "status")); err == nil {
			return m
		}
		if time.Now().After(end) {
			t.Fatal("there is no mount")
		}
	}
}

// forget begins to look for the most memory anew.
func (m *benchMount) forget(t testing.TB) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", m.pid), []byte("5"), 0); err != nil {
		t.Logf("the peak of memory is that since the start: %v", err)
	}
}

// peak is the most memory that the mount has taken, in bytes.
func (m *benchMount) peak(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// metric is a number of the mount.
func (m *benchMount) metric(t testing.TB, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.dir, ".chromogenic", "metrics"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n"+name+" ")
	n, err := strconv.ParseFloat(strings.Fields(rest + " x")[0], 64)
	if !ok || err != nil {
		t.Fatalf("no metric %s in %s", name, text)
	}
	return int64(n)
}

// dropped reads a file as a program that needs all of it, and leaves nothing in the
// kernel's page cache.
func dropped(t testing.TB, path string, flags ...string) {
	sh(t, "dd", append([]string{"if=" + path, "of=/dev/null", "bs=1M", "status=none"}, flags...)...)
}

// uncached has the kernel drop its pages of a file.
func uncached(t testing.TB, path string) {
	sh(t, "dd", "of=/dev/null", "if="+path, "iflag=nocache", "count=0", "status=none")
}

// fetch downloads an image with curl.
func (a *api) fetch(t testing.TB, glance, id string) {
	sh(t, "curl", "-sSf", "-o", "/dev/null", "-H", "X-Auth-Token: "+a.token, glance+"/v2/images/"+id+"/file")
}

const (
	readWanted = 0.9 // of the speed of curl
	farWanted  = 0.8 // the same with a round trip of farTrip more
	farTrip    = 20 * time.Millisecond
	lineRate   = 250_000_000 // bytes a second: then it is not the processors that bound the rate
	sendWanted = 0.9         // of the speed of openstack image create
	sendMost   = 128 << 20   // bytes of memory
)

// TestBenchRead prints how fast a whole image is read through the mount, and how fast
// curl gets the same bytes from Glance; then both with a longer way, of any rate and of that
// of a line.
func TestBenchRead(t *testing.T) {
	size := benchSize(t)
	a := login(t, "a")
	a.clear(t)
	ids := map[string]string{}
	raw := randomFile(t, "disk.raw", size)
	qcow2 := filepath.Join(t.TempDir(), "disk.qcow2")
	sh(t, "qemu-img", "convert", "-O", "qcow2", raw, qcow2)
	for format, path := range map[string]string{"raw": raw, "qcow2": qcow2} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		ids[format] = a.put(t, "disk-"+format, format, f, nil)
		f.Close()
	}
	far, err := NewDelay(cloud.glance, farTrip)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	line, err := NewDelay(cloud.glance, farTrip)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	line.Rate = lineRate
	for _, way := range []struct {
		name, glance string
		wanted       float64
	}{{"", cloud.glance, readWanted}, {fmt.Sprintf(", %v away", farTrip), far.URL, farWanted}, {fmt.Sprintf(", %v away, 2 Gbit/s", farTrip), line.URL, farWanted}} {
		in := install(t, cloudsFile(t, "a", way.glance, ""), "  a: {type: openstack, cloud: a}\n")
		m := in.foreground(t)
		for _, kind := range []struct{ stored, view, past string }{{"raw", "raw", ""}, {"raw", "raw", "iflag=direct"}, {"qcow2", "qcow2", ""}, {"qcow2", "raw", ""}, {"qcow2", "raw", "iflag=direct"}} {
			var flags []string
			name := kind.view + " of " + kind.stored
			if kind.past != "" { // which goes past the page cache, as containers do by themselves
				flags = append(flags, kind.past)
				name += ", O_DIRECT"
			}
			path := filepath.Join(m.dir, "a", "images", "disk-"+kind.stored+"."+kind.view)
			m.forget(t)
			ours := side{name + way.name, func() { dropped(t, path, flags...) }, func() { uncached(t, path) }}
			theirs := side{"curl of " + kind.stored, func() { a.fetch(t, way.glance, ids[kind.stored]) }, nil}
			before := m.metric(t, `chromogenic_fetched_bytes_total{provider="a"}`)
			compare(t, size, ours, theirs, way.wanted)
			fetched := m.metric(t, `chromogenic_fetched_bytes_total{provider="a"}`) - before
			t.Logf("%46s memory %d MiB at most, fetched %.2f times", "", m.peak(t)>>20, float64(fetched)/float64(size*(benchPairs+1)))
			if kind.stored == kind.view && kind.past == "" { // who reads through the mount has it verified
				verified := side{"curl | sha512sum", func() {
					sh(t, "sh", "-c", `curl -sSf -H "X-Auth-Token: $1" "$2" | sha512sum`, "sh", a.token, way.glance+"/v2/images/"+ids[kind.stored]+"/file")
				}, nil}
				compare(t, size, ours, verified, way.wanted)
			}
		}
	}
}

// A sending is what a run of ours has taken.
type sending struct {
	rss     int64 // bytes, at most
	scratch int64 // bytes
}

// TestBenchSend prints how fast a file is uploaded by chromogenic cp and by cp into the
// mount, and how fast by openstack image create; what memory and scratch space it takes.
func TestBenchSend(t *testing.T) {
	size := benchSize(t)
	a := login(t, "a")
	a.clear(t)
	raw := randomFile(t, "disk.raw", size)
	folder := t.TempDir()
	sh(t, "cp", raw, filepath.Join(folder, "disk.raw"))
	clear := func() { a.clear(t) }
	create := side{"openstack image create", func() {
		sh(t, "openstack", "--os-cloud", "a", "image", "create", "--disk-format", "raw", "--container-format", "bare", "--file", raw, "disk")
	}, clear}
	put := side{"curl", func() { a.upload(t, raw) }, clear}
	for _, store := range []string{"raw", "qcow2"} {
		// Its state and TMPDIR have no room for any of the image.
		room := t.TempDir()
		sh(t, "mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", room)
		t.Cleanup(func() { sh(t, "umount", room) })
		in := install(t, cloud.clouds, "  a: {type: openstack, cloud: a, store: "+store+"}\n")
		in.env = append(in.env, "TMPDIR="+room, "CHROMOGENIC_STATE_DIR="+filepath.Join(room, "state"))
		var s sending
		cp := side{"chromogenic cp, kept as " + store, func() { s.measure(t, in, "cp", "--json", raw, "a:images/disk") }, clear}
		compare(t, size, cp, create, sendWanted)
		s.judge(t)
		if store == "raw" {
			compare(t, size, cp, put, 0) // without the start of a program of Python's
		}
	}
	for _, store := range []string{"raw", "qcow2"} {
		in := install(t, cloud.clouds, "  a: {type: openstack, cloud: a, store: "+store+"}\n  folder: {type: local, images: "+folder+"}\n")
		m := in.foreground(t)
		for _, from := range []struct {
			name, path string
			wanted     float64
		}{
			{"cp within the mount", filepath.Join(m.dir, "folder", "images", "disk.raw"), sendWanted},
			{"cp into the mount", raw, 0}, // which is written to the spool first: only when it is closed is it known to be whole
		} {
			before := m.metric(t, "chromogenic_spooled_bytes_total")
			m.forget(t)
			cp := side{from.name + ", kept as " + store, func() { sh(t, "cp", from.path, filepath.Join(m.dir, "a", "images", "disk.raw")) }, func() {
				clear()
				in.run(t, "refresh")
			}}
			compare(t, size, cp, create, from.wanted)
			s := sending{rss: m.peak(t), scratch: (m.metric(t, "chromogenic_spooled_bytes_total") - before) / (benchPairs + 1)}
			if from.path == raw {
				t.Logf("%46s memory %d MiB at most, scratch space %d bytes for each", "", s.rss>>20, s.scratch) // what comes from outside is kept until close
				continue
			}
			s.judge(t)
		}
	}
}

// upload sends a file with curl.
func (a *api) upload(t testing.TB, path string) {
	t.Helper()
	var r imageRecord
	a.call(t, "POST", "/images", map[string]any{"name": "disk", "disk_format": "raw", "container_format": "bare"}, &r)
	sh(t, "curl", "-sSf", "-o", "/dev/null", "-X", "PUT", "-T", path, "-H", "Expect:", "-H", "X-Auth-Token: "+a.token,
		"-H", "Content-Type: application/octet-stream", cloud.glance+"/v2/images/"+r.text("id")+"/file")
}

// measure runs a command of ours that prints its record.
func (s *sending) measure(t testing.TB, in *installation, args ...string) {
	t.Helper()
	cmd := exec.Command(in.path, args...)
	cmd.Env = in.env
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	var record struct{ Scratch int64 }
	if err == nil {
		err = json.Unmarshal(out, &record)
	}
	if err != nil {
		t.Fatalf("%q: %v: %s%s", args, err, out, errors.String())
	}
	if use, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.rss = max(s.rss, use.Maxrss<<10)
	}
	s.scratch = max(s.scratch, record.Scratch)
}

// judge prints what it has taken, and holds it against what was wanted.
func (s sending) judge(t testing.TB) {
	t.Helper()
	t.Logf("%46s memory %d MiB at most, scratch space %d bytes", "", s.rss>>20, s.scratch)
	if s.rss > sendMost || s.scratch > 0 {
		t.Errorf("%d bytes of memory, wanted %d; %d of scratch space", s.rss, int64(sendMost), s.scratch)
	}
}

// TestBenchFirst prints what the first MiB of the raw view of a large qcow2 costs, in a
// mount that has never seen the image, and what the same costs then.
func TestBenchFirst(t *testing.T) {
	benchSize(t)
	a := login(t, "a")
	a.clear(t)
	path := filepath.Join(t.TempDir(), "big.qcow2")
	sh(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "8G")
	for i := range 16 { // 128 MiB in each of the areas that a table maps
		sh(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -q -P %d %dM 128M", i+1, i*512), path)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a.put(t, "big", "qcow2", f, nil)
	for _, trip := range []time.Duration{0, farTrip} {
		far, err := NewDelay(cloud.glance, trip)
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		proxy, err := NewProxy(far.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer proxy.Close()
		in := install(t, cloudsFile(t, "a", proxy.URL, ""), "  a: {type: openstack, cloud: a}\n")
		for _, when := range []string{"never seen before", "seen by an earlier mount"} {
			t.Run(when, func(t *testing.T) {
				m := in.mount(t)
				sh(t, "ls", filepath.Join(m, "a", "images"))
				proxy.Clear()
				began := time.Now()
				sh(t, "head", "-c", "1048576", filepath.Join(m, "a", "images", "big.raw"))
				t.Logf("first MiB of 8 GiB, %v away, %-26s %7.0f ms, %6.2f MiB in %d requests", trip, when+":",
					float64(time.Since(began).Microseconds())/1000, float64(proxy.Sent.Load())/(1<<20), proxy.Requests.Load())
			})
		}
	}
}
