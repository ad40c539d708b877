package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// ErrSuspended is the cause with which a context of copies is cancelled when the
// process is told to end: what they have made stays, and they can be taken up
// again.
var ErrSuspended = disk.Errorf(disk.Cancelled, "the program is ending")

// errPaused ends a run after the stage that was asked for.
var errPaused = errors.New("paused")

// A job is one copy under way: its spec, its record, and what each stage leaves
// for the next.
type job struct {
	p    *Pipeline
	spec CopySpec
	rec  *jobs.Record
	live *jobs.Job // nil in a plan

	src      *core // the source; of bytes from outside and of captures, one made for this job
	held     *core // the view's core, kept open as long as the job
	uploader providers.Uploader
	keeper   providers.SetKeeper // the same; nil where it keeps no sets
	site     *site
	pieces   []*piece         // what is to be sent
	beside   []*beside        // companions that are to be sent
	booting  []providers.Role // those that the image will have
	grows    *providers.Entry // the image of the name, to which pieces are added
	waiting  int              // data disks that wait for the boot disk that is sent
	have     int              // disks that the image of the name has
	seen     []string         // what the provider has waited for in this stage
	closers  []func() error   // of what stands in the place of the source
}

func (p *Pipeline) newJob(spec CopySpec) *job {
	rec := &jobs.Record{
		Schema: jobs.Schema, ID: jobs.NewID(), State: jobs.Running, Started: time.Now(), Until: spec.Until,
		Source: spec.Origin, Destination: diskPlace(spec.Site, providers.Images, spec.Name, spec.Disk, spec.Device), Scratch: spec.Scratch,
	}
	if spec.Role != "" {
		rec.Destination += "." + string(spec.Role)
	}
	if spec.Note != "" {
		rec.Notes = append(rec.Notes, spec.Note)
	}
	if v := spec.From; v != nil && spec.Origin == "" {
		e := v.Ref.Entry
		rec.Source = diskPlace(v.Ref.Site, e.Kind, e.Name, v.Ref.Disk, v.facts.Disks[v.Ref.Disk].Device)
		if e.Waiting != nil {
			rec.Source = placeOf(v.Ref.Site, e)
		}
		if !spec.Machine || len(v.facts.Disks) == 1 {
			rec.Source += "." + v.Ref.Format
		}
	}
	return &job{p: p, spec: spec, rec: rec}
}

// disksDir is between the name of a machine and a disk of it.
const disksDir = ".disks/"

// diskPlace is an image, or one of its data disks, for people.
func diskPlace(site string, kind providers.Kind, name string, n int, device string) string {
	place := fmt.Sprintf("%s:%s/%s", site, kind, name)
	if n == 0 {
		return place
	}
	return fmt.Sprintf("%s%s%d-%s", place, disksDir, n, cmp.Or(device, "disk"))
}

// begin starts the job of a spec. Its context ends when the job is cancelled.
func (p *Pipeline) begin(ctx context.Context, spec CopySpec) (*job, context.Context, error) {
	if spec.Until != "" && !slices.Contains(Stages(), spec.Until) {
		return nil, ctx, disk.Hint(disk.Errorf(disk.Invalid, "copy until stage %q: there is none of that name", spec.Until), "the stages are %v", Stages())
	}
	j := p.newJob(spec)
	j.keepRequest()
	j.takeUp()
	var err error
	if ctx, err = j.enter(ctx); err != nil {
		return nil, ctx, err
	}
	return j, ctx, nil
}

// enter makes the job one that runs. Its context ends when it is cancelled, and has
// providers tell what they wait for.
func (j *job) enter(ctx context.Context) (context.Context, error) {
	var err error
	j.live, ctx, err = j.p.jobs.Begin(ctx, j.rec)
	if err != nil {
		return ctx, err
	}
	return providers.Watch(ctx, j.waits), nil
}

// end ends the job with the result of its run. What it made is removed, unless
// the job is done, or can be taken up again.
func (j *job) end(ctx context.Context, err error) error {
	defer j.done()
	defer func() { j.p.metrics.ended(j.spec.Site, j.rec.State, err) }()
	paused := errors.Is(err, errPaused)
	if paused || err != nil && j.rec.Resume != nil && context.Cause(ctx) == ErrSuspended {
		if paused {
			err = nil
		}
		return errors.Join(err, j.suspend(), j.live.Pause(err))
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && disk.KindOf(cause) == disk.Cancelled && !errors.Is(err, cause) {
		err = fmt.Errorf("copy %s to %s: %w", j.rec.Source, j.rec.Destination, cause)
	}
	for _, p := range j.pieces {
		if e := j.undo(context.WithoutCancel(ctx), p); e != nil {
			err = errors.Join(err, fmt.Errorf("remove what was sent: %w", e))
		}
	}
	if e := j.undoBeside(context.WithoutCancel(ctx)); e != nil {
		err = errors.Join(err, fmt.Errorf("remove what was sent: %w", e))
	}
	for _, m := range j.rec.Made {
		if m.What == madeSpool {
			j.p.dropSpool(string(m.Token))
		}
	}
	if e := j.live.End(err); e != nil {
		j.p.log.Warn("write state", "error", e) // the image is there, or not, whatever the record says
	}
	return err
}

// suspend lets go of what the next run will find again.
func (j *job) suspend() error {
	if s, ok := j.spec.Image.(spoolImage); ok {
		s.leave()
	}
	var errs []error
	for _, p := range j.pieces {
		if p.upload != nil {
			errs = append(errs, p.upload.Suspend())
		}
	}
	for _, b := range j.beside {
		if b.upload != nil {
			errs = append(errs, b.upload.Suspend())
		}
	}
	return errors.Join(errs...)
}

// step takes one stage and writes it into the record, with the note that it leaves.
func (j *job) step(name string, do func() (note string, err error)) error {
	s := jobs.Stage{Name: name, Outcome: jobs.OutcomeDone, Started: time.Now()}
	j.live.Note(func(r *jobs.Record) { r.Stage = name })
	j.progress(name, 0, 0)
	j.seen = nil
	var err error
	s.Note, err = do()
	s.Note = strings.Join(append(j.seen, nonempty(s.Note)...), ", ")
	s.Took = time.Since(s.Started)
	if err != nil {
		s.Outcome, s.Note = jobs.OutcomeFailed, err.Error()
	}
	j.live.Note(func(r *jobs.Record) { r.Stages = append(r.Stages, s) })
	return err
}

// nonempty is a list of s, or of nothing.
func nonempty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// stage is a step of a copy, which may be the last that was asked for.
func (j *job) stage(name string, do func() error) error {
	if err := j.step(name, func() (string, error) { return "", do() }); err != nil {
		return fmt.Errorf("copy %s to %s: %w", j.rec.Source, j.rec.Destination, err)
	}
	if name == j.spec.Until {
		return errPaused
	}
	return nil
}

// skip records a step that was not taken.
func (j *job) skip(name, why string) error {
	j.live.Note(func(r *jobs.Record) {
		r.Stages = append(r.Stages, jobs.Stage{Name: name, Outcome: jobs.OutcomeNotDone, Note: why})
	})
	if name == j.spec.Until {
		return errPaused
	}
	return nil
}

func (j *job) progress(stage string, done, total int64) {
	j.live.Progress(done, total)
	if j.spec.Progress != nil {
		j.spec.Progress(Progress{Stage: stage, Done: done, Total: total})
	}
}

// done lets go of the source.
func (j *job) done() {
	for _, b := range j.beside {
		b.close()
	}
	for _, end := range j.closers {
		if err := end(); err != nil {
			j.p.log.Warn("close cleaned disk", "error", err)
		}
	}
	if j.held != nil {
		j.p.drop(j.held)
	}
}

// waits tells what the provider waits for meanwhile.
func (j *job) waits(state string) {
	if n := len(j.seen); n == 0 || j.seen[n-1] != state {
		j.seen = append(j.seen, state)
	}
	now := j.live.Waits(state)
	if j.spec.Progress != nil {
		j.spec.Progress(Progress{Stage: j.rec.Stage, Done: now.Done, Total: now.Total, Note: state})
	}
}

// Progress is where a copy is.
type Progress struct {
	Stage       string // of Stages
	Done, Total int64  // bytes of the stage; Total 0 where nothing is counted
	Note        string // what it waits for, in the provider's word; empty for nothing
}
