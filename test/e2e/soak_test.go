package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// soakTime is half an hour in make test-full, and a quarter of a minute elsewhere,
// in which nothing is told of growth.
func soakTime(t testing.TB) time.Duration {
	t.Helper()
	text := os.Getenv("CHROMOGENIC_SOAK")
	if text == "" {
		return 15 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second {
		t.Fatalf("CHROMOGENIC_SOAK is %q, want a duration", text)
	}
	return d
}

// growthTime is how long a soak must be for its memory to tell of growth.
const growthTime = 5 * time.Minute

// What a soak may take. Memory is the design's bound for this load: caches, maps and
// the program itself (see Memory in the README), and as much again for garbage.
const (
	soakRSS     = 512 * mib
	lingerFDs   = 32       // of what was closed a moment ago: 16 images, each with its folder
	growthRSS   = 24 * mib // beside a tenth
	stateOfEach = 16 * kib // that a job or a version of an image may take in the state
)

// TestSoak has one mount live with all that goes on in a long life: backups, reads,
// copies, captures, metadata, images that change and vanish, hangups, and other mounts
// of the same folders that come and go. No byte is wrong, and what the server takes
// does not grow. It does not run beside other tests.
func TestSoak(t *testing.T) {
	need(t, "qemu-img", "rsync", "ls", "cp", "setfattr")
	long := soakTime(t)
	k := newSoak(t, long)
	began := time.Now()
	var all sync.WaitGroup
	for _, a := range k.activities() {
		all.Go(func() { k.every(a) })
	}
	table := k.watch(began, long)
	all.Wait()

	k.s.settled(t)
	table = append(table, k.sample(began, k.s.restedAgain(t, k.rest)))
	t.Logf("soak of %v, with race detector: %v\n%s\n%s", long, raceBuilt, tableOf(table), k)
	if !t.Failed() {
		k.judge(t, table, long)
	}
	noTemporaries(t, k.b)
	k.s.stop(t)
	if log, _ := os.ReadFile(k.s.log); strings.Contains(string(log), "level=ERROR") {
		t.Errorf("the log has errors:\n%s", k.s.logged())
	}
}

// A soak is a mount and what goes on there.
type soak struct {
	t     *testing.T
	s     *server
	a, b  site
	views []loadView // that never change
	rest  footprint  // before anything went on
	end   time.Time
	dir   string // of what comes from outside and goes there

	mu   sync.Mutex
	did  map[string]int
	grew int // jobs and versions, which the state remembers
}

func newSoak(t *testing.T, long time.Duration) *soak {
	k := &soak{t: t, a: newSite(t, "a"), b: newSite(t, "b"), dir: t.TempDir(), did: map[string]int{}}
	kinds := containers()
	for _, v := range serve(t, k.a, []plainDisk{{"web", gptExt4(t, 231)}}, []container{kinds[0], kinds[2], kinds[5], kinds[6]}) {
		for _, f := range formats() {
			k.views = append(k.views, loadView{name: v.name, format: f, disk: v.disk.path})
		}
	}
	random(t, filepath.Join(k.a.instances, "vm.raw"), 4*mib, 232)
	random(t, filepath.Join(k.b.images, "meta.raw"), mib, 233)
	k.s = mount(t, config{sites: []site{k.a, k.b}, flags: []string{"--allow-delete", "--allow-meta"}})
	for i := range k.views {
		k.views[i].prepare(t, k.s)
	}
	k.rest = k.s.rested(t)
	k.end = time.Now().Add(long)
	return k
}

// An activity is done again and again.
type activity struct {
	name  string
	pause time.Duration
	do    func(round int)
}

// every goes on with an activity until the soak is over. A short soak has shorter
// pauses, so that everything comes twice.
func (k *soak) every(a activity) {
	pause := min(a.pause, time.Until(k.end)/4)
	for round := 0; time.Now().Before(k.end) && !k.t.Failed(); round++ {
		a.do(round)
		k.mu.Lock()
		k.did[a.name]++
		k.mu.Unlock()
		time.Sleep(min(pause, max(0, time.Until(k.end))))
	}
}

// grow counts what the state may remember.
func (k *soak) grow(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.grew += n
}

// String tells what was done.
func (k *soak) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(k.did)) {
		out = append(out, fmt.Sprintf("%s %d times", name, k.did[name]))
	}
	return strings.Join(out, ", ")
}

// A soakRow is what the server took in a part of the soak: the median of its memory,
// and the least of what comes and goes.
type soakRow struct {
	at           time.Duration
	rss          int64 // median
	peak         int64
	least        footprint
	state, spool int64 // bytes
}

// watch looks at the server until the end, and gives a row a minute, or thirty.
func (k *soak) watch(began time.Time, long time.Duration) []soakRow {
	row := max(long/30, min(time.Minute, long/6))
	var table []soakRow
	var seen []footprint
	for next := began.Add(row); time.Now().Before(k.end) && !k.t.Failed(); {
		time.Sleep(row / 20)
		seen = append(seen, k.s.footprint(k.t))
		if time.Now().After(next) {
			table = append(table, k.sample(began, seen...))
			seen, next = nil, next.Add(row)
		}
	}
	return table
}

// sample makes a row.
func (k *soak) sample(began time.Time, seen ...footprint) soakRow {
	r := soakRow{at: time.Since(began), least: seen[0], spool: diskUsage(filepath.Join(k.s.state, "spool"))}
	var rss []int64
	for _, f := range seen {
		rss = append(rss, f.rss)
		r.least.fds, r.least.goroutines = min(r.least.fds, f.fds), min(r.least.goroutines, f.goroutines)
		r.least.heap = min(r.least.heap, f.heap)
	}
	slices.Sort(rss)
	r.rss, r.peak = rss[len(rss)/2], rss[len(rss)-1]
	if info, err := os.Stat(filepath.Join(k.s.state, "state.db")); err == nil {
		r.state = info.Size()
	}
	return r
}

// tableOf shows the rows.
func tableOf(rows []soakRow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%8s %12s %10s %10s %7s %11s %14s %10s\n", "at", "RSS (median)", "RSS (peak)", "heap", "files", "goroutines", "state.db", "spool")
	m := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/mib) }
	for _, r := range rows {
		fmt.Fprintf(&b, "%8s %12s %10s %10s %7d %11d %14s %10s\n", r.at.Round(time.Second), m(r.rss), m(r.peak), m(r.least.heap), r.least.fds, r.least.goroutines, m(r.state), m(r.spool))
	}
	return b.String()
}

// judge holds the last sixth against the second one: of half an hour, the last five
// minutes against those after the first five. The last row is of the rest afterwards.
func (k *soak) judge(t *testing.T, table []soakRow, long time.Duration) {
	t.Helper()
	n := len(table) - 1
	if n < 6 {
		t.Fatalf("only %d rows", n)
	}
	median := func(rows []soakRow) int64 {
		var all []int64
		for _, r := range rows {
			all = append(all, r.rss)
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	least := func(rows []soakRow) footprint {
		l := rows[0].least
		for _, r := range rows {
			l.fds, l.goroutines = min(l.fds, r.least.fds), min(l.goroutines, r.least.goroutines)
		}
		return l
	}
	first, last := table[0], table[n]
	if bound := first.state + mib + int64(k.grew)*stateOfEach; last.state > bound {
		t.Errorf("state.db has grown from %d to %d bytes, with %d jobs and versions", first.state, last.state, k.grew)
	}
	if last.spool != 0 {
		t.Errorf("the spool still takes %d bytes", last.spool)
	}
	if long < growthTime {
		return
	}
	early, late := table[n/6:n/3], table[n-n/6:n]
	if was, is := least(early), least(late); is.fds > was.fds+lingerFDs || is.goroutines > was.goroutines+spareGos {
		t.Errorf("descriptors or goroutines grow: %s, later %s", was, is)
	}
	if raceBuilt {
		return // the race detector's own memory grows
	}
	if a, b := median(early), median(late); b > a+a/10+growthRSS {
		t.Errorf("memory grows: the median of the RSS is %d bytes, later %d", a, b)
	}
	for _, r := range table {
		if r.peak > soakRSS {
			t.Errorf("after %v the RSS is %d bytes, more than %d", r.at.Round(time.Second), r.peak, int64(soakRSS))
		}
	}
}
