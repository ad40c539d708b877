package openstack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/process"
)

// CreateImage has Nova make an image of a server. It is marked as a snapshot until it
// is committed, so that what a crash leaves is found.
func (p *Provider) CreateImage(ctx context.Context, e providers.Entry, snap providers.SnapSpec, spec providers.Spec) (providers.Imaging, providers.Consistency, error) {
	i, how, err := p.createImaging(ctx, e, snap, spec)
	if err != nil {
		return nil, "", fmt.Errorf("make image of %q: %w", e.Name, err)
	}
	return i, how, nil
}

func (p *Provider) createImaging(ctx context.Context, e providers.Entry, snap providers.SnapSpec, spec providers.Spec) (*imaging, providers.Consistency, error) {
	if err := checkName(spec.Name); err != nil {
		return nil, "", err
	}
	if err := p.refuseTaken(ctx, spec.Name); err != nil {
		return nil, "", err
	}
	if free, ok := p.Room(ctx); ok && free == 0 {
		return nil, "", disk.Errorf(disk.Quota, "nothing is left of the quota")
	}
	r, how, err := p.image(ctx, e, snap, "chromogenic snapshot "+spec.Job, map[string]string{
		propState: stateSnapshot, propJob: spec.Job, propHost: process.Name(),
	})
	if err != nil {
		return nil, "", err
	}
	i := &imaging{upload{p: p, spec: spec, id: r.ID, token: r.ID}}
	if err := i.dress(ctx, r, e.ID); err != nil {
		return nil, "", errors.Join(err, p.undo(ctx, r.ID))
	}
	return i, how, nil
}

// An imaging is an image that Nova has made: an upload whose bytes we have not seen.
type imaging struct{ upload }

// dress gives the image the metadata that a copy would have.
func (i *imaging) dress(ctx context.Context, r *record, server string) error {
	i.spec.Metadata = i.p.inherited(ctx, r, server)
	if err := i.p.keepCompanions(ctx, r, &i.spec.Metadata); err != nil {
		return err
	}
	changes := propChanges(r, i.spec.Metadata)
	for _, key := range slices.Sorted(maps.Keys(r.props)) {
		ours := key == propState || key == propJob || key == propHost || ofMetadata(key)
		if !ours && !strings.HasPrefix(key, "os_glance_") { // which nobody may change
			changes = append(changes, drop(key)) // of the server's image, and not of this one
		}
	}
	if !i.spec.Mtime.IsZero() {
		changes = append(changes, put(r, propMtime, i.spec.Mtime.UTC().Format(time.RFC3339Nano)))
	}
	_, err := i.p.patch(ctx, r.ID, changes)
	return err
}

// inherited is the metadata of an image that Nova has made of a server: that of the
// server's own image, which Nova takes along but for its tags. It is private.
func (p *Provider) inherited(ctx context.Context, r *record, server string) providers.Metadata {
	m := r.metadata()
	m.Meta.Visibility, m.MetaTime = "", time.Time{}
	maps.DeleteFunc(m.Props, func(key, _ string) bool { return ofInstance(key) })
	if len(m.Meta.Tags) > 0 {
		return m
	}
	if s, err := p.server(ctx, server); err == nil && s.Image.ID != "" {
		if base, err := p.record(ctx, s.Image.ID); err == nil { // it may be gone
			m.Meta.Tags = base.Tags
		}
	}
	return m
}

// Verify looks at what the cloud says of the image.
func (i *imaging) Verify(ctx context.Context) (providers.Digest, error) {
	d, err := i.verify(ctx)
	if err != nil {
		return d, fmt.Errorf("verify %.80q: %w", i.spec.Name, err)
	}
	return d, nil
}

func (i *imaging) verify(ctx context.Context) (providers.Digest, error) {
	r, err := i.p.record(ctx, i.id)
	switch {
	case err != nil:
		return providers.Digest{}, err
	case r.Status != "active":
		return providers.Digest{}, disk.Errorf(disk.Other, "the image is %s after it was active", r.Status)
	case r.Size == nil || *r.Size == 0:
		return providers.Digest{}, disk.Errorf(disk.Malformed, "the image that the cloud has made has no bytes")
	case r.Visibility != "private":
		return providers.Digest{}, disk.Errorf(disk.Other, "the image that the cloud has made is %s, not private", r.Visibility)
	}
	algorithm, sum := recordSum(r)
	return providers.Digest{Algorithm: algorithm, Sum: sum}, nil
}

// SnapshotOf is an image of a server, of Nova's or of ours, by its id.
func (p *Provider) SnapshotOf(ctx context.Context, e providers.Entry, id string) (providers.Entry, error) {
	r, err := p.record(ctx, id)
	if err != nil {
		return providers.Entry{}, err
	}
	of := r.props["instance_uuid"]
	switch state := r.props[propState]; {
	case of == "":
		err := disk.Errorf(disk.Invalid, "image %q is no snapshot: it does not say of which server", r.Name)
		return providers.Entry{}, disk.Hint(err, "copy it as an image: %s:images/%s", p.Name(), r.ID)
	case of != e.ID:
		return providers.Entry{}, disk.Errorf(disk.Invalid, "image %q is a snapshot of server %s, not of %s", r.Name, of, e.ID)
	case r.Status == "queued", r.Status == "saving", state != "" && state != stateCapture:
		err := disk.Errorf(disk.Busy, "image %q is still being made: it is %s", r.Name, r.Status)
		return providers.Entry{}, disk.Hint(err, "wait until it is active")
	case state == stateCapture:
		return r.captureEntry(p), nil
	}
	if why := r.reason(p.o.Formats); why != "" {
		return providers.Entry{}, disk.Errorf(disk.Unsupported, "image %q cannot be read: %s", r.Name, why)
	}
	out := r.entry(p)
	out.Capture = &providers.Capture{Of: of, Taken: out.Created.Truncate(time.Second), Consistency: providers.Crash}
	return out, nil
}
