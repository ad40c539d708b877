package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"chromogenic/disk"
)

// A Budget is how many bytes may be read from providers in a period; the zero value
// sets no bound.
type Budget struct {
	Bytes int64  `json:"bytes"`
	Per   Period `json:"per"`
}

// A Period is a part of the calendar, in UTC, as the bills of clouds have it.
type Period string

// The periods.
const (
	PerHour  Period = "hour"
	PerDay   Period = "day"
	PerMonth Period = "month"
)

// Periods are all of them, the shortest first.
func Periods() []Period { return []Period{PerHour, PerDay, PerMonth} }

// start is the beginning of the period that t is in, by the wall clock.
func (p Period) start(t time.Time) time.Time {
	t = t.UTC().Round(0)
	switch p {
	case PerHour:
		return t.Truncate(time.Hour)
	case PerMonth:
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
}

// end is that of the period which begins at start.
func (p Period) end(start time.Time) time.Time {
	switch p {
	case PerHour:
		return start.Add(time.Hour)
	case PerMonth:
		return start.AddDate(0, 1, 0)
	}
	return start.AddDate(0, 0, 1)
}

// A spender grants bytes to be read from a provider.
type spender interface {
	// take counts n bytes that are about to be read. Where there are not so many
	// left it fails with Quota and counts nothing, unless over says that the reader
	// may exceed the budget.
	take(ctx context.Context, n int64, over bool) error

	// giveBack takes back bytes that were not read after all.
	giveBack(n int64)

	// bounded tells whether there is a limit.
	bounded() bool
}

// all is the name under which what counts for all providers together is kept: none
// that a provider can have.
const allSites = "*"

// spentParts is into how many parts a budget is cut for keeping: a part is kept as
// used before its first byte is read, so that a crash never makes a budget larger,
// and smaller by one part at most.
const spentParts = 128

// A budget counts what is read from one provider, or from all together. It is safe
// for concurrent use.
type budget struct {
	site string // or allSites
	keep func(spent) error
	now  func() time.Time

	mu    sync.Mutex
	limit Budget
	spent
	kept int64 // what is kept as used: no less than is
	full error // why nothing is granted until the period ends
}

// spent is what is kept of a budget.
type spent struct {
	Per   Period    `json:"per"`
	Start time.Time `json:"start"` // of the period
	Used  int64     `json:"used"`  // bytes
}

// newBudget is a budget that goes on where an earlier process was.
func newBudget(site string, was []byte, keep func(spent) error) *budget {
	b := &budget{site: site, keep: keep, now: time.Now}
	if json.Unmarshal(was, &b.spent) != nil {
		b.spent = spent{} // nothing was kept
	}
	b.kept = b.Used
	return b
}

// set changes the limit. What was read in the period counts on, unless the period
// is another.
func (b *budget) set(limit Budget) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit, b.full = limit, nil
}

// renew begins a new period if it is time. It is called under mu.
func (b *budget) renew() {
	start := b.limit.Per.start(b.now())
	if b.Per != b.limit.Per || !b.Start.Equal(start) {
		b.spent = spent{Per: b.limit.Per, Start: start}
		b.kept, b.full = 0, nil
	}
}

func (b *budget) take(_ context.Context, n int64, over bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit.Bytes == 0 {
		return nil
	}
	b.renew()
	switch {
	case over:
	case b.full != nil:
		return b.full
	case b.Used+n > b.limit.Bytes:
		b.full = b.exhausted("is used up")
		return b.full
	}
	if b.Used+n > b.kept {
		next := b.spent
		next.Used = max(b.Used+n, b.kept+b.limit.Bytes/spentParts)
		if err := b.keep(next); err != nil {
			return fmt.Errorf("count what is read: %w", err)
		}
		b.kept = next.Used
	}
	b.Used += n
	return nil
}

func (b *budget) giveBack(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Used = max(0, b.Used-n)
}

func (b *budget) bounded() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limit.Bytes > 0
}

// affords tells whether n bytes are left, and counts none.
func (b *budget) affords(n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit.Bytes == 0 {
		return nil
	}
	b.renew()
	switch {
	case b.full != nil:
		return b.full
	case b.Used+n > b.limit.Bytes:
		return b.exhausted(fmt.Sprintf("is not enough for %s", humanize.IBytes(uint64(n))))
	}
	return nil
}

// exhausted says of a budget that it does not do, and until when.
func (b *budget) exhausted(what string) error {
	of, key := fmt.Sprintf("read from provider %q", b.site), "read_budget of "+b.site
	if b.site == allSites {
		of, key = "read from the providers of the mount", "read_budget"
	}
	err := disk.Errorf(disk.Quota, "%s: the read budget of %s a %s %s: %s are read, and it is renewed at %s", of,
		humanize.IBytes(uint64(b.limit.Bytes)), b.limit.Per, what, humanize.IBytes(uint64(b.Used)), b.limit.Per.end(b.Start).Format(time.RFC3339))
	return disk.Hint(err, "raise %s in the configuration and send the mount a SIGHUP; chromogenic cp --over-budget copies all the same", key)
}

// A BudgetUse is how much of a budget is used.
type BudgetUse struct {
	Budget
	Used    int64     `json:"used"`    // bytes
	Renewed time.Time `json:"renewed"` // when it will be
}

// use is nil without a limit.
func (b *budget) use() *BudgetUse {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit.Bytes == 0 {
		return nil
	}
	b.renew()
	return &BudgetUse{b.limit, b.Used, b.limit.Per.end(b.Start)}
}

// close keeps what is used, to the byte.
func (b *budget) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept == b.Used {
		return nil
	}
	b.kept = b.Used
	return b.keep(b.spent)
}
