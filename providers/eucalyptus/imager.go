package eucalyptus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2"
	"chromogenic/providers/internal/process"
)

// imageTime is how long the cloud may take to make an image of a volume.
const imageTime = 4 * time.Hour

// CreateImage has the cloud make an image of an instance: of one that boots from a volume by
// itself, of any other by bundling it, which restarts it, and registering that.
func (p *Provider) CreateImage(ctx context.Context, e providers.Entry, snap providers.SnapSpec, spec providers.Spec) (providers.Imaging, providers.Consistency, error) {
	i, err := p.createImage(ctx, e, snap, spec)
	if err != nil {
		return nil, "", fmt.Errorf("make image of %q: %w", e.Name, err)
	}
	return i, providers.Crash, nil
}

func (p *Provider) createImage(ctx context.Context, e providers.Entry, snap providers.SnapSpec, spec providers.Spec) (*imaging, error) {
	if !e.Live() {
		return nil, disk.Errorf(disk.Unsupported, "it is no live instance")
	}
	if err := better(snap); err != nil {
		return nil, err
	}
	if err := checkName(spec.Name); err != nil {
		return nil, err
	}
	if err := p.refuseTaken(ctx, spec.Name); err != nil {
		return nil, err
	}
	s, err := p.session(ctx)
	if err != nil {
		return nil, err
	}
	i, err := p.instance(ctx, e.ID)
	if err != nil {
		return nil, err
	}
	made := &imaging{p: p, s: s, spec: spec, of: i}
	if i.RootDeviceType == ec2.EBS {
		return made, made.ofVolume(ctx, snap)
	}
	if why := instanceReason(i); why != "" {
		return nil, disk.Errorf(disk.Unsupported, "%s", why)
	}
	return made, made.ofBundle(ctx, snap)
}

// An imaging is an image that the cloud has made, marked as one that is about to be
// committed.
type imaging struct {
	p    *Provider
	s    *session
	spec providers.Spec
	of   ec2.Instance
	j    *journal // of its bundle; nil for one of a volume
	id   string
	done bool
}

// ofBundle bundles the instance and registers that.
func (i *imaging) ofBundle(ctx context.Context, snap providers.SnapSpec) error {
	snap.Job = i.spec.Job
	j, err := i.p.bundleInstance(ctx, i.of, snap)
	if err != nil {
		return err
	}
	r, err := i.p.registerBundle(ctx, i.s, i.of, j, i.spec.Name)
	if err != nil {
		return errors.Join(err, i.p.undoNow(ctx, j))
	}
	i.j, i.id = j, r.ID
	return nil
}

// ofVolume has the cloud snapshot the volume.
func (i *imaging) ofVolume(ctx context.Context, snap providers.SnapSpec) error {
	all, err := i.p.ownRecords(ctx)
	if err != nil {
		return err
	}
	name := cloudName(i.spec.Name, "")
	for _, r := range all {
		if r.Name == name {
			name = cloudName(i.spec.Name, i.spec.Job)
		}
	}
	i.id, err = i.s.ec2.CreateImage(ctx, i.of.ID, name, marked(stateCommit, i.spec.Job, process.Name()), !i.p.mayRestart(snap))
	if err != nil {
		return err
	}
	i.p.own(i.id, true)
	if err := i.await(ctx); err != nil {
		return errors.Join(err, i.Abort(ctx))
	}
	return nil
}

// await waits until the image is whole.
func (i *imaging) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, imageTime, disk.Errorf(disk.Timeout, "the cloud has not made the image in %v", imageTime))
	defer cancel()
	for {
		r, err := i.p.record(ctx, i.id)
		switch {
		case err != nil:
			return fmt.Errorf("look at image %s: %w", i.id, err)
		case r.State == "available":
			return nil
		case r.State != "pending":
			return disk.Errorf(disk.Other, "image %s is %s: %s", i.id, r.State, r.StateReason)
		}
		providers.Waits(ctx, r.State)
		if err := pause(ctx, i.p.o.Poll); err != nil {
			return err
		}
	}
}

// Verify looks at what the cloud says of the image. It has no digest of its bytes.
func (i *imaging) Verify(ctx context.Context) (providers.Digest, error) {
	r, err := i.p.record(ctx, i.id)
	if err == nil && r.State != "available" {
		err = disk.Errorf(disk.Other, "the image is %s after it was available", r.State)
	}
	if err == nil && r.Public {
		err = disk.Errorf(disk.Other, "the image that the cloud has made is public, not private")
	}
	if err == nil && i.j != nil {
		err = i.verifyBundle(ctx)
	}
	if err != nil {
		return providers.Digest{}, fmt.Errorf("verify %.80q: %w", i.spec.Name, err)
	}
	return providers.Digest{}, nil
}

// verifyBundle looks whether all objects are there that the manifest names.
func (i *imaging) verifyBundle(ctx context.Context) error {
	r := &record{Image: ec2.Image{ID: i.id, Location: i.j.manifest().String()}}
	objects, err := i.p.objects(ctx, i.s, r)
	if err != nil {
		return err
	}
	there, err := i.s.store.list(ctx, i.j.area())
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return disk.Errorf(disk.Malformed, "the bundle that the cloud has made has no manifest")
	}
	for _, o := range objects[:len(objects)-1] { // the last would be an index
		if _, ok := there[o.key[len(i.j.area().key):]]; !ok {
			return disk.Errorf(disk.Malformed, "the bundle that the cloud has made lacks object %q", o)
		}
	}
	return nil
}

// Commit gives the image its name.
func (i *imaging) Commit(ctx context.Context) (providers.Entry, error) {
	e, err := i.commit(ctx)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("commit image %.80q: %w", i.spec.Name, err)
	}
	return e, nil
}

func (i *imaging) commit(ctx context.Context) (providers.Entry, error) {
	if err := i.p.refuseTaken(ctx, i.spec.Name, i.id); err != nil {
		return providers.Entry{}, err
	}
	r, err := i.p.record(ctx, i.id)
	if err != nil {
		return providers.Entry{}, err
	}
	own, err := ownTags(i.spec.Job, i.spec.Name, r.Name, -1, i.spec.Mtime)
	if err != nil {
		return providers.Entry{}, err
	}
	m := i.p.inherited(ctx, i.of)
	m.Meta.Kernel, m.Meta.Ramdisk = "", ""
	description, tags, err := kept(m, own)
	if err == nil {
		err = i.s.ec2.SetTags(ctx, []string{i.id}, tags, nil)
	}
	if err == nil {
		err = committing{p: i.p, s: i.s, id: i.id, name: i.spec.Name, own: []string{i.id}}.win(ctx)
	}
	if err == nil {
		err = i.s.ec2.SetDescription(ctx, i.id, description)
	}
	if err != nil {
		return providers.Entry{}, err
	}
	i.done = true
	i.p.own(i.id, false)
	if i.j != nil {
		if err := i.j.remove(); err != nil {
			return providers.Entry{}, fmt.Errorf("the image is there, as %s: %w", i.id, err)
		}
	}
	return i.p.listed(ctx, i.id)
}

// Abort removes the image, and its bundle.
func (i *imaging) Abort(ctx context.Context) error {
	if i.done {
		return nil
	}
	i.done = true
	defer i.p.own(i.id, false)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	var err error
	if i.j != nil {
		err = i.p.undoNow(ctx, i.j)
	} else if err = i.s.ec2.Deregister(ctx, i.id); disk.KindOf(err) == disk.NotFound {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("abort image %.80q: %w", i.spec.Name, err)
	}
	return nil
}
