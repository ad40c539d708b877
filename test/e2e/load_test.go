package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A load is how many read and write at once, and for how long.
type load struct {
	readers, writers int
	long             time.Duration
}

// memory is what the server may take under the load, in bytes, as the README has it:
// the program and what it keeps, what is under way, and as much again for garbage.
func (l load) memory() int64 {
	return 2 * int64(160+l.readers+8*l.writers) * mib
}

// theLoad is a short form; the full one is for CHROMOGENIC_FULL, and any other for
// E2E_LOAD, as READERS:WRITERS:DURATION.
func theLoad(t testing.TB) load {
	t.Helper()
	switch text := os.Getenv("E2E_LOAD"); {
	case text != "":
		part := strings.Split(text, ":")
		if len(part) != 3 {
			t.Fatalf("E2E_LOAD is %q, want READERS:WRITERS:DURATION", text)
		}
		var l load
		var errs [3]error
		l.readers, errs[0] = strconv.Atoi(part[0])
		l.writers, errs[1] = strconv.Atoi(part[1])
		l.long, errs[2] = time.ParseDuration(part[2])
		for _, err := range errs {
			if err != nil {
				t.Fatalf("E2E_LOAD is %q: %v", text, err)
			}
		}
		return l
	case os.Getenv("CHROMOGENIC_FULL") != "":
		return load{1000, 50, 5 * time.Minute}
	case testing.Short():
		return load{20, 5, 3 * time.Second}
	}
	return load{100, 10, 20 * time.Second}
}

// TestLoad has many readers and writers at once on one mount. No byte is wrong, what
// was published is whole, and nothing is left: no file, no descriptor, no goroutine.
// It does not run beside other tests.
func TestLoad(t *testing.T) {
	need(t, "qemu-img", "cp", "dd", "rsync")
	l := theLoad(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	views := loadViews(t, a)
	s := mount(t, config{sites: []site{a, b}, flags: []string{"--allow-delete"}})
	for i := range views {
		views[i].prepare(t, s)
	}
	w := newWriters(t, s, b, views)
	before := s.rested(t)
	t.Logf("%d readers of %d views and %d writers for %v; at rest: %s", l.readers, len(views), l.writers, l.long, before)

	end := time.Now().Add(l.long)
	var all sync.WaitGroup
	r := newReaders(views, end)
	w.end = end
	for i := range l.readers {
		all.Go(func() { r.run(t, uint64(i)) })
	}
	for i := range l.writers {
		all.Go(func() { w.run(t, i) })
	}
	peak := before
	busy := make(chan struct{})
	go func() { all.Wait(); close(busy) }()
	for done := false; !done; {
		select {
		case <-busy:
			done = true
		case <-time.After(time.Second):
			if time.Since(end) > heldUp {
				s.quit(t, "somebody is held up")
			}
			peak = peak.most(s.footprint(t))
		}
	}
	late := time.Since(end)
	t.Logf("readers: %s", r)
	t.Logf("writers: %s", w)
	t.Logf("peak: %s; all have ended %v after the time", peak, late.Round(time.Millisecond))
	if bound := l.memory(); peak.rss > bound && !raceBuilt {
		t.Errorf("the RSS is %d bytes, by design it is %d at most", peak.rss, bound)
	}
	if r.reads.Load() == 0 || w.published.Load() == 0 {
		t.Error("nobody did anything")
	}

	s.settled(t)
	w.check(t)
	t.Logf("at rest again: %s", s.restedAgain(t, before))
	for name, want := range map[string]float64{"chromogenic_jobs_running": 0, "chromogenic_spool_bytes": 0, `chromogenic_jobs{state="interrupted"}`: 0} {
		if got := s.metric(t, name); got != want {
			t.Errorf("%s is %v", name, got)
		}
	}
	noTemporaries(t, b)
	s.stop(t)
	if log := s.logged(); strings.Contains(log, "level=ERROR") {
		t.Errorf("the log has errors:\n%s", log)
	}
}

// heldUp is how long the last read or copy may take.
const heldUp = 3 * time.Minute

// quit ends a server that hangs, and shows where.
func (s *server) quit(t testing.TB, why string) {
	t.Helper()
	syscall.Kill(s.pid, syscall.SIGQUIT)
	<-s.exit
	s.live = false
	exec.Command("umount", "-l", s.dir).Run()
	log, _ := os.ReadFile(s.log)
	t.Fatalf("%s; the server was doing this:\n%s", why, log)
}

// A footprint is what a server takes.
type footprint struct {
	fds, goroutines int
	rss, heap       int64 // bytes, of the process and of live objects and garbage
}

func (f footprint) String() string {
	return fmt.Sprintf("%d descriptors, %d goroutines, RSS %.1f MiB, heap %.1f MiB", f.fds, f.goroutines, float64(f.rss)/mib, float64(f.heap)/mib)
}

// most is the larger of each number.
func (f footprint) most(g footprint) footprint {
	return footprint{max(f.fds, g.fds), max(f.goroutines, g.goroutines), max(f.rss, g.rss), max(f.heap, g.heap)}
}

// footprint is that of now.
func (s *server) footprint(t testing.TB) footprint {
	t.Helper()
	m := s.metrics(t)
	for _, name := range []string{"process_open_fds", "go_goroutines", "process_resident_memory_bytes", "go_memstats_heap_alloc_bytes"} {
		if _, ok := m[name]; !ok {
			t.Fatalf("there is no metric %s", name)
		}
	}
	return footprint{
		int(m["process_open_fds"]), int(m["go_goroutines"]),
		int64(m["process_resident_memory_bytes"]), int64(m["go_memstats_heap_alloc_bytes"]),
	}
}

// What comes and goes by itself at rest: connections of the metrics' own files, and
// the readers of FUSE's device.
const (
	spareFDs = 4
	spareGos = 16
)

// rested is the footprint when nothing is going on yet. What lingers goes after five
// seconds.
func (s *server) rested(t testing.TB) footprint {
	t.Helper()
	time.Sleep(6 * time.Second)
	return s.footprint(t)
}

// restedAgain is that when nothing is going on any more: it must come to be what it
// was before.
func (s *server) restedAgain(t testing.TB, before footprint) footprint {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Second) {
		f := s.footprint(t)
		if f.fds <= before.fds+spareFDs && f.goroutines <= before.goroutines+spareGos {
			return f
		}
		if time.Now().After(end) {
			t.Errorf("something leaks: %s, before %s", f, before)
			return f
		}
	}
}

// A loadView is a file of the mount and what it has to say.
type loadView struct {
	name, format string
	disk         string // as raw bytes
	path         string // in the mount
	want         *os.File
	size         int64
}

// loadViews fills a provider with disks in several containers.
func loadViews(t testing.TB, a site) []loadView {
	t.Helper()
	dir := t.TempDir()
	disks := []plainDisk{
		{"gpt", gptExt4(t, 221)},
		{"dense", random(t, filepath.Join(dir, "dense"), 9*mib+512, 222)},
		{"islands", islands(t, filepath.Join(dir, "islands"), 3*gib)},
	}
	kinds := containers()
	all := serve(t, a, disks[:1], []container{kinds[0], kinds[2], kinds[5], kinds[6]})
	all = append(all, serve(t, a, disks[1:2], []container{kinds[0], kinds[1]})...)
	all = append(all, serve(t, a, disks[2:], []container{kinds[0]})...)
	var views []loadView
	for _, v := range all {
		for _, f := range formats() {
			views = append(views, loadView{name: v.name, format: f, disk: v.disk.path})
		}
	}
	return views
}

// prepare finds out what the view has to say: the bytes of the disk itself where it
// is raw, else those of a copy that qemu-img compares with the disk.
func (v *loadView) prepare(t testing.TB, s *server) {
	t.Helper()
	v.path = s.images("a", v.name+"."+v.format)
	file := v.disk
	if v.format != "raw" {
		file = filepath.Join(t.TempDir(), v.name+"."+v.format)
		run(t, "cp", "--sparse=always", v.path, file)
		same(t, v.disk, file, v.format)
	}
	var err error
	if v.want, err = os.Open(file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.want.Close() })
	info, err := v.want.Stat()
	if err != nil {
		t.Fatal(err)
	}
	v.size = info.Size()
}
