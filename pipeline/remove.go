package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// stageRemove is the one stage of a removal.
const stageRemove = "remove"

// close(2) returns before the kernel has told of it, so a removal looks several times
// whether anybody reads the image, for half a second in all. Where a server is so busy
// that it takes a second to look once, it may take as long to learn of the close(2).
const (
	releasePolls = 20
	releasePoll  = 25 * time.Millisecond
)

// Removed is what a removal has taken, or would take.
type Removed struct {
	Job string `json:"job,omitempty"` // its record; empty when nothing was begun
	providers.Removal
}

// PlanRemoval tells what Remove would take with an image, or a capture that was
// kept. It fails as Remove would: Policy for a live machine, Busy for what is open,
// or is source or destination of a job that has not ended, or is protected; Stale
// for what has changed since it was listed. With purge what an image is made of goes too,
// where the provider would leave that (providers.Purger).
func (p *Pipeline) PlanRemoval(ctx context.Context, site string, e providers.Entry, purge bool) (providers.Removal, error) {
	what := providers.Removal{Size: e.Size}
	_, err := p.remover(site, e, purge)
	if err == nil {
		err = p.unused(ctx, site, e)
	}
	if err == nil {
		at, _ := p.Provider(site)
		purger, purges := at.(providers.Purger)
		if surveyor, ok := at.(providers.Surveyor); purge && purges {
			what, err = purger.SurveyPurge(ctx, e)
		} else if ok {
			what, err = surveyor.Survey(ctx, e)
		}
	}
	if err != nil {
		return providers.Removal{}, fmt.Errorf("remove %s: %w", placeOf(site, e), err)
	}
	return what, nil
}

// Remove removes an image, or a capture, for good. By says for whom, for people. It
// is a job, which nothing stops once it has begun. Purge is that of PlanRemoval.
func (p *Pipeline) Remove(ctx context.Context, site string, e providers.Entry, by string, purge bool) (Removed, error) {
	what, err := p.PlanRemoval(ctx, site, e, purge)
	if err != nil {
		return Removed{}, err
	}
	remove, err := p.remover(site, e, purge)
	if err != nil {
		return Removed{}, err
	}
	rec := &jobs.Record{Source: placeOf(site, e), Format: e.Format, VirtualSize: max(0, e.VirtualSize)}
	return p.removal(ctx, site, e, rec, what, filesOf(e, what), by, func(ctx context.Context) error { return remove(ctx, e) })
}

// removal is the job of a removal: rec says of what, and note what goes.
func (p *Pipeline) removal(ctx context.Context, site string, e providers.Entry, rec *jobs.Record, what providers.Removal, note, by string, remove func(context.Context) error) (Removed, error) {
	ctx = context.WithoutCancel(ctx)
	rec.Schema, rec.ID, rec.State, rec.Stage, rec.Started = jobs.Schema, jobs.NewID(), jobs.Running, stageRemove, time.Now()
	rec.Notes = []string{fmt.Sprintf("id %q, version %s, for %s", e.ID, e.Version, by)}
	for _, k := range what.Kept {
		rec.Notes = append(rec.Notes, fmt.Sprintf("%s stays: %s", k.File, k.Reason))
	}
	live, _, err := p.jobs.Begin(ctx, rec)
	if err != nil { // most likely for want of room, which a removal makes
		p.log.Warn("write state", "error", err)
	}
	stage := jobs.Stage{Name: stageRemove, Outcome: jobs.OutcomeDone, Started: rec.Started, Note: note}
	err = remove(ctx)
	p.Forget(site)
	p.letGo(site, e)
	for _, c := range e.Companions {
		p.letGo(site, c.Entry(e.Name))
	}
	stage.Took = time.Since(stage.Started)
	if err != nil {
		err = fmt.Errorf("remove %s: %w", rec.Source, err)
		stage.Outcome, stage.Note = jobs.OutcomeFailed, err.Error()
	}
	rec.Stages = append(rec.Stages, stage)
	if live == nil {
		rec.Finish(err)
	} else if e := live.End(err); e != nil {
		p.log.Warn("write state", "error", e) // the image is gone, or not, whatever the record says
	}
	if err == nil {
		p.log.Info("removed", "what", rec.Source, "files", stage.Note, "for", by, "job", rec.ID)
	}
	return Removed{rec.ID, what}, err
}

// placeOf is an entry as a place, for people.
func placeOf(site string, e providers.Entry) string {
	if e.Role != "" {
		return fmt.Sprintf("%s:%s/%s.%s", site, providers.Images, e.Name, e.Role)
	}
	if w := e.Waiting; w != nil {
		return diskPlace(site, providers.Images, e.Name, w.Number, w.Device)
	}
	place := fmt.Sprintf("%s:%s/%s", site, e.Kind, cmp.Or(e.Name, e.ID))
	if e.Capture != nil {
		place += "@" + e.Capture.Taken.UTC().Format(providers.CaptureLayout)
	}
	return place
}

// filesOf are the files that go, for people.
func filesOf(e providers.Entry, what providers.Removal) string {
	all := what.Files
	if len(all) == 0 {
		all = []string{e.ID}
	}
	if what.Metadata != "" {
		all = append(all[:len(all):len(all)], what.Metadata)
	}
	return strings.Join(all, ", ")
}

// remover is how an entry goes at its provider, or why it never does.
func (p *Pipeline) remover(site string, e providers.Entry, purge bool) (func(context.Context, providers.Entry) error, error) {
	s, err := p.site(site)
	if err != nil {
		return nil, err
	}
	if e.Live() {
		err := disk.Errorf(disk.Policy, "a live machine is never removed here")
		return nil, disk.Hint(err, "remove it where it runs; its captures can be removed")
	}
	if e.Capture != nil {
		if keeper, ok := s.provider.(providers.Keeper); ok {
			return keeper.DeleteCapture, nil
		}
	} else if purger, ok := s.provider.(providers.Purger); purge && ok {
		return purger.Purge, nil
	} else if deleter, ok := s.provider.(providers.Deleter); ok {
		return deleter.Delete, nil
	}
	return nil, disk.Errorf(disk.Unsupported, "provider %q removes no %s", site, e.Kind)
}

// unused tells why an entry must stay for now. Who is about to let go of it is waited
// for.
func (p *Pipeline) unused(ctx context.Context, site string, e providers.Entry) error {
	for polls := 0; ; polls++ {
		if err := p.neededByJob(site, e); err != nil {
			return err
		}
		used := p.inUse(site, e)
		for _, c := range e.Companions { // which may go with it
			used = used || p.inUse(site, c.Entry(e.Name))
		}
		if !used {
			return nil
		}
		if polls == releasePolls {
			err := disk.Errorf(disk.Busy, "it is being read or copied")
			return disk.Hint(err, "wait until that is done; lsof tells which programs have files of the mount open")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(releasePoll):
		}
	}
}

// inUse tells whether anybody has a view of an entry open, or copies from one.
func (p *Pipeline) inUse(site string, e providers.Entry) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	uses := 0
	for _, c := range p.cores {
		if c.of(site, e) {
			uses += c.refs - c.guesses
		}
	}
	for _, w := range p.late { // whose views are closed
		if w.core.of(site, e) && p.cores[w.core.key] == w.core {
			uses--
		}
	}
	return uses > 0
}

// of tells whether the views are of an entry, in whatever version.
func (c *core) of(site string, e providers.Entry) bool {
	return c.Ref.Site == site && c.Ref.Entry.Kind == e.Kind && c.Ref.Entry.ID == e.ID
}

// letGo gives up the views of an entry that linger: what is written now cannot be a
// copy of it.
func (p *Pipeline) letGo(site string, e providers.Entry) {
	p.mu.Lock()
	var gone []*waiting
	for _, w := range p.late {
		if w.core.of(site, e) {
			gone = append(gone, w)
		}
	}
	p.mu.Unlock()
	for _, w := range gone {
		p.leave(w)
	}
}

// neededByJob is the error of an entry that a job which has not ended reads, or
// would make or replace.
func (p *Pipeline) neededByJob(site string, e providers.Entry) error {
	for _, rec := range p.jobs.List() {
		if rec.State.Ended() || rec.Stage == stageRemove {
			continue
		}
		var r request
		does := ""
		switch {
		case writes(rec.Destination, placeOf(site, e)):
			does = "writes"
		case json.Unmarshal(rec.Resume, &r) == nil && r.Image != nil && r.Image.Site == site && r.Image.Kind == e.Kind && r.Image.ID == e.ID:
			does = "reads"
		default:
			continue
		}
		err := disk.Errorf(disk.Busy, "job %s, which is %s, %s it", rec.ID, rec.State, does)
		return disk.Hint(err, "chromogenic jobs resume, wait or cancel %s", rec.ID)
	}
	return nil
}

// writes tells whether who makes what is at dst changes what is at a place: that too
// is a data disk, or a companion, of the one which is the other.
func writes(dst, place string) bool {
	machine := func(place string) string {
		name, _, _ := strings.Cut(place, disksDir)
		for _, role := range providers.Roles() {
			name = strings.TrimSuffix(name, "."+string(role))
		}
		return name
	}
	return dst == place || machine(dst) == place || dst == machine(place)
}

// unresumable is why a job has nothing to be taken up by.
func unresumable(rec *jobs.Record) error {
	if rec.Stage != stageRemove {
		return disk.Hint(disk.Errorf(disk.Unsupported, "its source is gone"), "copy it again")
	}
	err := disk.Errorf(disk.Unsupported, "a removal that was cut off is not taken up: files of the image may be left")
	return disk.Hint(err, "look with chromogenic ls whether %s is there, and remove it again", rec.Source)
}
