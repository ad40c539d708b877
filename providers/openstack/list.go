package openstack

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"chromogenic/disk"
	"chromogenic/providers"
)

// pageSize is how many entries a page is asked to have; a service may give fewer.
const pageSize = "1000"

// List is all images that the project can see, or all its servers and the captures of
// them. An image that has no name yet is not listed as one.
func (p *Provider) List(ctx context.Context, kind providers.Kind) ([]providers.Entry, error) {
	var entries []providers.Entry
	var err error
	switch kind {
	case providers.Images:
		entries, err = p.listImages(ctx)
	case providers.Instances:
		entries, err = p.listInstances(ctx)
	case providers.Disks:
		entries, err = p.listWaiting(ctx)
	}
	if disk.KindOf(err) == disk.NotFound { // a proxy that knows no such path: nothing is known of any image then
		e := disk.AsError(err)
		err = &disk.Error{Kind: disk.Unreachable, RequestID: e.RequestID, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind, err)
	}
	return entries, nil
}

func (p *Provider) listImages(ctx context.Context) ([]providers.Entry, error) {
	records, err := p.records(ctx, nil)
	if err != nil {
		return nil, err
	}
	records = slices.DeleteFunc(records, func(r record) bool { return r.Status == "deleted" || r.Status == "pending_delete" })
	all, names := byID(records), map[string]bool{}
	for _, r := range records {
		names[r.Name] = names[r.Name] || r.props[propState] == "" && !r.isCompanion()
	}
	var entries []providers.Entry
	for _, r := range records {
		if r.props[propState] != "" || r.isCompanion() && names[r.Name] {
			continue // a kernel does not take the name from its image
		}
		e := r.entry(p)
		r.beside(&e, all)
		entries = append(entries, e)
	}
	return entries, nil
}

// records are the images that a query of Glance finds, in whatever state.
func (p *Provider) records(ctx context.Context, filter url.Values) ([]record, error) {
	// An image that is removed while it ends a page makes the next one fail.
	for tries := 0; ; tries++ {
		all, err := p.recordsOnce(ctx, filter)
		if disk.KindOf(err) != disk.NotFound || tries == 3 {
			return all, err
		}
	}
}

func (p *Provider) recordsOnce(ctx context.Context, filter url.Values) ([]record, error) {
	query := url.Values{"limit": {pageSize}, "sort_key": {"created_at"}, "sort_dir": {"asc"}}
	for key, value := range filter {
		query[key] = value
	}
	var all []record
	seen := map[string]bool{}
	for {
		var page struct {
			Images []record `json:"images"`
			Next   string   `json:"next"`
		}
		_, err := p.client.call(ctx, request{
			service: imageService, method: http.MethodGet, path: "/images", query: query, ok: []int{http.StatusOK},
		}, &page)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Images...)
		if page.Next == "" {
			return all, nil
		}
		if query, err = nextQuery(page.Next, seen); err != nil {
			return nil, err
		}
	}
}

// inState are the images of this project that have a state: those of others may say of
// themselves what they like.
func (p *Provider) inState(ctx context.Context, state string) ([]record, error) {
	found, err := p.records(ctx, map[string][]string{propState: {state}})
	if err != nil {
		return nil, err
	}
	s, err := p.client.account(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(r record) bool { return r.props[propState] != state || r.Owner != s.project }), nil
}

// nextQuery is that of the next page. Pages that lead to one that was seen would be listed
// for ever.
func nextQuery(next string, seen map[string]bool) (url.Values, error) {
	u, err := url.Parse(next)
	if err != nil {
		return nil, disk.Errorf(disk.Unreachable, "the next page is %q: %w", next, err)
	}
	query := u.Query()
	marker := query.Get("marker")
	if marker == "" || seen[marker] {
		return nil, disk.Errorf(disk.Unreachable, "the next page is %q again", next)
	}
	seen[marker] = true
	return query, nil
}

// record is an image by its id.
func (p *Provider) record(ctx context.Context, id string) (*record, error) {
	if id == "" || strings.ContainsAny(id, "/?#") {
		return nil, disk.Errorf(disk.NotFound, "there is no image of id %q", id)
	}
	r := &record{}
	_, err := p.client.call(ctx, request{
		service: imageService, method: http.MethodGet, path: "/images/" + id, ok: []int{http.StatusOK},
	}, r)
	if err == nil && (r.Status == "deleted" || r.Status == "pending_delete") {
		err = disk.Errorf(disk.NotFound, "image %s is deleted", id)
	}
	return r, err
}

// named are the images of a name that were made in this project and are whole, or
// about to be. Kernels and ramdisks may have the name of theirs.
func (p *Provider) named(ctx context.Context, name string) ([]record, error) {
	filter := name
	if strings.ContainsAny(name, ":,\"\\") { // Glance takes a part before a colon for an operator, and commas for a list
		filter = `in:"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`
	}
	all, err := p.records(ctx, url.Values{"name": {filter}})
	if err != nil {
		return nil, err
	}
	s, err := p.client.account(ctx)
	if err != nil {
		return nil, err
	}
	var found []record
	for _, r := range all {
		if r.Name != name || !s.mine(&r) || r.isCompanion() || r.props[propState] == stateUpload || r.props[propState] == stateSnapshot {
			continue
		}
		if r.props[propState] == "" { // as a list may also show one that is just being removed
			now, err := p.record(ctx, r.ID)
			if disk.KindOf(err) == disk.NotFound || err == nil && now.Name != name {
				continue
			}
			if err != nil {
				return nil, err
			}
			r = *now
		}
		found = append(found, r)
	}
	return found, nil
}
