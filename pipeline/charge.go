package pipeline

import (
	"context"
	"sync"

	"chromogenic/disk"
)

// unbounded is what a Charger grants where there is no budget.
const unbounded = 1 << 62

// A Charger counts n bytes as read from a site, or from all together (*), in another
// process: the one that has the state. It tells how many may be read for that: n, or
// more where there is no budget.
type Charger func(ctx context.Context, site string, n int64, over bool) (granted int64, err error)

// Charge is the Charger of this pipeline.
func (p *Pipeline) Charge(ctx context.Context, site string, n int64, over bool) (int64, error) {
	purse := p.common.budget
	if site != allSites {
		s, err := p.site(site)
		if err != nil {
			return 0, err
		}
		purse = s.traffic.budget
	}
	switch b, ok := purse.(*budget); {
	case n < 0:
		return 0, disk.Errorf(disk.Invalid, "charge %d bytes", n)
	case !purse.bounded():
		return unbounded, nil
	case ok && !over:
		if err := b.affords(n); err != nil {
			return 0, err
		}
	}
	return n, purse.take(ctx, n, over)
}

// chargeAtOnce is how many bytes a debtor asks for at least.
const chargeAtOnce = 1 << 20

// A debtor spends the budget of another process.
type debtor struct {
	site   string
	charge Charger

	mu      sync.Mutex
	granted int64 // and not used
}

func (d *debtor) take(ctx context.Context, n int64, over bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.granted < n {
		more, err := d.charge(ctx, d.site, max(n-d.granted, chargeAtOnce), over)
		if err != nil {
			return err
		}
		d.granted = min(d.granted+more, unbounded)
	}
	d.granted -= n
	return nil
}

func (d *debtor) giveBack(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.granted += n
}

func (d *debtor) bounded() bool { return true } // as far as is known

// prepay asks for n bytes now.
func (d *debtor) prepay(ctx context.Context, n int64) error {
	if err := d.take(ctx, n, false); err != nil {
		return err
	}
	d.giveBack(n)
	return nil
}
