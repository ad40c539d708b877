package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// CaptureOptions say what to make of the capture of an instance.
type CaptureOptions struct {
	Name       string         // of the capture, in the place of the instance's; empty keeps that
	Keep       int            // how many captures of the instance and the name are there afterwards; 0 removes none
	Freeze     bool           // the filesystems must be frozen
	MayRestart bool           // the machine may be restarted for it
	Rate       Rate           // of the copy into the image, besides the limits of the provider
	Over       bool           // that copy reads on when the read budget is used up
	Image      string         // the name of an image to be made of it; the capture stays only with Keep
	Clean      string         // of that image, as in CopySpec
	Progress   func(Progress) // as that of CopySpec
}

// The stages of a capture; those of a copy follow where an image is made.
const (
	stageCapture = "capture"
	stagePrune   = "prune" // remove older captures
)

// Capture captures a live instance, as the policy of its site has it, and keeps the
// capture among the instances, or makes an image of it: in the cloud where that can
// (providers.Imager) and the capture does not stay, else by a copy of the capture. The
// record, which is returned once the job has begun, has what was made as its Entry.
//
// Older captures go only when the new one is there and can be read, and only those
// that Capture has made.
func (p *Pipeline) Capture(ctx context.Context, name string, instance providers.Entry, o CaptureOptions) (*jobs.Record, error) {
	k := &keeping{options: o, instance: instance, name: name}
	err := k.check(p)
	if err != nil {
		return nil, fmt.Errorf("capture instance %q of %s: %w", instance.Name, name, err)
	}
	if o.Image != "" && o.Keep == 0 {
		if s, err := p.site(name); err == nil {
			if imager, ok := s.imager(o.Clean); ok {
				return p.imageInCloud(ctx, k, imager)
			}
		}
		return p.captureImage(ctx, k)
	}
	k.job = p.newJob(CopySpec{Machine: true, Site: name, Name: o.Image, Clean: o.Clean, Rate: o.Rate, Progress: o.Progress})
	k.rec.Source = fmt.Sprintf("%s:%s/%s", name, instance.Kind, instance.Name)
	if o.Image == "" {
		k.rec.Destination = fmt.Sprintf("%s:%s", name, instance.Kind)
	}
	if ctx, err = k.enter(ctx); err != nil {
		return nil, err
	}
	err = k.run(ctx)
	return k.rec, k.end(ctx, err)
}

// captureImage makes an image of a capture that does not stay: a copy of the live
// instance.
func (p *Pipeline) captureImage(ctx context.Context, k *keeping) (*jobs.Record, error) {
	v, err := p.View(ctx, Ref{Site: k.name, Entry: k.instance, Format: formatRaw, Over: k.options.Over})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	v.snap = k.snap
	return p.Copy(ctx, CopySpec{From: v, Machine: true, Site: k.name, Name: k.options.Image, Clean: k.options.Clean, Rate: k.options.Rate, Progress: k.options.Progress})
}

// keeping is a job that captures an instance.
type keeping struct {
	*job
	options  CaptureOptions
	instance providers.Entry
	name     string // of the site
	snap     providers.SnapSpec
	keeper   providers.Keeper
}

// check refuses what can be known to fail.
func (k *keeping) check(p *Pipeline) error {
	s, err := p.site(k.name)
	if err != nil {
		return err
	}
	o := k.options
	keeper, ok := s.provider.(providers.Keeper)
	switch {
	case !k.instance.Live():
		return disk.Errorf(disk.Unsupported, "it is no live instance")
	case k.instance.Reason != "" && o.Image == "": // the cloud may make an image of what cannot be read
		return disk.Errorf(disk.Unsupported, "it cannot be read: %s", k.instance.Reason)
	case o.Keep < 0:
		return disk.Errorf(disk.Invalid, "keep %d captures", o.Keep)
	case !ok && (o.Image == "" || o.Keep > 0):
		return disk.Errorf(disk.Unsupported, "the provider keeps no captures")
	}
	k.keeper = keeper
	k.snap, err = s.policed(providers.SnapSpec{Name: o.Name, RequireFrozen: o.Freeze, MayRestart: o.MayRestart})
	return err
}

// run takes the stages.
func (k *keeping) run(ctx context.Context) error {
	image := k.options.Image != ""
	if image {
		if err := k.checkDestination(ctx); err != nil {
			return err
		}
	}
	var e providers.Entry
	err := k.step(stageCapture, func() (note string, err error) {
		e, err = k.capture(ctx)
		return e.ID, err
	})
	if err == nil && k.options.Keep > 0 {
		err = k.step(stagePrune, func() (string, error) { return k.prune(ctx, e) })
	}
	if err != nil {
		return fmt.Errorf("capture %s: %w", k.rec.Source, err)
	}
	if !image {
		return nil
	}
	if k.spec.From, err = k.p.View(ctx, Ref{Site: k.name, Entry: e, Format: formatRaw, Over: k.options.Over}); err != nil {
		return err
	}
	defer k.spec.From.Close()
	return k.job.run(ctx)
}

// capture makes the capture, and looks into it: one that cannot be read does not
// stay.
func (k *keeping) capture(ctx context.Context) (providers.Entry, error) {
	k.snap.Job = k.rec.ID
	k.noteLeftOut(k.instance)
	e, err := k.keeper.Keep(ctx, k.instance, k.snap)
	if err != nil {
		return e, err
	}
	k.p.Forget(k.name)
	f, err := k.p.facts(ctx, k.name, e)
	if err != nil {
		return e, errors.Join(err, k.remove(ctx, e))
	}
	place := placeOf(k.name, e)
	k.live.Note(func(r *jobs.Record) {
		r.Entry, r.Format, r.VirtualSize = &e, f.Format, f.Disks[0].Size
		r.Consistency = string(e.Capture.Consistency)
		if k.options.Image == "" {
			r.Destination = place
		} else {
			r.Notes = append(r.Notes, "the capture is kept as "+place)
		}
	})
	return e, nil
}

// prune removes the captures of the same instance and name that are too many, the
// oldest ones, but never the new one.
func (k *keeping) prune(ctx context.Context, made providers.Entry) (note string, err error) {
	all, err := k.p.ListNow(ctx, k.name, providers.Instances)
	if err != nil {
		return "", err
	}
	older := slices.DeleteFunc(slices.Clone(all.Entries), func(e providers.Entry) bool {
		return e.Capture == nil || !e.Capture.Ours || e.Capture.Of != made.Capture.Of || e.Name != made.Name || e.ID == made.ID
	})
	slices.SortFunc(older, func(a, b providers.Entry) int {
		return cmp.Or(a.Capture.Taken.Compare(b.Capture.Taken), cmp.Compare(a.ID, b.ID))
	})
	gone := max(0, len(older)-(k.options.Keep-1))
	for _, e := range older[:gone] {
		if err := k.remove(ctx, e); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d older captures removed", gone), nil
}

// remove removes a capture. One that is gone is removed.
func (k *keeping) remove(ctx context.Context, e providers.Entry) error {
	err := k.keeper.DeleteCapture(context.WithoutCancel(ctx), e)
	k.p.Forget(k.name)
	if err != nil && disk.KindOf(err) != disk.NotFound {
		return fmt.Errorf("remove capture: %w", err)
	}
	return nil
}
