package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// Options are what a Pipeline is made of.
type Options struct {
	Sites      []Site
	StateDir   string // made if absent; empty keeps nothing beyond the process and spools in the system's temporary folder
	SpoolLimit int64  // bytes of all spools together; 0 is what the file system has
	CacheSize  int64  // bytes of the block cache of remote sources; 0 is DefaultCacheSize
	Limits     Limits // of the traffic with all providers together
	Cleaning   Cleaning
	Log        *slog.Logger

	// Serving is for a mount: until a cloud answers, it shows what an earlier process
	// has listed. A command would rather fail.
	Serving bool

	// Charge counts what is read against the budgets of the process that has the
	// state, which this one has not. Nil counts here.
	Charge Charger
}

// DefaultCacheSize is the budget, in bytes, of the block cache when none is given.
const DefaultCacheSize = 64 << 20

// A Site is a provider with the policies that the configuration gives it.
type Site struct {
	Provider providers.Provider
	Cloud    bool   // what goes from it into another cloud is cleaned, if nothing else is said; what is in a folder belongs to its user
	Clean    string // "auto", "require", "best-effort", "off"; empty is auto
	Snapshot string // "on-copy", "auto", "never", "require-stopped", "require-frozen"; empty is auto for a Prober, on-copy for others
	Limits   Limits // of the traffic with it
}

// A Pipeline holds the configured providers and what is known of their images.
// It is safe for concurrent use.
type Pipeline struct {
	log   *slog.Logger
	state *state
	sites atomic.Pointer[sites] // never nil
	cache *disk.Cache           // of sources that are far away
	brief *disk.Cache           // of these while they are looked into
	known *otter.Cache[string, *facts]
	jobs  *jobs.Jobs
	limit int64 // of all spools together; 0 is none

	serving bool                      // Options.Serving
	common  common                    // limits of all sites together
	purse   func(site string) spender // makes the budget of a site
	metrics *metrics
	room    *cleaningRoom
	work    sync.WaitGroup // of Start

	ctx  context.Context // of what no caller waits for: ends with Close
	stop context.CancelFunc

	mu     sync.Mutex
	cores  map[string]*core     // those that have users
	late   []*waiting           // uses that their views have given up, the oldest first
	spools map[*os.File]int64   // bytes that each spool has claimed
	kept   map[string]int64     // bytes of each spool that an interrupted job goes on with
	held   map[string]Held      // metadata that waits for its image, by heldKey
	disks  map[string]time.Time // since when data disks wait for their image, by waitingKey
	looks  map[lookKey]*look    // under way
	wholes map[string]*whole    // images that could be fetched in order only, by imageKey and disk
}

// New opens the state directory, which no other process may have open, and
// removes what a crash left in its spool, but for what an interrupted job can go
// on with: see Recover.
func New(o Options) (*Pipeline, error) {
	p := &Pipeline{
		log:   cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		cache: disk.NewCache(disk.CacheOptions{Budget: cmp.Or(o.CacheSize, DefaultCacheSize), BlockSize: contentBlock, ReadAhead: 2 << 20, Parallel: 8}),
		brief: disk.NewCache(disk.CacheOptions{Budget: briefBudget, BlockSize: briefBlock, ReadAhead: -1}),
		limit: o.SpoolLimit, serving: o.Serving, room: newCleaningRoom(o.Cleaning),
		cores: map[string]*core{}, spools: map[*os.File]int64{}, looks: map[lookKey]*look{}, wholes: map[string]*whole{},
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
	if p.state, err = openState(o.StateDir); err != nil {
		return nil, err
	}
	p.openTraffic(o.Charge)
	err = p.openJobs()
	if err == nil {
		err = p.Configure(o.Sites, o.Limits)
	}
	if err != nil {
		return nil, errors.Join(err, p.state.close())
	}
	if err := p.sweepPatches(); err != nil {
		return nil, errors.Join(err, p.state.close())
	}
	p.restoreHeld()
	p.restoreWaiting()
	p.metrics = newMetrics(p)
	return p, nil
}

// What is fetched at once of a source that is far away, in bytes. A look into an image
// reads its tables, which lie scattered: a cluster of a qcow2, a few KiB of a VMDK. What
// is read later is content, in long runs; small blocks cost these nothing, for a read of
// more than one is passed on to a source that streams, and of others what is read ahead
// comes in parallel.
const (
	contentBlock = 256 << 10
	briefBlock   = 64 << 10
	briefBudget  = 8 << 20
)

// openJobs reads the records of jobs, and keeps the spools that they need.
func (p *Pipeline) openJobs() error {
	var err error
	if p.jobs, err = jobs.Open(p.state.db); err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, r := range p.jobs.List() {
		for _, m := range r.Made {
			keep[string(m.Token)] = m.What == madeSpool && r.State == jobs.Interrupted
		}
	}
	if p.kept, err = p.state.sweepSpool(keep); err != nil {
		return err
	}
	return p.sweepWholes(time.Now())
}

// Durable tells whether what is known of images and jobs outlives the process.
func (p *Pipeline) Durable() bool { return p.state.db != nil }

// Jobs are the copies that run, and the records of earlier ones.
func (p *Pipeline) Jobs() *jobs.Jobs { return p.jobs }

// endTime is how long Close waits for the work of Start to be suspended.
const endTime = 10 * time.Second

// Close ends all views and leaves the state directory to the next. Spools must
// be closed before.
func (p *Pipeline) Close() error {
	p.stop()
	idle := make(chan struct{})
	go func() { p.work.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-time.After(endTime): // its records say Running, which the next start knows how to read
		p.log.Warn("close: a provider does not answer, what waits for it is left")
	}
	closed := make(chan error, 1)
	go func() { closed <- p.close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeTime):
		p.log.Warn("close: a disk does not answer, what waits for it is left")
		return nil
	}
}

// closeTime is how long Close waits for files to close.
const closeTime = 5 * time.Second

func (p *Pipeline) close() error {
	p.mu.Lock()
	cores := p.cores
	p.cores, p.late = map[string]*core{}, nil
	p.mu.Unlock()
	for _, c := range cores {
		if err := c.lease.close(); err != nil {
			p.log.Warn("close image", "site", c.Ref.Site, "name", c.Ref.Entry.Name, "error", err)
		}
	}
	p.closeWholes()
	p.cache.Close()
	p.brief.Close()
	p.known.StopAllGoroutines()
	return errors.Join(p.closeBudgets(), p.state.close())
}
