package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fetched is how many bytes the mount has read from a provider.
func (s *server) fetched(t testing.TB, site string) float64 {
	t.Helper()
	return s.metric(t, fmt.Sprintf("chromogenic_fetched_bytes_total{provider=%q}", site))
}

// reconfigure gives the configuration another head, and has the mount read it.
func (s *server) reconfigure(t testing.TB, top string) {
	t.Helper()
	text, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	text = append([]byte(top), bytes.TrimPrefix(text, []byte(s.top))...)
	s.top = top
	writeFile(t, s.file, text)
	syscall.Kill(s.pid, syscall.SIGHUP)
}

// TestBandwidth reads at a bounded rate. Every second holds it; a small read among
// large ones comes soon; who waits can be killed; a new configuration sets the rate
// anew for those who wait; and the mount ends under them.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	const rate = 4 * mib // which a busy machine can give with the race detector too
	a := newSite(t, "a")
	file := random(t, filepath.Join(a.images, "x.raw"), 40*mib, 211)
	s := mount(t, config{sites: []site{a}, top: "bwlimit: 4M\n"})
	view := s.images("a", "x.qcow2")
	if _, err := os.Stat(view); err != nil { // it is looked into now
		t.Fatal(err)
	}

	began, before := time.Now(), s.fetched(t, "a")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			f, err := os.Open(view)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if n, err := io.Copy(io.Discard, io.LimitReader(f, 6*mib)); n != 6*mib || err != nil {
				t.Errorf("a reader got %d bytes, %v", n, err)
			}
		})
	}
	readers := make(chan struct{})
	go func() { wg.Wait(); close(readers) }()
	type sample struct {
		at time.Duration
		n  float64
	}
	samples := []sample{{0, before}}
	var slowest time.Duration
	for done := false; !done; {
		select {
		case <-readers:
			done = true
		case <-time.After(50 * time.Millisecond):
		}
		// A sample may be late by what the machine is busy with: the count is of
		// between the two times.
		from := time.Since(began)
		samples = append(samples, sample{from, s.fetched(t, "a")})
		if len(samples)%8 == 0 && !done {
			start := time.Now()
			g, err := os.Open(s.images("a", "x.vmdk"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.ReadAt(make([]byte, 4096), int64(len(samples))*64*kib); err != nil {
				t.Errorf("a small read: %v", err)
			}
			g.Close()
			slowest = max(slowest, time.Since(start))
		}
	}
	whole := time.Since(began)
	mean := (samples[len(samples)-1].n - before) / whole.Seconds()
	busiest := 0.0
	for i, from := range samples {
		for _, to := range samples[i+1:] {
			if d := to.at - from.at; d >= time.Second && d < 1100*time.Millisecond {
				busiest = max(busiest, (to.n-from.n)/d.Seconds())
			}
		}
	}
	t.Logf("of %d B/s: %.3f on the whole (%v), %.3f in the busiest second; the slowest of the small reads took %v",
		rate, mean/rate, whole.Round(time.Millisecond), busiest/rate, slowest.Round(time.Millisecond))
	if mean > rate*1.05 || busiest > rate*1.15 || mean < rate*0.7 {
		t.Errorf("the rate is not held")
	}
	if slowest > 2*time.Second {
		t.Errorf("a small read takes %v", slowest)
	}

	// Who waits for minutes can be killed.
	s.reconfigure(t, "bwlimit: 16k\n")
	eventually(t, "the rate is set", func() bool {
		return s.metrics(t)[`chromogenic_bwlimit_read_bytes_per_second{provider="*"}`] == 16*kib
	})
	cat := command("cat", view)
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	start := time.Now()
	cat.Process.Kill()
	cat.Wait()
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a reader that waits dies after %v", took)
	}

	// Who waits goes on when there is no limit any more.
	out := make(chan error, 1)
	go func() { out <- exec.Command("cmp", file, s.images("a", "x.raw")).Run() }()
	time.Sleep(300 * time.Millisecond)
	s.reconfigure(t, "")
	select {
	case err := <-out:
		if err != nil {
			t.Errorf("what was read slowly, then fast: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the new rate is not that of who waits")
	}
	if s.logged(); strings.Contains(s.logged(), "unmount and mount again") {
		t.Errorf("a change of limits is taken for another:\n%s", s.logged())
	}

	// The end of the mount is not held up.
	s.reconfigure(t, "bwlimit: 1k\n")
	time.Sleep(200 * time.Millisecond)
	cat = command("cat", s.images("a", "x.ova"))
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	start = time.Now()
	syscall.Kill(s.pid, syscall.SIGTERM)
	select {
	case err := <-s.exit:
		s.live = false
		if err != nil {
			t.Errorf("the server ends with %v\n%s", err, s.logged())
		}
	case <-time.After(30 * time.Second):
		t.Error("the server waits for a slow reader")
	}
	cat.Wait()
	t.Logf("the mount ends within %v", time.Since(start).Round(time.Millisecond))
	s.checkClean(t)
}

// eventually waits until what is true.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// TestBandwidthOfACopy copies within the mount, and by a command beside it.
func TestBandwidthOfACopy(t *testing.T) {
	t.Parallel()
	a, b := newSite(t, "a"), newSite(t, "b")
	b.more = ", bwlimit: 4M:off"
	file := random(t, filepath.Join(a.images, "x.raw"), 12*mib, 212)
	s := mount(t, config{sites: []site{a, b}})
	for name, copy := range map[string]func(){
		"cp within":      func() { run(t, "cp", s.images("a", "x.raw"), s.images("b", "cp-within.raw")) },
		"cp from":        func() { run(t, "cp", file, s.images("b", "cp-from.raw")) },
		"chromogenic cp": func() { ok(t, s.file, "cp", "a:images/x", "b:images/command") },
		"chromogenic cp --bwlimit": func() {
			ok(t, s.file, "cp", "--bwlimit", "4M", "a:images/x", filepath.Join(t.TempDir(), "x.raw"))
		},
	} {
		start := time.Now()
		copy()
		took := time.Since(start)
		t.Logf("%s: %v", name, took.Round(time.Millisecond))
		if took < 2900*time.Millisecond || took > 20*time.Second {
			t.Errorf("%s: 12 MiB at 4 MiB/s took %v", name, took)
		}
	}
	for _, n := range names(t, b.images) {
		if digest(t, filepath.Join(b.images, n)) != digest(t, file) {
			t.Errorf("%s is not what was copied", n)
		}
	}
	if r := chromogenic(t, s.file, "cp", "--bwlimit", "fast", "a:images/x", "b:images/y"); r.code != 2 {
		t.Errorf("a rate that is none: exit status %d\n%s", r.code, r.out)
	}
}

// TestReadBudget reads until nothing is left: EDQUOT with its reason, for the mount
// and for commands beside it, and after a restart.
func TestReadBudget(t *testing.T) {
	t.Parallel()
	a, b := newSite(t, "a"), newSite(t, "b")
	a.more = ", read_budget: 8M/month"
	random(t, filepath.Join(a.images, "x.raw"), 20*mib, 213)
	random(t, filepath.Join(a.images, "small.raw"), 3*mib, 214)
	random(t, filepath.Join(b.images, "y.raw"), 20*mib, 215)
	s := mount(t, config{sites: []site{a, b}})
	out := filepath.Join(t.TempDir(), "out.raw")

	// What cannot be afforded does not begin.
	for name, args := range map[string][]string{
		"to a file":   {"a:images/x", out},
		"to the next": {"a:images/x", "b:images/x"},
		"in a plan":   {"-n", "a:images/x", "b:images/x"},
	} {
		r := chromogenic(t, s.file, append([]string{"cp"}, args...)...)
		if r.code != 1 || !strings.Contains(r.out, "is not enough for 20 MiB") || !strings.Contains(r.out, "hint: raise read_budget of a") {
			t.Errorf("%s: exit status %d\n%s", name, r.code, r.out)
		}
	}
	if r := try(t, "cp", s.images("a", "x.raw"), s.images("b", "x.raw")); r.code == 0 || !strings.Contains(r.out, "Disk quota exceeded") {
		t.Errorf("cp within the mount: exit status %d\n%s", r.code, r.out)
	}
	checkBudget := func(least, most int64) {
		t.Helper()
		var status struct {
			Traffic []struct {
				Provider string
				Fetched  int64
				Budget   *struct {
					Bytes, Used int64
					Per         string
					Renewed     time.Time
				} `json:"read_budget"`
			}
		}
		text, err := os.ReadFile(s.path(".chromogenic", "status"))
		if err == nil {
			err = json.Unmarshal(text, &status)
		}
		if err != nil || len(status.Traffic) != 2 || status.Traffic[1].Budget != nil {
			t.Fatalf("status %s, %v", text, err)
		}
		got := status.Traffic[0].Budget
		if got == nil || got.Bytes != 8*mib || got.Per != "month" || got.Used < least || got.Used > most ||
			!got.Renewed.After(time.Now()) || got.Renewed.Day() != 1 {
			t.Errorf("the budget is %+v, want %d to %d used", got, least, most)
		}
		if n := s.metric(t, `chromogenic_read_budget_used_bytes{provider="a"}`); n != float64(got.Used) {
			t.Errorf("the metric says %v, the status %d", n, got.Used)
		}
	}
	checkBudget(0, mib)
	ok(t, s.file, "cp", "a:images/small", filepath.Join(t.TempDir(), "small.raw")) // beside the mount, and counted there
	checkBudget(3*mib, 5*mib)

	// A stray grep -r.
	r := try(t, "grep", "-r", "nothing of the kind", s.images("a"))
	if r.code != 2 || !strings.Contains(r.out, "Disk quota exceeded") {
		t.Errorf("grep -r: exit status %d\n%s", r.code, r.out)
	}
	checkBudget(6*mib, 8*mib)
	buf := make([]byte, 4096)
	n, err := unix.Lgetxattr(s.images("a"), "user.chromogenic.error", buf)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CHR-0008", `provider "a"`, "8.0 MiB a month is used up", "renewed at 20", "hint: raise read_budget of a"} {
		if !strings.Contains(string(buf[:n]), want) {
			t.Errorf("%q does not say %q", buf[:n], want)
		}
	}
	if lines := strings.Count(s.reasons(t), "used up"); lines > 20 {
		t.Errorf("the journal has %d lines of it", lines)
	}
	if names := names(t, s.images("a")); len(names) != 10 {
		t.Errorf("the directory shows %q", names)
	}
	digest(t, s.images("b", "y.raw")) // another provider

	// Neither a restart nor a crash makes it whole again.
	s = s.again(t, s.dir, s.state)
	checkBudget(6*mib, 8*mib)
	syscall.Kill(s.pid, syscall.SIGKILL)
	<-s.exit
	s.live = false
	s = mount(t, s.config)
	checkBudget(6*mib, 8*mib)
	if _, _, err := readThrough(s.images("a", "x.raw")); errno(err) != syscall.EDQUOT {
		t.Errorf("after a restart: %v", err)
	}

	// The owner has the last word: once, or for good.
	ok(t, s.file, "cp", "--over-budget", "a:images/x", out)
	ok(t, s.file, "cp", "--over-budget", "a:images/x", "b:images/x")
	if want := digest(t, filepath.Join(a.images, "x.raw")); digest(t, out) != want || digest(t, filepath.Join(b.images, "x.raw")) != want {
		t.Error("what was copied over the budget is not what was there")
	}
	checkBudget(46*mib, 60*mib)
	text, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.file, bytes.Replace(text, []byte("8M/month"), []byte("1G/month"), 1))
	syscall.Kill(s.pid, syscall.SIGHUP)
	eventually(t, "the budget is raised", func() bool {
		return s.metrics(t)[`chromogenic_read_budget_bytes{provider="a"}`] == gib
	})
	digest(t, s.images("a", "x.raw"))
}
