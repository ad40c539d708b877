package eucalyptus

import (
	"context"
	"fmt"
	"maps"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2"
)

// KeepsProp is true: the cloud has no properties of its own, so none is mistaken for one.
func (p *Provider) KeepsProp(string) bool { return true }

// SetMeta sets all metadata of an image: its description and its tags. What it says of
// visibility is obeyed; kernel and ramdisk stay, for the cloud changes them of no image.
func (p *Provider) SetMeta(ctx context.Context, e providers.Entry, m providers.Metadata) (providers.Entry, error) {
	now, err := p.setMeta(ctx, e, m)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("set metadata of %q: %w", e.Name, err)
	}
	return now, nil
}

func (p *Provider) setMeta(ctx context.Context, e providers.Entry, m providers.Metadata) (providers.Entry, error) {
	s, r, err := p.mine(ctx, e)
	if err != nil {
		return providers.Entry{}, err
	}
	if m.MetaTime.IsZero() && !m.Empty() {
		m.MetaTime = time.Now()
	}
	description, tags, err := kept(m, r.lasting())
	if err != nil {
		return providers.Entry{}, err
	}
	if public := m.Meta.Visibility == "public"; public != r.Public {
		all, none := ec2.Permissions{Everybody: true}, ec2.Permissions{}
		if !public {
			all, none = none, all
		}
		if err := s.ec2.ChangeLaunchPermissions(ctx, r.ID, all, none); err != nil {
			return providers.Entry{}, err
		}
	}
	set, remove := r.changedTags(tags)
	if len(r.Tags)-len(remove)+len(set) > maxTags || len(remove) > 0 { // there may be no room for both
		if err := s.ec2.SetTags(ctx, []string{r.ID}, nil, remove); err != nil {
			return providers.Entry{}, err
		}
		remove = nil
	}
	if err := s.ec2.SetTags(ctx, []string{r.ID}, set, remove); err != nil {
		return providers.Entry{}, err
	}
	if description != r.Description && (r.Description != "" || description != noDescription) {
		if err := s.ec2.SetDescription(ctx, r.ID, description); err != nil {
			return providers.Entry{}, err
		}
	}
	return p.listed(ctx, r.ID)
}

// mine is the record of an image whose bytes are those that were listed, of this account.
func (p *Provider) mine(ctx context.Context, e providers.Entry) (*session, *record, error) {
	s, err := p.session(ctx)
	if err != nil {
		return nil, nil, err
	}
	r, err := p.same(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	if !s.mine(r) {
		err := disk.Errorf(disk.Denied, "it is of account %s, which alone can change it", r.Owner)
		return nil, nil, disk.Hint(err, "copy it, and change the copy")
	}
	return s, r, nil
}

// SetMtime keeps the time as a tag.
func (p *Provider) SetMtime(ctx context.Context, e providers.Entry, mtime time.Time) (providers.Entry, error) {
	now, err := p.setMtime(ctx, e, mtime)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("set time of %q: %w", e.Name, err)
	}
	return now, nil
}

func (p *Provider) setMtime(ctx context.Context, e providers.Entry, mtime time.Time) (providers.Entry, error) {
	s, r, err := p.mine(ctx, e)
	if err != nil {
		return providers.Entry{}, err
	}
	if !r.updated().Equal(mtime) {
		text := mtime.UTC().Format(time.RFC3339Nano)
		if err := s.ec2.SetTags(ctx, []string{r.ID}, map[string]string{tagMtime: text}, nil); err != nil {
			return providers.Entry{}, err
		}
		r.Tags = maps.Clone(r.Tags)
		if r.Tags == nil {
			r.Tags = map[string]string{}
		}
		r.Tags[tagMtime] = text
	}
	if e.Kind == providers.Companions {
		now := r.companion().Entry(e.Name)
		now.Waiting = e.Waiting
		return now, nil
	}
	return p.listed(ctx, r.ID)
}
