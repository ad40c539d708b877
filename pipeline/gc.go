package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// A Leftover is a thing that nobody goes on with.
type Leftover struct {
	Site   string    `json:"site,omitempty"` // the provider that has it; empty for what is in the state directory
	What   string    `json:"what"`           // "job", "spool", "temporary"
	ID     string    `json:"id"`
	Size   int64     `json:"size"`           // bytes; -1 unknown
	Since  time.Time `json:"since,omitzero"` // where it is known
	Reason string    `json:"reason"`
}

// What a Leftover is.
const (
	leftJob       = "job"       // interrupted, with all that it has made
	leftSpool     = "spool"     // a file in the state directory
	leftTemporary = "temporary" // an upload that was not finished, or a snapshot that nobody reads
)

// resumable is how long a job that was interrupted waits for its owner.
const resumable = 7 * 24 * time.Hour

// settling is how long a spool may be there before the job that it is for.
const settling = time.Minute

// junk is a leftover and how it goes.
type junk struct {
	Leftover
	remove func(context.Context) error
}

// Start goes on in the background with what earlier processes have left: jobs
// that were cut off are taken up (Recover), what nobody needs is removed (GC). The
// jobs are suspended when ctx ends, or with Close.
func (p *Pipeline) Start(ctx context.Context) {
	work, suspend := context.WithCancelCause(context.WithoutCancel(ctx))
	ended := context.AfterFunc(ctx, func() { suspend(ErrSuspended) })
	closed := context.AfterFunc(p.ctx, func() { suspend(ErrSuspended) })
	p.work.Go(func() {
		defer suspend(nil)
		defer ended()
		defer closed()
		p.Recover(work)
		if work.Err() != nil {
			return
		}
		left, err := p.GC(work, GCOptions{})
		for _, l := range left {
			p.log.Info("removed what a crash has left", "what", l.What, "provider", l.Site, "id", l.ID, "reason", l.Reason)
		}
		if err != nil {
			p.log.Warn("look for leftovers", "error", err) // the next start tries again
		}
	})
}

// GCOptions say what GC removes.
type GCOptions struct {
	DryRun bool          `json:"dry_run,omitempty"` // removes nothing
	Older  time.Duration `json:"older,omitempty"`   // of jobs that could be resumed, those that nobody has for so long, in nanoseconds; 0 is a week, less than 0 is all
}

// GC removes what interrupted copies and captures have left behind: at the
// providers, in the spool folder, and jobs that cannot be resumed, or that nobody
// has resumed for a while. What another process is working on stays, and so does
// what an interrupted job goes on with. It gives what it has removed, in a dry
// run what it would; the rest is still looked at after an error.
func (p *Pipeline) GC(ctx context.Context, o GCOptions) ([]Leftover, error) {
	var gone []Leftover
	var errs []error
	spools := func(context.Context) ([]junk, error) { return p.spareSpools(time.Now()) }
	hopeless := func(ctx context.Context) ([]junk, error) { return p.hopelessJobs(ctx, cmp.Or(o.Older, resumable)) }
	for _, find := range []func(context.Context) ([]junk, error){hopeless, spools, p.temporaries} {
		found, err := find(ctx)
		if err != nil {
			errs = append(errs, err)
		}
		for _, j := range found {
			if !o.DryRun {
				if err := j.remove(ctx); err != nil {
					errs = append(errs, fmt.Errorf("remove %s %s: %w", j.What, j.ID, err))
					continue
				}
			}
			gone = append(gone, j.Leftover)
		}
	}
	return gone, errors.Join(errs...)
}

// hopelessJobs are the interrupted ones that will never be done.
func (p *Pipeline) hopelessJobs(ctx context.Context, older time.Duration) ([]junk, error) {
	var found []junk
	for _, rec := range p.jobs.List() {
		if rec.State != jobs.Interrupted {
			continue
		}
		why := p.hopeless(ctx, &rec, older)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("look for leftovers: %w", err)
		}
		if why == nil {
			continue
		}
		l := Leftover{What: leftJob, ID: rec.ID, Since: lastSeen(&rec), Reason: why.Error()}
		for _, m := range rec.Made {
			if m.What == madeSpool {
				l.Size += allocated(p.state.spoolPath(string(m.Token)))
			} else {
				l.Site, l.Size = m.Site, -1
				break
			}
		}
		found = append(found, junk{l, func(ctx context.Context) error { return p.GiveUp(ctx, rec.ID, why) }})
	}
	return found, nil
}

// hopeless is why an interrupted job will never be done, nil for one that may be.
func (p *Pipeline) hopeless(ctx context.Context, rec *jobs.Record, older time.Duration) error {
	if rec.Stage == stageRemove {
		return unresumable(rec)
	}
	if rec.Resume == nil {
		return disk.Errorf(disk.NotFound, "its source is gone")
	}
	if age := time.Since(lastSeen(rec)); age > older {
		return disk.Errorf(disk.Cancelled, "nobody has resumed it for %v", age.Round(time.Second))
	}
	var r request
	if json.Unmarshal(rec.Resume, &r) == nil && r.Image != nil {
		if _, ok := p.Provider(r.Image.Site); !ok {
			return nil // another configuration knows more of it
		}
	}
	_, closeSource, err := p.respec(ctx, rec)
	if err == nil {
		closeSource()
		return nil
	}
	if kind := disk.KindOf(err); kind == disk.Stale || kind == disk.NotFound {
		return err
	}
	return nil
}

// lastSeen is when something was last done for a job.
func lastSeen(rec *jobs.Record) time.Time {
	last := rec.Started
	if rec.Ended.After(last) {
		last = rec.Ended
	}
	for _, s := range rec.Stages {
		if end := s.Started.Add(s.Took); end.After(last) {
			last = end
		}
	}
	return last
}

// spareSpools are files of jobs that have ended. Those without a job are of
// programs that are writing now: what was there before is gone since New.
func (p *Pipeline) spareSpools(now time.Time) ([]junk, error) {
	if p.state.temp {
		return nil, nil
	}
	files, err := os.ReadDir(p.state.spool)
	if err != nil {
		return nil, fmt.Errorf("read spool folder: %w", err)
	}
	needed := map[string]bool{}
	for _, rec := range p.jobs.List() {
		for _, m := range rec.Made {
			needed[string(m.Token)] = needed[string(m.Token)] || !rec.State.Ended()
		}
	}
	var found []junk
	for _, f := range files {
		path := p.state.spoolPath(f.Name())
		var st unix.Stat_t
		if needed[f.Name()] || strings.HasPrefix(f.Name(), spoolPrefix) || unix.Stat(path, &st) != nil {
			continue
		}
		since := time.Unix(st.Ctim.Unix())
		if now.Sub(since) < settling {
			continue // a job that begins names its spool first
		}
		l := Leftover{What: leftSpool, ID: f.Name(), Size: allocated(path), Since: since, Reason: "its job has ended"}
		found = append(found, junk{l, func(context.Context) error {
			if err := removeFile(path); err != nil {
				return err
			}
			p.dropSpool(l.ID) // what is counted of it
			return nil
		}})
	}
	return found, nil
}

// temporaries are what lies at the providers and belongs to no job that may go
// on. A provider that cannot tell is an error, and the others are asked.
func (p *Pipeline) temporaries(ctx context.Context) ([]junk, error) {
	var errs []error
	var found []junk
	now := p.sites.Load()
	for _, name := range now.names {
		taker, ok := now.byName[name].provider.(providers.Snapshotter)
		if !ok {
			continue
		}
		ids, err := taker.Leftovers(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("look for leftovers of %s: %w", name, err))
		}
		mine := p.tags(name)
		for _, id := range ids {
			if mine(id) {
				continue
			}
			l := Leftover{Site: name, What: leftTemporary, ID: id, Size: -1, Since: begun(id), Reason: "nobody works on it"}
			found = append(found, junk{l, func(ctx context.Context) error { return taker.Release(ctx, id) }})
		}
	}
	return found, errors.Join(errs...)
}

// tags tells whether a thing at a provider is of a job that has not ended, by the
// job's id that it is tagged with, or by the token that the job has noted.
func (p *Pipeline) tags(site string) func(id string) bool {
	var tags []string
	for _, rec := range p.jobs.List() {
		if rec.State.Ended() {
			continue
		}
		tags = append(tags, rec.ID)
		for _, m := range rec.Made {
			if m.Site == site && len(m.Token) > 0 {
				tags = append(tags, string(m.Token))
			}
		}
	}
	return func(id string) bool {
		for _, tag := range tags {
			if strings.Contains(id, tag) {
				return true
			}
		}
		return false
	}
}

// begun is when the job began whose id is in s, zero if there is none in it.
func begun(s string) time.Time {
	t, err := time.Parse(jobs.TimeLayout, regexp.MustCompile(`[0-9]{8}T[0-9]{6}Z`).FindString(s))
	if err != nil {
		return time.Time{}
	}
	return t
}
