package openstack

import (
	"context"
	"fmt"
	"slices"

	"chromogenic/providers"
)

// Survey tells what Delete would remove.
func (p *Provider) Survey(ctx context.Context, e providers.Entry) (providers.Removal, error) {
	out := providers.Removal{Size: e.Size}
	if e.Kind != providers.Images {
		return out, nil
	}
	r, err := p.same(ctx, e)
	var goes []orphan
	if err == nil {
		goes, out.Kept, err = p.orphans(ctx, r)
	}
	if err != nil {
		return out, fmt.Errorf("look at %q: %w", e.Name, err)
	}
	out.Files = []string{e.ID}
	for _, c := range goes {
		out.Files = append(out.Files, c.role+" "+c.ID)
		if c.Size != nil && out.Size >= 0 {
			out.Size += *c.Size
		}
	}
	return out, nil
}

// An orphan is a companion that goes with the last image that needs it.
type orphan struct {
	*record
	role string
}

// orphans are the companions that go with an image, and those that stay.
func (p *Provider) orphans(ctx context.Context, r *record) (goes []orphan, kept []providers.Kept, err error) {
	if r.props[companionProp(providers.Kernel)]+r.props[companionProp(providers.Ramdisk)] == "" {
		return nil, nil, nil
	}
	records, err := p.records(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	s, err := p.client.account(ctx)
	if err != nil {
		return nil, nil, err
	}
	all, needed := byID(records), needs(records, r.ID)
	for _, role := range providers.Roles() {
		c := all[r.props[companionProp(role)]]
		if c == nil {
			continue
		}
		why := ""
		switch user := needed[c.ID]; {
		case user != "":
			why = fmt.Sprintf("image %s boots with it too", user)
		case c.Owner != s.project:
			why = "it is another project's"
		case c.Protected:
			why = "it is protected"
		case c.Visibility != "private" && c.Visibility != "shared":
			why = "it is " + c.Visibility + ", so others may boot with it"
		}
		if why == "" {
			goes = append(goes, orphan{c, string(role)})
		} else {
			kept = append(kept, providers.Kept{File: fmt.Sprintf("%s %s", role, c.ID), Reason: why})
		}
	}
	return goes, kept, nil
}

// needs tells which image, but for one, boots with a companion.
func needs(records []record, but string) map[string]string {
	needed := map[string]string{}
	for _, r := range records {
		for _, role := range providers.Roles() {
			if id := r.props[companionProp(role)]; id != "" && r.ID != but {
				needed[id] = r.ID
			}
		}
	}
	return needed
}

// dropOrphans removes the companions of an image that has gone.
func (p *Provider) dropOrphans(ctx context.Context, goes []orphan) error {
	for _, c := range goes {
		if err := p.remove(ctx, c.ID); err != nil {
			return fmt.Errorf("it is gone, but its %s %s is left: %w", c.role, c.ID, err)
		}
	}
	return nil
}

// adopt takes the marks of an upload from companions of images that are there: a crash
// has left them. It tells which of the records these are.
func (p *Provider) adopt(ctx context.Context, found []record) (map[string]bool, error) {
	if !slices.ContainsFunc(found, func(r record) bool { return r.isCompanion() }) {
		return nil, nil
	}
	records, err := p.records(ctx, nil)
	if err != nil {
		return nil, err
	}
	records = slices.DeleteFunc(records, func(r record) bool { return r.props[propState] != "" }) // it may go itself
	adopted, needed := map[string]bool{}, needs(records, "")
	for _, r := range found {
		if !r.isCompanion() || needed[r.ID] == "" {
			continue
		}
		if _, err := p.patch(ctx, r.ID, []change{drop(propState), drop(propJob), drop(propHost)}); err != nil {
			return nil, err
		}
		adopted[r.ID] = true
	}
	return adopted, nil
}
