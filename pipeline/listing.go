package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"chromogenic/disk"
	"chromogenic/providers"
)

// How long a listing is fresh. A folder is cheap to list, and what is dropped
// into it should show at once; one second carries an ls -l over its lookups.
const (
	freshFolder = time.Second
	freshCloud  = time.Minute
)

// listStall is how long a listing waits for an image that does not answer.
const listStall = 3 * time.Second

// awayTime is how long a cloud that did not answer is not asked again: whoever lists it
// would wait for all tries each time.
const awayTime = 15 * time.Second

// probers is how many images of a folder are looked into at a time.
const probers = 4

// A Listing is all entries of one kind at one moment.
type Listing struct {
	Entries []providers.Entry // by Created, then ID; an entry with a Reason cannot be read
	At      time.Time
	Stale   bool // the provider cannot be reached: this is what it said last
}

// A site is a provider with its policies and its listings.
type site struct {
	made     Site // of what, without limits
	provider providers.Provider
	clean    string
	snapshot string
	prober   bool // providers.Prober
	traffic  *traffic

	lists map[providers.Kind]*list
}

// A list is one kind's listing. Who asks the provider holds the turn, so that all
// who want the listing wait for one, each as long as it likes.
type list struct {
	turn   chan struct{} // one token
	last   Listing       // of who has the turn
	pruned time.Time     // likewise: when it was held against the state
	away   time.Time     // likewise: when a cloud could not be asked
	why    error         // likewise: of that
	valid  atomic.Bool   // nothing has changed since the provider was asked for last
}

func newList() *list {
	l := &list{turn: make(chan struct{}, 1)}
	l.turn <- struct{}{}
	return l
}

func newSite(o Site) *site {
	s := &site{
		made: o, provider: o.Provider, clean: cmp.Or(o.Clean, "auto"), snapshot: o.Snapshot,
		lists: map[providers.Kind]*list{providers.Images: newList(), providers.Instances: newList(), providers.Disks: newList()},
	}
	if pr, ok := o.Provider.(providers.Prober); ok {
		s.prober = pr.ProbeOnList()
	}
	assemble(o.Provider)
	if s.snapshot == "" {
		s.snapshot = "on-copy"
		if s.prober {
			s.snapshot = "auto"
		}
	}
	return s
}

// List gives the listing of a site, from memory where it is fresh. Entries of a
// provider whose images are cheap to open (providers.Prober) are looked into:
// VirtualSize and Format are filled in, and Reason for those that turn out
// unreadable. A cloud that cannot be reached gives its last listing, Stale; a
// folder that is gone is an error, for it is right here.
func (p *Pipeline) List(ctx context.Context, name string, kind providers.Kind) (Listing, error) {
	return p.list(ctx, name, kind, false)
}

// ListNow is List for who reads a whole directory: a folder is looked at again,
// however fresh its listing is, so that one that was unmounted a moment ago is
// an error now.
func (p *Pipeline) ListNow(ctx context.Context, name string, kind providers.Kind) (Listing, error) {
	return p.list(ctx, name, kind, true)
}

func (p *Pipeline) list(ctx context.Context, name string, kind providers.Kind, now bool) (Listing, error) {
	s, err := p.site(name)
	if err != nil {
		return Listing{}, err
	}
	l, ok := s.lists[kind]
	if !ok {
		return Listing{}, disk.Errorf(disk.NotFound, "list %s of %s: no such kind", kind, name)
	}
	select {
	case <-l.turn:
	case <-ctx.Done():
		return Listing{}, fmt.Errorf("list %s of %s: %w", kind, name, ctx.Err())
	}
	fresh := freshCloud
	if s.prober {
		fresh = freshFolder
	}
	if l.valid.Load() && time.Since(l.last.At) < fresh && !(now && s.prober) {
		defer func() { l.turn <- struct{}{} }()
		return l.last, nil
	}
	type answer struct {
		Listing
		err error
	}
	answers := make(chan answer, 1)
	go func() { // on its own, for a disk that does not answer keeps nobody who must die
		defer func() { l.turn <- struct{}{} }()
		all, err := p.ask(s, l, kind)
		answers <- answer{all, err}
	}()
	select {
	case a := <-answers:
		return a.Listing, a.err
	case <-ctx.Done():
		return Listing{}, fmt.Errorf("list %s of %s: %w", kind, name, ctx.Err())
	}
}

// ask asks the provider for a listing; whoever calls it has the turn.
func (p *Pipeline) ask(s *site, l *list, kind providers.Kind) (Listing, error) {
	name := s.provider.Name()
	if time.Since(l.away) < awayTime {
		return l.stale()
	}
	l.valid.Store(true) // what is forgotten from here on, this listing need not show
	entries, err := s.provider.List(p.ctx, kind)
	if err == nil {
		p.keepPin(s, kind)
	}
	if err == nil && s.prober {
		err = p.probe(p.ctx, name, entries)
	}
	if err != nil {
		l.valid.Store(false)
		err = fmt.Errorf("list %s of %s: %w", kind, name, err)
		if !s.prober && away(err) {
			l.away, l.why = time.Now(), err
			return l.stale()
		}
		return Listing{}, err
	}
	slices.SortFunc(entries, func(a, b providers.Entry) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	l.last = Listing{Entries: entries, At: time.Now()}
	if time.Since(l.pruned) > pruneEvery {
		l.pruned = time.Now()
		if err := p.prune(name, kind, entries, l.pruned); err != nil {
			p.log.Warn("write state", "error", err)
		}
	}
	return l.last, nil
}

// stale is what a cloud has said last, or why it cannot be asked.
func (l *list) stale() (Listing, error) {
	if l.last.At.IsZero() {
		return Listing{}, l.why
	}
	last := l.last
	last.Stale = true
	return last, nil
}

// away tells whether a cloud could not be asked: it does not answer, or not in time, or
// does not know us for the moment.
func away(err error) bool {
	switch disk.KindOf(err) {
	case disk.Unreachable, disk.Timeout, disk.Denied:
		return true
	}
	return false
}

// probe looks into the entries that have no Reason yet. An image that cannot be
// read for what it is gets one. One that fails otherwise, by a bad sector or
// because it is being written, or that does not answer, stays as it is: it exists,
// and a backup must not take it for deleted. A provider that fails is an error.
func (p *Pipeline) probe(ctx context.Context, site string, entries []providers.Entry) error {
	g, ctx := errgroup.WithContext(Impatient(ctx, listStall))
	g.SetLimit(probers)
	for i := range entries {
		e := &entries[i]
		if e.Reason != "" {
			continue
		}
		g.Go(func() error {
			f, err := p.facts(ctx, site, *e)
			switch {
			case err == nil:
				e.Format = f.Format
				e.VirtualSize = f.Disks[0].Size
			case disk.KindOf(err) == disk.Unreachable, ctx.Err() != nil:
				return err
			case lasting(err) || hidden(err):
				e.Reason = err.Error()
			}
			return nil
		})
	}
	return g.Wait()
}

// hidden tells whether err keeps an image from being read until somebody does
// something about it: a part that is missing, or that is not ours to read.
func hidden(err error) bool {
	switch disk.KindOf(err) {
	case disk.Policy, disk.Denied, disk.NotFound:
		return true
	}
	return false
}

// Forget forgets the listings of a site, after a change of our own; the next
// List asks the provider.
func (p *Pipeline) Forget(name string) {
	s, err := p.site(name)
	if err != nil {
		return
	}
	for _, l := range s.lists {
		l.valid.Store(false)
	}
}

// Refresh forgets the listings of all sites, at the owner's word: a folder that
// has taken the place of another is accepted (providers.Pinner).
func (p *Pipeline) Refresh() {
	for name, s := range p.sites.Load().byName {
		if pin, ok := s.provider.(providers.Pinner); ok {
			pin.Reset()
		}
		p.Forget(name)
	}
}

// keepPin remembers where a listing came from, for the next process.
func (p *Pipeline) keepPin(s *site, kind providers.Kind) {
	pr, ok := s.provider.(providers.Pinner)
	if !ok {
		return
	}
	key := pinKey(s, kind)
	pin := pr.Pin(kind)
	if pin != string(p.state.get(bucketPins, key)) {
		p.remember(bucketPins, key, []byte(pin))
	}
}

// restorePins tells a provider where an earlier process found its images.
func (p *Pipeline) restorePins(s *site) {
	pr, ok := s.provider.(providers.Pinner)
	if !ok {
		return
	}
	for kind := range s.lists {
		if pin := p.state.get(bucketPins, pinKey(s, kind)); len(pin) > 0 {
			pr.SetPin(kind, string(pin))
		}
	}
}

func pinKey(s *site, kind providers.Kind) string { return s.provider.Name() + "\x00" + string(kind) }
