package pipeline

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
	"chromogenic/providers/local"
)

// remote is a folder that passes for a cloud: its blocks are cached.
type remote struct{ *local.Provider }

func (remote) ProbeOnList() bool { return false }

// far makes a remote of the first site.
func far(o *Options) { o.Sites[0].Provider = remote{o.Sites[0].Provider.(*local.Provider)} }

// limited sets the limits of sites in their order.
func limited(all ...Limits) func(*Options) {
	return func(o *Options) {
		for i, l := range all {
			o.Sites[i].Limits = l
		}
	}
}

func daily(n int64) *Budget { return &Budget{Bytes: n, Per: PerDay} }

func (b *bench) traffic(site string) Traffic {
	b.t.Helper()
	for _, t := range b.Traffic() {
		if t.Provider == site {
			return t
		}
	}
	b.t.Fatalf("no traffic of %s: %+v", site, b.Traffic())
	panic("unreachable")
}

// TestFetchedAndSent counts what goes, below the cache, and by whatever way.
func TestFetchedAndSent(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Options)
		twice  int64 // what two reads of 3 MiB fetch
	}{"a folder": {func(*Options) {}, 6 << 20}, "a cloud": {far, 3 << 20}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, c.change)
			b.put("a/web.raw", disktest.Pattern(3<<20, nil))
			v := b.view("a", "web", "raw")
			before := b.traffic("a").Fetched
			for range 2 {
				if err := disk.ReadFull(v, make([]byte, 3<<20), 0); err != nil {
					t.Fatal(err)
				}
			}
			if got := b.traffic("a").Fetched - before; got != c.twice {
				t.Errorf("fetched %d bytes, want %d", got, c.twice)
			}
			if _, err := b.copy(CopySpec{From: v, Site: "b", Name: "web"}); err != nil {
				t.Fatal(err)
			}
			if got := b.traffic("b").Sent; got != 3<<20 {
				t.Errorf("sent %d bytes", got)
			}
		})
	}
	b := newBench(t)
	b.putExtents(1 << 20)
	for name, c := range map[string]struct {
		limits Limits
		want   int64
	}{"without limits": {Limits{}, 2 << 20}, "within limits": {Limits{Budget: daily(1 << 30)}, 1 << 20}} {
		b.setLimits(c.limits, nil)
		before := b.traffic("a").Fetched
		if err := disk.ReadFull(b.view("a", "x", "raw"), make([]byte, 2<<20), 0); err != nil {
			t.Fatal(err)
		}
		if got := b.traffic("a").Fetched - before; got < c.want || got > c.want+4<<10 {
			t.Errorf("%s: of a disk in several files %d bytes are fetched, it has 1 MiB of data", name, got)
		}
	}
	b.put("live/vm.raw", disktest.Pattern(1<<20, nil))
	v, err := b.View(t.Context(), Ref{Site: "a", Entry: b.find("a", providers.Instances, "vm"), Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	before := b.traffic("a").Fetched
	if err := disk.ReadFull(v, make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	if got := b.traffic("a").Fetched - before; got != 1<<20 {
		t.Errorf("of a machine %d bytes are fetched", got)
	}
}

// TestBudgetOfAProvider reads until it is refused, before and after a restart. What
// the cache has can be read on; so can what is of another provider.
func TestBudgetOfAProvider(t *testing.T) {
	change := []func(*Options){far, limited(Limits{Budget: daily(5 << 20)}, Limits{})}
	b := newBench(t, change...)
	b.put("a/web.raw", disktest.Pattern(8<<20, nil))
	b.put("b/web.raw", disktest.Pattern(8<<20, nil))
	v := b.view("a", "web", "raw")
	p := make([]byte, 1<<20)
	at := int64(0)
	var err error
	for ; err == nil; at += 1 << 20 {
		err = disk.ReadFull(v, p, at)
	}
	wantKind(t, err, disk.Quota)
	// What is read ahead is counted too, and may come first.
	if used := b.traffic("a").Budget.Used; used > 5<<20 || used < 4<<20 || at > 6<<20 {
		t.Errorf("%d bytes are used, refused at %d", used, at)
	}
	if err := disk.ReadFull(v, p, 0); err != nil {
		t.Errorf("what the cache has: %v", err)
	}
	if err := disk.ReadFull(b.view("b", "web", "raw"), p, 0); err != nil {
		t.Errorf("the other provider: %v", err)
	}
	used := b.traffic("a").Budget.Used
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open(change...)
	if got := b.traffic("a").Budget; got.Used != used || got.Bytes != 5<<20 {
		t.Errorf("after a restart %+v, before %d were used", got, used)
	}
	wantKind(t, disk.ReadFull(b.view("a", "web", "raw"), p, 0), disk.Quota)
	b.setLimits(Limits{}, map[string]Limits{"a": {Budget: daily(20 << 20)}})
	if err := disk.ReadFull(b.view("a", "web", "raw"), p, 0); err != nil {
		t.Errorf("with a larger budget: %v", err)
	}
	var text strings.Builder
	if err := b.Metrics(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`chromogenic_read_budget_bytes{provider="a"} 2.097152e+07`, `chromogenic_read_budget_used_bytes{provider="a"} `, `chromogenic_fetched_bytes_total{provider="b"} `} {
		if !strings.Contains(text.String(), "\n"+want) {
			t.Errorf("no metric %s", want)
		}
	}
}

// TestBudgetOfTheMount bounds all providers together, but for one that is taken out.
func TestBudgetOfTheMount(t *testing.T) {
	b := newBench(t, limited(Limits{}, Limits{Budget: &Budget{}}), func(o *Options) { o.Limits.Budget = daily(1 << 20) })
	b.put("a/web.raw", disktest.Pattern(2<<20, nil))
	b.put("b/web.raw", disktest.Pattern(2<<20, nil))
	p := make([]byte, 2<<20)
	err := disk.ReadFull(b.view("a", "web", "raw"), p, 0)
	wantKind(t, err, disk.Quota)
	if !strings.Contains(err.Error(), "providers of the mount") {
		t.Errorf("it says %v", err)
	}
	if err := disk.ReadFull(b.view("b", "web", "raw"), p, 0); err != nil {
		t.Errorf("the provider that is taken out: %v", err)
	}
	if got := b.traffic(allSites).Budget; got == nil || got.Bytes != 1<<20 {
		t.Errorf("all together: %+v", got)
	}
}

// TestBudgetRefusesBeforeItBegins copies what is larger than what is left.
func TestBudgetRefusesBeforeItBegins(t *testing.T) {
	b := newBench(t, limited(Limits{Budget: daily(3 << 20)}))
	b.put("a/web.raw", disktest.Pattern(4<<20, nil))
	spec := CopySpec{From: b.view("a", "web", "qcow2"), Site: "b", Name: "web"}
	before := b.traffic("a").Budget.Used
	rec, err := b.copy(spec)
	wantKind(t, err, disk.Quota)
	if len(rec.Stages) != 1 || b.traffic("a").Budget.Used != before {
		t.Errorf("stages %+v, used %d, before %d", rec.Stages, b.traffic("a").Budget.Used, before)
	}
	_, err = b.Plan(t.Context(), spec)
	wantKind(t, err, disk.Quota)
	if got := b.files("b"); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	over, err := b.View(t.Context(), Ref{Site: "a", Entry: b.entry("a", "web"), Format: "qcow2", Over: true})
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	spec.From = over
	if rec, err = b.copy(spec); err != nil || rec.State != jobs.Done {
		t.Fatalf("over the budget: %+v, %v", rec, err)
	}
	if used := b.traffic("a").Budget.Used; used < 4<<20 {
		t.Errorf("%d bytes are counted", used)
	}
	// What is smaller goes, and fails where it meets the end.
	wantKind(t, disk.ReadFull(b.view("a", "web", "raw"), make([]byte, 1), 0), disk.Quota)
}

// TestCharge has a second pipeline, without the state, spend the budget of the first.
func TestCharge(t *testing.T) {
	limits := limited(Limits{Budget: daily(4 << 20)}, Limits{})
	b := newBench(t, limits)
	b.put("a/web.raw", disktest.Pattern(8<<20, nil))
	b.put("b/web.raw", disktest.Pattern(8<<20, nil))
	other := &bench{t: t, dir: b.dir}
	other.open(func(o *Options) { o.StateDir, o.Charge = "", b.Charge }) // it knows of no limits
	defer other.Close()
	v := other.view("a", "web", "raw")
	wantKind(t, other.Afford(t.Context(), v, false), disk.Quota)
	if err := disk.ReadFull(v, make([]byte, 2<<20), 0); err != nil {
		t.Fatal(err)
	}
	if used := b.traffic("a").Budget.Used; used < 2<<20 || used > 3<<20 {
		t.Errorf("%d bytes are charged for 2 MiB", used)
	}
	wantKind(t, disk.ReadFull(v, make([]byte, 4<<20), 2<<20), disk.Quota)
	if err := disk.ReadFull(other.view("b", "web", "raw"), make([]byte, 8<<20), 0); err != nil {
		t.Errorf("of a provider without a budget: %v", err)
	}
	if _, err := b.Charge(t.Context(), "a", -1, false); err == nil {
		t.Error("a charge of less than nothing is taken")
	}
	_, err := b.Charge(t.Context(), "made up", 1, false)
	wantKind(t, err, disk.NotFound)
}

// TestRateOfACopy has the source, the destination, all together, and the copy itself
// be the slow one. A folder writes 1 MiB at once, and the first burst is free.
func TestRateOfACopy(t *testing.T) {
	const size, rate = 6 << 20, 4 << 20
	for name, c := range map[string]struct {
		change func(*Options)
		of     Rate
	}{
		"source":      {limited(Limits{Rate: &Rate{Read: rate}}), Rate{}},
		"destination": {limited(Limits{}, Limits{Rate: &Rate{Send: rate}}), Rate{}},
		"all":         {func(o *Options) { o.Limits.Rate = &Rate{Send: rate, Read: rate} }, Rate{}},
		"copy":        {func(*Options) {}, Rate{Send: rate}},
		"its reads":   {func(*Options) {}, Rate{Read: rate}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, c.change)
			b.put("a/web.raw", disktest.Pattern(size, nil))
			start := time.Now()
			if _, err := b.copy(CopySpec{From: b.view("a", "web", "qcow2"), Site: "b", Name: "web", Rate: c.of}); err != nil {
				t.Fatal(err)
			}
			took, least := time.Since(start), time.Duration(size-rate/paceParts)*time.Second/rate
			if took < least || took > 3*least {
				t.Errorf("%d bytes at %d a second took %v", size, rate, took)
			}
			disktest.Compare(t, b.view("b", "web", "raw"), disktest.Pattern(size, nil))
		})
	}
	t.Run("taken out", func(t *testing.T) {
		b := newBench(t, limited(Limits{Rate: &Rate{}}, Limits{Rate: &Rate{}}), func(o *Options) { o.Limits.Rate = &Rate{1, 1} })
		b.put("a/web.raw", disktest.Pattern(size, nil))
		if _, err := b.copy(CopySpec{From: b.view("a", "web", "qcow2"), Site: "b", Name: "web"}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSlowCopyIsCancelled has a copy that would take for ever.
func TestSlowCopyIsCancelled(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Options)
		of     Rate
	}{
		"source":      {limited(Limits{Rate: &Rate{Read: 64 << 10}}), Rate{}},
		"destination": {limited(Limits{}, Limits{Rate: &Rate{Send: 64 << 10}}), Rate{}},
		"copy":        {func(*Options) {}, Rate{Read: 64 << 10, Send: 64 << 10}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, c.change)
			b.put("a/web.raw", disktest.Pattern(64<<20, nil))
			v := b.view("a", "web", "raw")
			ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, context.Canceled)
			defer cancel()
			start := time.Now()
			rec, err := b.Copy(ctx, CopySpec{From: v, Site: "b", Name: "web", Rate: c.of})
			if took := time.Since(start); took > 3*time.Second || err == nil || rec.State == jobs.Done {
				t.Errorf("after %v: %v, %s", took, err, rec.State)
			}
			if got := b.files("b"); len(got) != 0 {
				t.Errorf("left %v", got)
			}
			// The read that was under way ends with its image.
			start = time.Now()
			v.Close()
			if err := b.Close(); err != nil || time.Since(start) > time.Second {
				t.Errorf("the end takes %v: %v", time.Since(start), err)
			}
			b.open(c.change)
		})
	}
}

// TestCloseEndsAWait closes an image under a read that waits for its turn.
func TestCloseEndsAWait(t *testing.T) {
	b := newBench(t, limited(Limits{Rate: &Rate{Read: 1}}))
	b.put("a/web.raw", disktest.Pattern(1<<20, nil))
	src, err := b.openSource(t.Context(), "a", b.entry("a", "web"), sourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { src.close() })
	if err := disk.ReadFull(src, make([]byte, 1<<20), 0); !errors.Is(err, disk.ErrClosed) {
		t.Errorf("the read ends with %v", err)
	}
}

// TestResumeKeepsTheRate takes up a copy that had a rate; one that was asked for at
// another rate takes up the same job.
func TestResumeKeepsTheRate(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", disktest.Pattern(1<<20, nil))
	spec := CopySpec{From: b.view("a", "web", "raw"), Site: "b", Name: "web", Until: stageLayOut, Rate: Rate{Send: 1 << 19, Read: 7}}
	rec, err := b.copy(spec)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(rec.Resume, []byte(`"read":7`)) {
		t.Errorf("the record has %s", rec.Resume)
	}
	spec.Rate, spec.Until = Rate{}, ""
	again, err := b.copy(spec)
	if err != nil || again.ID != rec.ID {
		t.Errorf("job %s, %v; it was %s", again.ID, err, rec.ID)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "b/web.raw")); err != nil {
		t.Error(err)
	}
}
