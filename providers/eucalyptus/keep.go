package eucalyptus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/ec2"
)

// Keep has the cloud bundle an instance, which restarts it, and registers that as an image
// which is listed among the instances as a capture.
func (p *Provider) Keep(ctx context.Context, e providers.Entry, spec providers.SnapSpec) (providers.Entry, error) {
	kept, err := p.keep(ctx, e, spec)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("capture %q: %w", e.Name, err)
	}
	return kept, nil
}

func (p *Provider) keep(ctx context.Context, e providers.Entry, spec providers.SnapSpec) (providers.Entry, error) {
	i, err := p.capturable(ctx, e, spec)
	if err != nil {
		return providers.Entry{}, err
	}
	name := cmp.Or(spec.Name, e.Name)
	if err := checkName(name); err != nil {
		return providers.Entry{}, err
	}
	taken, err := providers.Moment(ctx, i.ID, name, p.captures)
	if err != nil {
		return providers.Entry{}, err
	}
	s, err := p.session(ctx)
	if err != nil {
		return providers.Entry{}, err
	}
	j, err := p.bundleInstance(ctx, i, spec)
	if err != nil {
		return providers.Entry{}, err
	}
	r, err := p.keepBundle(ctx, s, i, j, captureTag{i.ID, taken, providers.Crash}, name)
	if err != nil {
		return providers.Entry{}, errors.Join(cloudsAlone(err), p.undoNow(ctx, j))
	}
	defer p.own(r.ID, false)
	if err := j.remove(); err != nil {
		return providers.Entry{}, err
	}
	return r.captureEntry(), nil
}

// keepBundle registers the bundle of an instance as a capture.
func (p *Provider) keepBundle(ctx context.Context, s *session, i ec2.Instance, j *journal, tag captureTag, name string) (*record, error) {
	b, err := p.openBundle(ctx, j.manifest()) // what nobody can read is no capture
	if err != nil {
		return nil, err
	}
	r, err := p.registerBundle(ctx, s, i, j, name+" "+tag.taken.Format(providers.CaptureLayout))
	if err != nil {
		return nil, err
	}
	own, err := ownTags(j.Job, name, "", b.m.Size, time.Time{})
	if err != nil {
		return nil, err
	}
	own[tagCapture] = tag.String()
	m := p.inherited(ctx, i)
	m.Meta.Description = "" // it is the mark's
	_, tags, err := kept(m, own)
	if err == nil {
		err = s.ec2.SetTags(ctx, []string{r.ID}, tags, nil)
	}
	if err == nil {
		err = s.ec2.SetDescription(ctx, r.ID, marked(stateCapture))
	}
	if err != nil {
		return nil, err
	}
	return p.record(ctx, r.ID)
}

// registerBundle registers the bundle that the cloud has made of an instance, which boots as
// that did.
func (p *Provider) registerBundle(ctx context.Context, s *session, i ec2.Instance, j *journal, name string) (*record, error) {
	all, err := p.ownRecords(ctx)
	if err != nil {
		return nil, err
	}
	b := boots{}
	if i.Virtualization != "hvm" {
		b.kernel, b.ramdisk = i.Kernel, i.Ramdisk
	}
	return p.register(ctx, s, registration{at: j.manifest(), name: name, job: j.Job, arch: cloudArch(i.Architecture), boots: b, kind: bundle.Machine}, all)
}

// captures are those of this account that were kept.
func (p *Provider) captures(ctx context.Context) ([]providers.Entry, error) {
	all, err := p.ownRecords(ctx)
	var entries []providers.Entry
	for _, r := range all {
		if state, _, _ := r.state(); state != stateCapture {
			continue
		}
		if _, ok := parseCapture(r.Tags[tagCapture]); ok {
			entries = append(entries, r.captureEntry())
		}
	}
	return entries, err
}

func (r *record) captureEntry() providers.Entry {
	tag, _ := parseCapture(r.Tags[tagCapture])
	e := r.entry()
	e.Kind, e.Updated = providers.Instances, tag.taken
	e.Capture = &providers.Capture{Of: tag.of, Taken: tag.taken, Consistency: tag.how, Ours: true}
	return e
}

// DeleteCapture removes a capture for good, with its bundle.
func (p *Provider) DeleteCapture(ctx context.Context, e providers.Entry) error {
	if err := p.deleteCapture(ctx, e); err != nil {
		return fmt.Errorf("delete capture of %q: %w", e.Name, err)
	}
	return nil
}

func (p *Provider) deleteCapture(ctx context.Context, e providers.Entry) error {
	if e.Capture == nil || e.Kind != providers.Instances {
		return disk.Errorf(disk.Unsupported, "it is no capture")
	}
	s, err := p.session(ctx)
	if err != nil {
		return err
	}
	r, err := p.record(ctx, e.ID)
	switch {
	case disk.KindOf(err) == disk.NotFound:
		if _, live := p.instance(ctx, e.ID); live == nil {
			return disk.Errorf(disk.Unsupported, "it is a live instance")
		}
		return err
	case err != nil:
		return err
	case ofBytes(r.version(providers.Metadata{})) != ofBytes(e.Version):
		return disk.Errorf(disk.Stale, "it has changed since it was listed")
	}
	if state, _, _ := r.state(); state != stateCapture || !s.mine(r) {
		return disk.Errorf(disk.Unsupported, "image %s is no capture", r.ID)
	}
	return p.purge(ctx, s, r)
}
