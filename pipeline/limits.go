package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Limits bound the traffic with one provider, or with all of them together. What is
// nil is not bounded; the zero value of a provider's limit takes that provider out
// of the limit of all.
type Limits struct {
	Rate   *Rate
	Budget *Budget
}

// common is what bounds all providers together.
type common struct {
	read, send *pacer
	budget     spender
}

// openTraffic makes what all sites share. What was read by earlier processes is in
// the state, or with who has that, by charge, which may be nil.
func (p *Pipeline) openTraffic(charge Charger) {
	p.purse = func(site string) spender {
		if charge != nil {
			return &debtor{site: site, charge: charge}
		}
		return newBudget(site, p.state.get(bucketBudgets, site), func(s spent) error {
			val, err := json.Marshal(s)
			if err != nil {
				return fmt.Errorf("encode budget: %w", err)
			}
			return p.state.put(bucketBudgets, site, val)
		})
	}
	p.common = common{newPacer(0), newPacer(0), p.purse(allSites)}
}

// openTrafficOf makes the traffic of a site; it is that of old, which may be nil, if
// that was no other kind of provider.
func (p *Pipeline) openTrafficOf(s, old *site) {
	if old != nil && old.prober == s.prober {
		s.traffic = old.traffic
		return
	}
	s.traffic = &traffic{least: leastPart, read: newPacer(0), send: newPacer(0), budget: p.purse(s.provider.Name())}
	if s.prober {
		s.traffic.least = minBurst
	}
}

// setLimits changes the limits of all sites together, and those of each: a site that
// is not named has none. Traffic that is under way goes on under the new ones.
func (p *Pipeline) setLimits(all Limits, sites map[string]Limits) {
	set := func(l Limits, read, send *pacer, s spender) {
		rate, limit := cmp.Or(l.Rate, &Rate{}), cmp.Or(l.Budget, &Budget{})
		read.set(rate.Read)
		send.set(rate.Send)
		if b, ok := s.(*budget); ok {
			b.set(*limit)
		}
	}
	c := p.common
	set(all, c.read, c.send, c.budget)
	for name, s := range p.sites.Load().byName {
		t, own := s.traffic, sites[name]
		set(own, t.read, t.send, t.budget)
		b := &bounds{read: pacers{t.read}, send: pacers{t.send}, budgets: []spender{t.budget}}
		if own.Rate == nil || *own.Rate != (Rate{}) {
			b.read, b.send = append(b.read, c.read), append(b.send, c.send)
		}
		if own.Budget == nil || own.Budget.Bytes != 0 {
			b.budgets = append(b.budgets, c.budget)
		}
		b.any = b.read.bounded() || slices.ContainsFunc(b.budgets, spender.bounded)
		t.now.Store(b)
	}
}

// Afford tells whether the budgets allow to read all of a view now, or of the machine
// that it shows a disk of, so that a copy need not fail in its midst. Of a live machine
// nobody knows how much that is.
func (p *Pipeline) Afford(ctx context.Context, v *View, machine bool) error {
	s, err := p.site(v.Ref.Site)
	if err != nil || v.Ref.Over || v.Ref.Entry.Live() {
		return nil
	}
	n := v.Ref.Disk
	if machine || v.Ref.Format == formatOVA && n == 0 {
		n = -1
	}
	need := v.facts.stored(n)
	for _, purse := range s.traffic.now.Load().budgets {
		var err error
		switch purse := purse.(type) {
		case *budget:
			err = purse.affords(need)
		case *debtor:
			err = purse.prepay(ctx, need)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Traffic is what has gone between us and a provider since the start, and within
// which limits.
type Traffic struct {
	Provider string     `json:"provider"` // "*" is all together
	Fetched  int64      `json:"fetched"`  // bytes
	Sent     int64      `json:"sent"`     // bytes
	Rate     *Rate      `json:"bwlimit,omitempty"`
	Budget   *BudgetUse `json:"read_budget,omitempty"`
}

// Traffic tells of each provider, and of all together where that is bounded.
func (p *Pipeline) Traffic() []Traffic {
	sum := Traffic{Provider: allSites}
	describe := func(t *Traffic, read, send *pacer, s spender) {
		if r := (Rate{Send: send.rate(), Read: read.rate()}); r != (Rate{}) {
			t.Rate = &r
		}
		if b, ok := s.(*budget); ok {
			t.Budget = b.use()
		}
	}
	var out []Traffic
	now := p.sites.Load()
	for _, name := range now.names {
		t := now.byName[name].traffic
		one := Traffic{Provider: name, Fetched: t.fetched.Load(), Sent: t.sent.Load()}
		describe(&one, t.read, t.send, t.budget)
		sum.Fetched, sum.Sent = sum.Fetched+one.Fetched, sum.Sent+one.Sent
		out = append(out, one)
	}
	describe(&sum, p.common.read, p.common.send, p.common.budget)
	if sum.Rate != nil || sum.Budget != nil {
		out = append(out, sum)
	}
	return out
}

// closeBudgets keeps what is used.
func (p *Pipeline) closeBudgets() error {
	var errs []error
	purses := []spender{p.common.budget}
	for _, s := range p.sites.Load().byName {
		purses = append(purses, s.traffic.budget)
	}
	for _, purse := range purses {
		if b, ok := purse.(*budget); ok {
			errs = append(errs, b.close())
		}
	}
	return errors.Join(errs...)
}
