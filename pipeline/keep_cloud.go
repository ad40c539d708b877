package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// imager is the provider of a site, if it makes images of instances by itself. Where
// they are cleaned, by the policy of the command or of the site, their bytes have to pass
// through here.
func (s *site) imager(clean string) (providers.Imager, bool) {
	policy := cmp.Or(clean, s.clean)
	if policy != cleanOff && (policy != cleanAuto || s.made.Cloud) {
		return nil, false
	}
	imager, ok := s.provider.(providers.Imager)
	return imager, ok
}

// imageInCloud has the cloud make an image of a live instance.
func (p *Pipeline) imageInCloud(ctx context.Context, k *keeping, imager providers.Imager) (*jobs.Record, error) {
	k.job = p.newJob(CopySpec{Machine: true, Site: k.name, Name: k.options.Image, Progress: k.options.Progress})
	k.rec.Source = placeOf(k.name, k.instance)
	ctx, err := k.enter(ctx)
	if err != nil {
		return nil, err
	}
	err = k.runInCloud(ctx, imager)
	return k.rec, k.end(ctx, err)
}

// runInCloud takes the stages. What the cloud has made when one fails is removed.
func (k *keeping) runInCloud(ctx context.Context, imager providers.Imager) (err error) {
	if err := k.stage(stageCheck, func() error { return k.checkName(ctx) }); err != nil {
		return err
	}
	var made providers.Imaging
	defer func() {
		if err != nil && made != nil {
			err = errors.Join(err, made.Abort(context.WithoutCancel(ctx)))
		}
	}()
	err = k.cloudStep(stageCapture, func() (string, error) {
		var how providers.Consistency
		k.snap.Job = k.rec.ID
		k.noteLeftOut(k.instance)
		made, how, err = imager.CreateImage(ctx, k.instance, k.snap, providers.Spec{Job: k.rec.ID, Name: k.options.Image, Size: -1})
		k.live.Note(func(r *jobs.Record) { r.Consistency = string(how) })
		return "the cloud has made the image: no bytes have passed through here", err
	})
	if err != nil {
		return err
	}
	err = k.cloudStep(stageVerify, func() (string, error) {
		d, err := made.Verify(ctx)
		if d.Sum == "" {
			return "the cloud has no digest of it", err
		}
		k.live.Note(func(r *jobs.Record) { r.CloudDigest = d.Algorithm + ":" + d.Sum })
		return "as the cloud says", err
	})
	if err != nil {
		return err
	}
	return k.stage(stageRegister, func() error {
		e, err := made.Commit(ctx)
		if err != nil {
			return err
		}
		e = k.p.applyHeld(ctx, k.name, k.options.Image, e)
		k.live.Note(func(r *jobs.Record) { r.Entry, r.Format, r.VirtualSize = &e, e.Format, max(0, e.VirtualSize) })
		k.p.Forget(k.name)
		return nil
	})
}

// checkName refuses a name that is taken: whether it is by the same disk cannot be
// known without reading both.
func (k *keeping) checkName(ctx context.Context) error {
	if err := k.checkDestination(ctx); err != nil {
		return err
	}
	k.p.Forget(k.name) // somebody else may have taken it
	taken, err := k.taken(ctx)
	if err == nil && len(taken) > 0 {
		err = k.errTaken()
	}
	return err
}

// cloudStep is a step whose note is for when it is done.
func (k *keeping) cloudStep(name string, do func() (note string, err error)) error {
	if err := k.step(name, do); err != nil {
		return fmt.Errorf("capture %s as %s: %w", k.rec.Source, k.rec.Destination, err)
	}
	return nil
}

// SnapshotOf finds a snapshot of an instance that is there already, by its id, to be
// read as an image.
func (p *Pipeline) SnapshotOf(ctx context.Context, site string, instance providers.Entry, id string) (providers.Entry, error) {
	s, err := p.site(site)
	if err != nil {
		return providers.Entry{}, err
	}
	var e providers.Entry
	switch reuser, ok := s.provider.(providers.Reuser); {
	case !instance.Live():
		err = disk.Errorf(disk.Unsupported, "it is no live instance")
	case !ok:
		err = disk.Errorf(disk.Unsupported, "the provider knows no snapshots by their ids")
	default:
		if e, err = reuser.SnapshotOf(ctx, instance, id); err == nil && e.Live() {
			err = disk.Errorf(disk.Invalid, "it is a live instance") // a copy would capture it
		}
	}
	if err != nil {
		return e, fmt.Errorf("find snapshot %q of %s: %w", id, placeOf(site, instance), err)
	}
	return e, nil
}
