package eucalyptus

import (
	"context"
	"errors"
	"fmt"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
)

// Delete deregisters an image, with a kernel and a ramdisk that came with it and that no
// other image boots with. The bundles stay where they are: Purge removes them.
func (p *Provider) Delete(ctx context.Context, e providers.Entry) error {
	if err := p.delete(ctx, e); err != nil {
		return fmt.Errorf("delete %q: %w", e.Name, err)
	}
	return nil
}

func (p *Provider) delete(ctx context.Context, e providers.Entry) error {
	s, goes, _, err := p.leaving(ctx, e)
	if err != nil {
		return err
	}
	for _, r := range goes {
		if err := s.ec2.Deregister(ctx, r.ID); err != nil {
			return err
		}
	}
	return nil
}

// Purge deletes an image and removes the objects of its bundle: those that its manifest
// names, and no others.
func (p *Provider) Purge(ctx context.Context, e providers.Entry) error {
	s, goes, _, err := p.leaving(ctx, e)
	for _, r := range goes {
		if err == nil {
			err = p.purge(ctx, s, &r)
		}
	}
	if err != nil {
		return fmt.Errorf("purge %q: %w", e.Name, err)
	}
	return nil
}

// purge deregisters an image and removes its bundle.
func (p *Provider) purge(ctx context.Context, s *session, r *record) error {
	objects, err := p.objects(ctx, s, r)
	if err != nil {
		return err
	}
	if err := s.ec2.Deregister(ctx, r.ID); err != nil {
		return err
	}
	for _, o := range objects {
		err = errors.Join(err, s.store.remove(ctx, o))
	}
	if err != nil {
		return fmt.Errorf("the image is gone; its bundle: %w", err)
	}
	return nil
}

// objects are those of the bundle of an image, the manifest first; none where another image
// has the same.
func (p *Provider) objects(ctx context.Context, s *session, r *record) ([]place, error) {
	at, err := r.bundle()
	if err != nil {
		return nil, nil // it boots from a volume
	}
	all, err := p.ownRecords(ctx)
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		if its, err := other.bundle(); err == nil && its == at && other.ID != r.ID {
			return nil, nil
		}
	}
	text, err := s.store.whole(ctx, at, bundle.MaxManifest)
	if disk.KindOf(err) == disk.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := bundle.Parse(text)
	if err != nil {
		return nil, disk.Hint(err, "delete the image without its bundle, and remove that by hand: %s", at)
	}
	objects := []place{at}
	for _, part := range m.Parts {
		objects = append(objects, at.beside(part.Name))
	}
	return append(objects, at.beside(m.Name+bundle.IndexSuffix)), nil
}

// Survey tells what Delete would remove.
func (p *Provider) Survey(ctx context.Context, e providers.Entry) (providers.Removal, error) {
	return p.survey(ctx, e, false)
}

// SurveyPurge tells what Purge would remove.
func (p *Provider) SurveyPurge(ctx context.Context, e providers.Entry) (providers.Removal, error) {
	return p.survey(ctx, e, true)
}

func (p *Provider) survey(ctx context.Context, e providers.Entry, purge bool) (providers.Removal, error) {
	out := providers.Removal{Size: e.Size}
	s, goes, kept, err := p.leaving(ctx, e)
	if err != nil {
		return out, fmt.Errorf("look at %q: %w", e.Name, err)
	}
	out.Kept = kept
	for _, r := range goes {
		what := r.ID
		if role := r.role(); role != "" {
			what = string(role) + " " + r.ID
			out.Size = sumSizes(out.Size, r.size())
		}
		if at, err := r.bundle(); err == nil && !purge {
			out.Kept = append(out.Kept, providers.Kept{File: at.String(), Reason: "its bundle stays in the bucket, unless it is purged"})
		}
		if purge {
			objects, err := p.objects(ctx, s, &r)
			if err != nil {
				return out, fmt.Errorf("look at %q: %w", e.Name, err)
			}
			if len(objects) > 0 {
				what += fmt.Sprintf(", and %d objects around %s", len(objects), objects[0])
			}
		}
		out.Files = append(out.Files, what)
	}
	return out, nil
}

func sumSizes(a, b int64) int64 {
	if a < 0 || b < 0 {
		return -1
	}
	return a + b
}

// leaving are the records that go with an image, that itself first, and the companions that
// stay.
func (p *Provider) leaving(ctx context.Context, e providers.Entry) (s *session, goes []record, kept []providers.Kept, err error) {
	if e.Kind != providers.Images {
		return nil, nil, nil, disk.Errorf(disk.Unsupported, "only images can be deleted")
	}
	s, r, err := p.mine(ctx, e)
	if err != nil {
		return nil, nil, nil, err
	}
	if r.hidden() {
		return nil, nil, nil, disk.Errorf(disk.Unsupported, "it is no image, but a part of one, or a capture")
	}
	goes = []record{*r}
	if r.boots(providers.Kernel)+r.boots(providers.Ramdisk) == "" {
		return s, goes, nil, nil
	}
	records, err := p.everyRecord(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	all := byID(records)
	for _, role := range providers.Roles() {
		c := all[r.boots(role)]
		if c == nil {
			continue
		}
		why := ""
		switch user := neededBy(records, c.ID, r.ID); {
		case !s.mine(c) || !c.ours(): // the cloud's own
			continue
		case user != "":
			why = fmt.Sprintf("image %s boots with it too", user)
		case c.Public:
			why = "everybody can use it"
		}
		if why != "" {
			kept = append(kept, providers.Kept{File: string(role) + " " + c.ID, Reason: why})
			continue
		}
		goes = append(goes, *c)
	}
	return s, goes, kept, nil
}

// neededBy is an image, but for one, that boots with a companion; empty for none.
func neededBy(records []record, companion, but string) string {
	for _, r := range records {
		if r.ID != but && r.needs(companion) {
			return r.ID
		}
	}
	return ""
}

// needs tells whether an image boots with a companion.
func (r *record) needs(companion string) bool {
	return r.boots(providers.Kernel) == companion || r.boots(providers.Ramdisk) == companion
}
