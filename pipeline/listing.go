package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
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

// awayTime is how long a cloud that gave no listing is not asked again, unless something
// of it has changed: whoever lists it would wait for all tries each time.
const awayTime = 15 * time.Second

// listPatience is how long a cloud may take for a listing where its last one would do
// for now.
const listPatience = 2 * time.Second

// probers is how many images of a folder are looked into at a time.
const probers = 4

// A Listing is all entries of one kind at one moment.
type Listing struct {
	Entries []providers.Entry // by Created, then ID; an entry with a Reason cannot be read
	At      time.Time
	Stale   bool // the provider cannot be reached, or has not answered yet: this is what it said last
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

// A list is one kind's listing.
type list struct {
	mu        sync.Mutex
	last      Listing     // the zero Listing when the provider has never answered
	asking    *asking     // under way; nil for none
	valid     atomic.Bool // nothing has changed since the provider was asked for last
	inherited bool        // last is what an earlier process has heard
	pruned    time.Time   // when it was held against the state
	away      time.Time   // when a cloud could not be asked
	again     atomic.Bool // it is to be asked all the same
	why       error       // of that
	kept      [32]byte    // the digest of what the state has
}

// asking is one question to a provider. It goes on when those who wait for it give up.
type asking struct {
	began time.Time
	must  bool          // the listing of before lacks a change that has to show
	done  chan struct{} // closed at the end
	all   Listing
	err   error
}

func newSite(o Site) *site {
	s := &site{
		made: o, provider: o.Provider, clean: cmp.Or(o.Clean, "auto"), snapshot: o.Snapshot,
		lists: map[providers.Kind]*list{providers.Images: {}, providers.Instances: {}, providers.Disks: {}},
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
// unreadable. A cloud that gives none, for whatever reason, or not at once, gives its last
// listing, Stale, which may be that of an earlier process; a folder that is gone is an error, for
// it is right here.
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
	for {
		a, joined := p.question(s, l, kind, now)
		all, over, err := l.wait(ctx, a, joined && !s.prober)
		switch {
		case err != nil:
			return Listing{}, fmt.Errorf("list %s of %s: %w", kind, name, err)
		case over && !joined: // that one began before what the caller wants to see
			continue
		}
		return all, nil
	}
}

// question gives an answer that will do, or one to wait for; joined is false where it
// can only be waited for, and another is to follow.
func (p *Pipeline) question(s *site, l *list, kind providers.Kind, now bool) (a *asking, joined bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := freshCloud
	if s.prober {
		fresh = freshFolder
	}
	now = now && s.prober
	valid := l.valid.Load()
	switch {
	case l.asking != nil:
		return l.asking, valid && !now
	case valid && !l.inherited && time.Since(l.last.At) < fresh && !now:
		return answered(l.last, nil), true
	case time.Since(l.away) < awayTime && !l.again.Load():
		return answered(l.stale()), true
	}
	l.asking = &asking{began: time.Now(), must: !valid, done: make(chan struct{})}
	l.valid.Store(true) // what is forgotten from here on, this listing need not show
	l.again.Store(false)
	go p.ask(s, l, kind, l.asking)
	return l.asking, true
}

// answered is a question with its answer.
func answered(all Listing, err error) *asking {
	a := &asking{done: make(chan struct{}), all: all, err: err}
	close(a.done)
	return a
}

// wait waits for an answer; over tells that it has come. Who may be served with an older
// one is, where there is one that will do and the answer takes long.
func (l *list) wait(ctx context.Context, a *asking, servable bool) (all Listing, over bool, err error) {
	var late <-chan time.Time
	if last, known := l.known(); known && servable && !a.must {
		t := time.NewTimer(time.Until(a.began.Add(listPatience)))
		defer t.Stop()
		late, all = t.C, last
	}
	select {
	case <-a.done:
		return a.all, true, a.err
	default:
	}
	select {
	case <-a.done:
		return a.all, true, a.err
	case <-late:
		return all, false, nil
	case <-ctx.Done():
		return Listing{}, false, ctx.Err()
	}
}

// known is the last listing, as one that may be old.
func (l *list) known() (last Listing, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, err := l.stale()
	return last, err == nil && !last.At.IsZero()
}

// ask asks the provider, on its own, for a disk that does not answer keeps nobody who
// must die.
func (p *Pipeline) ask(s *site, l *list, kind providers.Kind, a *asking) {
	defer close(a.done)
	name := s.provider.Name()
	entries, err := s.provider.List(p.ctx, kind)
	if err == nil {
		p.keepPin(s, kind)
	}
	if err == nil && s.prober {
		err = p.probe(p.ctx, name, entries)
	}
	slices.SortFunc(entries, func(a, b providers.Entry) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asking = nil
	if err != nil {
		if s.prober || a.must {
			l.valid.Store(false)
		}
		if a.err = err; !s.prober && p.ctx.Err() == nil {
			l.away, l.why = time.Now(), noListing(err)
			a.all, a.err = l.stale()
		}
		return
	}
	l.last, l.inherited = Listing{Entries: entries, At: time.Now()}, false
	a.all = l.last
	p.keepListing(s, l, kind)
	p.pruneWholes(name, kind, entries, time.Now())
	if time.Since(l.pruned) > pruneEvery {
		l.pruned = time.Now()
		if err := p.prune(name, kind, entries, l.pruned); err != nil {
			p.log.Warn("write state", "error", err)
		}
	}
}

// stale is what a cloud has said last, or why it cannot be asked; l.mu is held.
func (l *list) stale() (Listing, error) {
	if l.last.At.IsZero() {
		return Listing{}, l.why
	}
	last := l.last
	last.Stale = true
	return last, nil
}

// A ListingState is what is known of one listing, for people.
type ListingState struct {
	Provider string         `json:"provider"`
	Kind     providers.Kind `json:"kind"`
	At       time.Time      `json:"at"` // zero when there is none
	Entries  int            `json:"entries"`
	Stale    bool           `json:"stale"` // of an earlier process, or the provider could not be asked since
	Error    string         `json:"error,omitempty"`
}

// Listings are those of images and instances. No provider is asked.
func (p *Pipeline) Listings() []ListingState {
	all := []ListingState{}
	for _, name := range p.SiteNames() {
		s, err := p.site(name)
		if err != nil {
			continue // it has just gone
		}
		for _, kind := range []providers.Kind{providers.Images, providers.Instances} {
			l := s.lists[kind]
			l.mu.Lock()
			state := ListingState{Provider: name, Kind: kind, At: l.last.At.UTC(), Entries: len(l.last.Entries), Stale: l.inherited}
			if l.away.After(l.last.At) {
				state.Stale, state.Error = true, l.why.Error()
			}
			l.mu.Unlock()
			all = append(all, state)
		}
	}
	return all
}

// noListing is why a cloud gave no listing. It never says that there is nothing: who
// backs it up would take its images for deleted.
func noListing(err error) error {
	if e := disk.AsError(err); e.Kind == disk.NotFound {
		return &disk.Error{Kind: disk.Unreachable, RequestID: e.RequestID, Hint: e.Hint, Err: err}
	}
	return err
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
		l.again.Store(true)
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
