package control

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// A Service is what can be asked of the owner of a state directory. The ids of
// jobs may be cut short, as jobs.Jobs has it. It is safe for concurrent use.
type Service interface {
	// Status tells who the owner is and what it does.
	Status(ctx context.Context) (Status, error)

	// Jobs are all records, the oldest first.
	Jobs(ctx context.Context) ([]jobs.Record, error)

	// Job is one of them.
	Job(ctx context.Context, id string) (jobs.Record, error)

	// Wait returns when a job does not run any longer.
	Wait(ctx context.Context, id string) (jobs.Record, error)

	// Cancel ends a job that runs, or gives up one that is interrupted. It
	// returns when what the job had made is gone.
	Cancel(ctx context.Context, id string) (jobs.Record, error)

	// Resume is pipeline.Resume. The job is suspended when ctx ends.
	Resume(ctx context.Context, id, until string, progress func(pipeline.Progress)) (*jobs.Record, error)

	// Copy is pipeline.Copy, or Plan for a dry run. The copy is cancelled when
	// ctx ends.
	Copy(ctx context.Context, r Request, progress func(pipeline.Progress)) (*jobs.Record, error)

	// Capture is pipeline.Capture. It is cancelled when ctx ends.
	Capture(ctx context.Context, r CaptureRequest, progress func(pipeline.Progress)) (*jobs.Record, error)

	// Remove is pipeline.Remove, or RemoveDisk, or for a dry run PlanRemoval or
	// PlanDiskRemoval. What has begun is not stopped by the end of ctx.
	Remove(ctx context.Context, r RemoveRequest) (pipeline.Removed, error)

	// Refresh forgets what is known of a provider's listings, of all providers
	// with an empty name, and lists them anew.
	Refresh(ctx context.Context, site string) error

	// GC is pipeline.GC.
	GC(ctx context.Context, o pipeline.GCOptions) ([]pipeline.Leftover, error)

	// Charge is pipeline.Charge: it counts what the command reads by itself.
	Charge(ctx context.Context, site string, bytes int64, over bool) (granted int64, err error)

	// Metrics are numbers in the text format of Prometheus.
	Metrics(ctx context.Context) ([]byte, error)
}

// A Status is what the owner of a state directory does.
type Status struct {
	PID       int           `json:"pid"`
	Since     time.Time     `json:"since"`
	Providers []string      `json:"providers"`
	Running   []jobs.Record `json:"running"`
}

// A Request is a copy between two providers.
type Request struct {
	Source      Source        `json:"source"`
	Destination Destination   `json:"destination"`
	Store       string        `json:"store,omitempty"` // as in pipeline.CopySpec
	Clean       string        `json:"clean,omitempty"`
	Replace     bool          `json:"replace,omitempty"`
	Rate        pipeline.Rate `json:"rate,omitzero"`
	OverBudget  bool          `json:"over_budget,omitempty"`
	Until       string        `json:"until,omitempty"`
	DryRun      bool          `json:"dry_run,omitempty"`
}

// A CaptureRequest is the capture of an instance, as pipeline.CaptureOptions has
// it.
type CaptureRequest struct {
	Site       string        `json:"site"`
	ID         string        `json:"id"`
	Name       string        `json:"name,omitempty"`
	Keep       int           `json:"keep,omitempty"`
	Freeze     bool          `json:"freeze,omitempty"`
	MayRestart bool          `json:"may_restart,omitempty"`
	Image      string        `json:"image,omitempty"`
	Clean      string        `json:"clean,omitempty"`
	Rate       pipeline.Rate `json:"rate,omitzero"`
	OverBudget bool          `json:"over_budget,omitempty"`
}

// A RemoveRequest is the removal of an image, or of a capture, or of one data disk.
type RemoveRequest struct {
	Site    string         `json:"site"`
	Kind    providers.Kind `json:"kind"`
	ID      string         `json:"id"`
	Version string         `json:"version"`         // that was agreed to: another one is Stale
	Disk    int            `json:"disk,omitempty"`  // that goes alone; 0 is all
	Purge   bool           `json:"purge,omitempty"` // with what the image is made of
	DryRun  bool           `json:"dry_run,omitempty"`
}

// A Source is one image, or instance, in a format.
type Source struct {
	Site   string         `json:"site"`
	Kind   providers.Kind `json:"kind"`
	ID     string         `json:"id"`
	Format string         `json:"format"`
	Disk   int            `json:"disk,omitempty"`

	// Machine asks for all its disks, whatever the format.
	Machine bool `json:"machine,omitempty"`
}

// A Destination is a name among the images of a provider; empty is that of the
// source.
type Destination struct {
	Site string `json:"site"`
	Name string `json:"name,omitempty"`

	// Disk is the number of a data disk of that image; 0 is the image itself.
	Disk   int    `json:"disk,omitempty"`
	Device string `json:"device,omitempty"`
}

// Local is the Service of a pipeline in this process, which stays the caller's.
func Local(p *pipeline.Pipeline) Service { return &owner{p, time.Now()} }

type owner struct {
	*pipeline.Pipeline
	since time.Time
}

func (o *owner) Status(context.Context) (Status, error) {
	s := Status{PID: os.Getpid(), Since: o.since.UTC(), Providers: o.SiteNames(), Running: []jobs.Record{}}
	for _, rec := range o.Pipeline.Jobs().List() {
		if rec.State == jobs.Running {
			s.Running = append(s.Running, rec)
		}
	}
	return s, nil
}

func (o *owner) Jobs(context.Context) ([]jobs.Record, error) { return o.Pipeline.Jobs().List(), nil }

func (o *owner) Job(_ context.Context, id string) (jobs.Record, error) {
	return o.Pipeline.Jobs().Get(id)
}

func (o *owner) Wait(ctx context.Context, id string) (jobs.Record, error) {
	return o.Pipeline.Jobs().Wait(ctx, id)
}

func (o *owner) Cancel(ctx context.Context, id string) (jobs.Record, error) {
	rec, err := o.Pipeline.Jobs().Get(id)
	switch {
	case err != nil:
		return rec, err
	case rec.State.Ended():
		return rec, disk.Errorf(disk.Invalid, "cancel job %s: it is %s", rec.ID, rec.State)
	case rec.State != jobs.Interrupted:
		return o.Pipeline.Jobs().Cancel(ctx, rec.ID)
	}
	if err := o.GiveUp(ctx, rec.ID, disk.Errorf(disk.Cancelled, "job %s was cancelled", rec.ID)); err != nil {
		return rec, err
	}
	return o.Pipeline.Jobs().Get(rec.ID)
}

func (o *owner) Resume(ctx context.Context, id, until string, progress func(pipeline.Progress)) (*jobs.Record, error) {
	ctx, stop := endingWith(ctx, pipeline.ErrSuspended)
	defer stop()
	rec, err := o.Pipeline.Resume(ctx, id, until, progress)
	return rec, goOn(rec, err)
}

func (o *owner) Capture(ctx context.Context, r CaptureRequest, progress func(pipeline.Progress)) (*jobs.Record, error) {
	e, err := o.entry(ctx, Source{Site: r.Site, Kind: providers.Instances, ID: r.ID})
	if err != nil {
		return nil, err
	}
	rec, err := o.Pipeline.Capture(ctx, r.Site, e, pipeline.CaptureOptions{
		Name: r.Name, Keep: r.Keep, Freeze: r.Freeze, MayRestart: r.MayRestart, Image: r.Image, Clean: r.Clean,
		Rate: r.Rate, Over: r.OverBudget, Progress: progress,
	})
	return rec, goOn(rec, err)
}

func (o *owner) Copy(ctx context.Context, r Request, progress func(pipeline.Progress)) (*jobs.Record, error) {
	switch {
	case r.Until != "" && !o.Durable():
		err := disk.Errorf(disk.Unsupported, "copy until stage %q: there is no state directory to keep the job in", r.Until)
		return nil, disk.Hint(err, "say --state-dir DIR, one that is yours")
	}
	e, err := o.entry(ctx, r.Source)
	if err != nil {
		return nil, err
	}
	if r.Until != "" && e.Live() {
		return nil, disk.Errorf(disk.Unsupported, "copy until stage %q: the capture of a machine does not outlive its copy", r.Until)
	}
	v, err := o.View(ctx, pipeline.Ref{Site: r.Source.Site, Entry: e, Format: r.Source.Format, Disk: r.Source.Disk, Over: r.OverBudget})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	spec := pipeline.CopySpec{
		From: v, Machine: r.Source.Machine, Site: r.Destination.Site, Name: cmp.Or(r.Destination.Name, e.Name, e.ID),
		Disk: r.Destination.Disk, Device: r.Destination.Device,
		Store: r.Store, Clean: r.Clean, Replace: r.Replace, Rate: r.Rate, Mtime: e.Updated, Until: r.Until, Progress: progress,
	}
	if r.DryRun {
		return o.Plan(ctx, spec)
	}
	rec, err := o.Pipeline.Copy(ctx, spec)
	return rec, goOn(rec, err)
}

// goOn adds to the error of a job that was suspended how to go on with it.
func goOn(rec *jobs.Record, err error) error {
	if rec == nil || rec.State != jobs.Interrupted || disk.KindOf(err) != disk.Cancelled {
		return err
	}
	return disk.Hint(err, "chromogenic jobs resume %s goes on with it, and so does the next mount", rec.ID)
}

// entry finds the source. Who asks may have seen a newer listing than ours.
func (o *owner) entry(ctx context.Context, s Source) (providers.Entry, error) {
	for _, again := range []bool{false, true} {
		if again {
			o.Forget(s.Site)
		}
		all, err := o.ListNow(ctx, s.Site, s.Kind)
		if err != nil {
			return providers.Entry{}, err
		}
		for _, e := range all.Entries {
			if e.ID == s.ID {
				return e, nil
			}
		}
	}
	return providers.Entry{}, disk.Errorf(disk.NotFound, "find %s:%s/%s: there is none", s.Site, s.Kind, s.ID)
}

func (o *owner) Remove(ctx context.Context, r RemoveRequest) (pipeline.Removed, error) {
	src := Source{Site: r.Site, Kind: r.Kind, ID: r.ID}
	e, err := o.entry(ctx, src)
	if err == nil && e.Version != r.Version { // ours may be the older listing
		o.Forget(r.Site)
		e, err = o.entry(ctx, src)
	}
	switch {
	case err != nil:
		return pipeline.Removed{}, err
	case e.Version != r.Version:
		err := disk.Errorf(disk.Stale, "remove %s:%s/%s: it has changed since it was looked at", r.Site, r.Kind, r.ID)
		return pipeline.Removed{}, disk.Hint(err, "look at it again")
	case r.DryRun && (r.Disk > 0 || e.Waiting != nil):
		what, err := o.PlanDiskRemoval(ctx, r.Site, e, r.Disk)
		return pipeline.Removed{Removal: what}, err
	case r.DryRun:
		what, err := o.PlanRemoval(ctx, r.Site, e, r.Purge)
		return pipeline.Removed{Removal: what}, err
	}
	const by = "chromogenic rm"
	if r.Disk > 0 || e.Waiting != nil {
		return o.RemoveDisk(ctx, r.Site, e, r.Disk, by)
	}
	return o.Pipeline.Remove(ctx, r.Site, e, by, r.Purge)
}

func (o *owner) Refresh(ctx context.Context, site string) error {
	names := o.SiteNames()
	if site == "" {
		o.Pipeline.Refresh()
	} else {
		provider, ok := o.Provider(site)
		if !ok {
			return disk.Errorf(disk.NotFound, "refresh provider %q: there is none of that name", site)
		}
		if pin, ok := provider.(providers.Pinner); ok {
			pin.Reset()
		}
		o.Forget(site)
		names = []string{site}
	}
	for _, name := range names {
		for _, kind := range []providers.Kind{providers.Images, providers.Instances} {
			all, err := o.List(ctx, name, kind)
			if err == nil && all.Stale {
				err = disk.Errorf(disk.Unreachable, "the provider does not answer; shown is its listing of %s", all.At.Format(time.RFC3339))
			}
			if err != nil {
				return fmt.Errorf("refresh %s of %s: %w", kind, name, err)
			}
		}
	}
	return nil
}

func (o *owner) Metrics(context.Context) ([]byte, error) {
	var b bytes.Buffer
	err := o.Pipeline.Metrics(&b)
	return b.Bytes(), err
}

// endingWith is ctx with another cause for its end, but for a suspension.
func endingWith(ctx context.Context, cause error) (context.Context, func()) {
	out, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if context.Cause(ctx) == pipeline.ErrSuspended {
			cause = pipeline.ErrSuspended
		}
		end(cause)
	})
	return out, func() {
		stop()
		end(nil)
	}
}
