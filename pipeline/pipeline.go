package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/maypok86/otter/v2"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Options are what a Pipeline is made of.
type Options struct {
	Sites      []Site
	StateDir   string // made if absent; empty keeps nothing beyond the process and spools in the system's temporary folder
	SpoolLimit int64  // bytes of all spools together; 0 is what the file system has
	CacheSize  int64  // bytes of the block cache of remote sources; 0 is DefaultCacheSize
	Log        *slog.Logger
}

// DefaultCacheSize is the budget, in bytes, of the block cache when none is given.
const DefaultCacheSize = 64 << 20

// A Site is a provider with the policies that the configuration gives it.
type Site struct {
	Provider providers.Provider
	Clean    string // "auto", "require", "best-effort", "off"; empty is auto
	Snapshot string // "on-copy", "auto", "never", "require-stopped", "require-frozen"; empty is auto for a Prober, on-copy for others
}

// A Pipeline holds the configured providers and what is known of their images.
// It is safe for concurrent use.
type Pipeline struct {
	log   *slog.Logger
	state *state
	sites map[string]*site
	names []string // of the sites, in the order of the configuration
	cache *disk.Cache
	known *otter.Cache[string, *facts]
	limit int64 // of all spools together; 0 is none

	ctx  context.Context // of what no caller waits for: ends with Close
	stop context.CancelFunc

	mu     sync.Mutex
	cores  map[string]*core   // those that have users
	late   []*waiting         // uses that their views have given up, the oldest first
	spools map[*os.File]int64 // bytes that each spool has claimed
}

// New opens the state directory, which no other process may have open, and
// removes what a crash left in its spool.
func New(o Options) (*Pipeline, error) {
	p := &Pipeline{
		log:   cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		sites: map[string]*site{},
		cache: disk.NewCache(disk.CacheOptions{Budget: cmp.Or(o.CacheSize, DefaultCacheSize)}),
		limit: o.SpoolLimit,
		cores: map[string]*core{}, spools: map[*os.File]int64{},
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	var err error
	p.known, err = otter.New(&otter.Options[string, *facts]{
		MaximumWeight: factsBudget,
		Weigher:       func(_ string, f *facts) uint32 { return f.weight() },
	})
	if err != nil {
		return nil, fmt.Errorf("make cache of facts: %w", err)
	}
	for _, s := range o.Sites {
		name := s.Provider.Name()
		if p.sites[name] != nil {
			return nil, disk.Errorf(disk.Invalid, "configure provider %q: there are two of that name", name)
		}
		p.sites[name] = newSite(s)
		p.names = append(p.names, name)
	}
	if p.state, err = openState(o.StateDir); err != nil {
		return nil, err
	}
	for _, s := range p.sites {
		p.restorePins(s)
	}
	return p, nil
}

// SiteNames are the names of the providers in the order of the configuration.
func (p *Pipeline) SiteNames() []string { return p.names }

// Close ends all views and leaves the state directory to the next. Spools must
// be closed before.
func (p *Pipeline) Close() error {
	p.stop()
	p.mu.Lock()
	cores := p.cores
	p.cores, p.late = map[string]*core{}, nil
	p.mu.Unlock()
	for _, c := range cores {
		if err := c.lease.close(); err != nil {
			p.log.Warn("close image", "site", c.Ref.Site, "name", c.Ref.Entry.Name, "error", err)
		}
	}
	p.cache.Close()
	p.known.StopAllGoroutines()
	return p.state.close()
}
