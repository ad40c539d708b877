package pipeline

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"chromogenic/disk"
)

// A purse is a budget with a clock and a memory that a test has in its hands.
type purse struct {
	*budget
	clock time.Time
	disk  []byte // what outlives a crash
	kept  int    // how often something was kept
}

func newPurse(limit Budget) *purse {
	p := &purse{clock: time.Date(2026, 11, 21, 22, 59, 0, 0, time.FixedZone("", 3600))} // 21:59 UTC
	p.open(limit)
	return p
}

// open goes on after a crash.
func (p *purse) open(limit Budget) {
	p.budget = newBudget("cloud", p.disk, func(s spent) error {
		p.kept++
		var err error
		p.disk, err = json.Marshal(s)
		return err
	})
	p.now = func() time.Time { return p.clock }
	p.set(limit)
}

func (p *purse) mustTake(t *testing.T, n int64) {
	t.Helper()
	if err := p.take(context.Background(), n, false); err != nil {
		t.Fatal(err)
	}
}

func TestBudgetIsUsedUp(t *testing.T) {
	p := newPurse(Budget{1 << 30, PerDay})
	p.mustTake(t, 1<<30-100)
	err := p.affords(101)
	wantKind(t, err, disk.Quota)
	if p.affords(100) != nil {
		t.Error("what is left is refused")
	}
	err = p.take(context.Background(), 101, false)
	wantKind(t, err, disk.Quota)
	for _, want := range []string{`provider "cloud"`, "1.0 GiB a day", "used up", "renewed at 2026-11-22T00:00:00Z"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if hint := disk.AsError(err).Hint; !strings.Contains(hint, "raise read_budget of cloud") || !strings.Contains(hint, "--over-budget") {
		t.Errorf("the hint is %q", hint)
	}
	// From then on the refusal is the same for all, and one line in a journal.
	if again := p.take(context.Background(), 1, false); again == nil || again.Error() != err.Error() {
		t.Errorf("then %v", again)
	}
	if err := p.take(context.Background(), 50, true); err != nil || p.use().Used != 1<<30-50 {
		t.Errorf("over the budget: %v, used %d", err, p.use().Used)
	}
	p.set(Budget{2 << 30, PerDay})
	p.mustTake(t, 1<<30)
	p.set(Budget{})
	p.mustTake(t, 1<<40)
	if p.use() != nil {
		t.Error("without a budget there is a use")
	}
}

// TestBudgetIsRenewed goes by the wall clock in UTC.
func TestBudgetIsRenewed(t *testing.T) {
	for _, c := range []struct {
		per  Period
		next time.Time
	}{
		{PerHour, time.Date(2026, 11, 21, 22, 0, 0, 0, time.UTC)},
		{PerDay, time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)},
		{PerMonth, time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)},
	} {
		p := newPurse(Budget{1000, c.per})
		p.mustTake(t, 1000)
		if got := p.use().Renewed; !got.Equal(c.next) {
			t.Errorf("a %s: renewed at %v, want %v", c.per, got, c.next)
		}
		p.clock = c.next.Add(-time.Nanosecond)
		wantKind(t, p.take(context.Background(), 1, false), disk.Quota)
		p.clock = c.next
		p.mustTake(t, 1000)
		wantKind(t, p.take(context.Background(), 1, false), disk.Quota)
	}
}

// TestBudgetOutlivesACrash takes what it gets, with a crash after each read: never
// more than the budget, and at most one part is lost to each crash.
func TestBudgetOutlivesACrash(t *testing.T) {
	const limit, part = 1 << 30, 1 << 30 / spentParts
	p := newPurse(Budget{limit, PerDay})
	used, crashes, takes := int64(0), int64(0), 0
	for n := int64(1); p.take(context.Background(), n, false) == nil; n = (n*7 + 13) % (3 << 20) {
		used += n
		if takes++; takes%20 == 0 {
			p.open(Budget{limit, PerDay})
			crashes++
			if p.Used < used {
				t.Fatalf("after a crash %d bytes are used, %d were read", p.Used, used)
			}
		}
	}
	if used > limit || used < limit-(crashes+1)*part-3<<20 {
		t.Errorf("%d bytes of %d were read, with %d crashes", used, limit, crashes)
	}
	t.Logf("%d bytes of %d were read, with %d crashes; kept %d times", used, limit, crashes, p.kept)
	if p.kept > 2*spentParts+int(crashes) {
		t.Errorf("kept %d times", p.kept)
	}

	// A clean end loses nothing.
	p = newPurse(Budget{limit, PerDay})
	p.mustTake(t, 12345)
	p.giveBack(45)
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	if p.open(Budget{limit, PerDay}); p.use().Used != 12300 {
		t.Errorf("after the end %d bytes are used", p.use().Used)
	}
	p.clock = p.clock.AddDate(0, 0, 1)
	if p.open(Budget{limit, PerDay}); p.use().Used != 0 {
		t.Errorf("on the next day %d bytes are used", p.use().Used)
	}
}

func TestBudgetOfManyReaders(t *testing.T) {
	const limit = 1 << 20
	p := newPurse(Budget{limit, PerDay})
	var mu sync.Mutex
	var wg sync.WaitGroup
	sum := int64(0)
	for range 16 {
		wg.Go(func() {
			for p.take(context.Background(), 1000, false) == nil {
				mu.Lock()
				sum += 1000
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if sum > limit || sum < limit-1000 {
		t.Errorf("%d bytes were granted of %d", sum, limit)
	}
}
