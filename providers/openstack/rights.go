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

// Rights asks the services what the project's role may do. Nothing is made for it: what
// only doing it would tell stays unknown.
func (p *Provider) Rights(ctx context.Context) ([]providers.Right, error) {
	s, err := p.client.account(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for rights: %w", err)
	}
	one, err := p.anImage(ctx)
	rights := []providers.Right{right("list images", err, "the list is given")}
	rights = append(rights, p.mayRead(ctx, one), p.mayUpload(ctx, one))
	if s.endpoints[computeService] == "" {
		return append(rights, providers.Right{What: "capture servers", May: providers.No, How: "the cloud has no servers"}), nil
	}
	_, err = p.client.call(ctx, request{
		service: computeService, method: http.MethodGet, path: "/servers", query: url.Values{"limit": {"1"}}, ok: []int{http.StatusOK},
	}, nil)
	return append(rights, right("list servers", err, "the list is given"),
		providers.Right{What: "capture servers", May: providers.Unknown, How: "only a capture would tell"},
		providers.Right{What: "remove images", May: providers.Unknown, How: "only a removal would tell"}), nil
}

// right is one that a request tells of.
func right(what string, err error, how string) providers.Right {
	switch disk.KindOf(err) {
	case disk.Denied:
		return providers.Right{What: what, May: providers.No, How: told(err)}
	default:
		if err != nil {
			return providers.Right{What: what, May: providers.Unknown, How: told(err)}
		}
	}
	return providers.Right{What: what, May: providers.Yes, How: how}
}

// told is an error with what the cloud's operator finds it by.
func told(err error) string {
	text := err.Error()
	if id := disk.AsError(err).RequestID; id != "" {
		text += " (request " + id + ")"
	}
	return text
}

// anImage is any that is active, nil where none is to be seen.
func (p *Provider) anImage(ctx context.Context) (*record, error) {
	var page struct {
		Images []record `json:"images"`
	}
	_, err := p.client.call(ctx, request{
		service: imageService, method: http.MethodGet, path: "/images", ok: []int{http.StatusOK},
		query: url.Values{"limit": {"1"}, "status": {"active"}},
	}, &page)
	if err != nil || len(page.Images) == 0 {
		return nil, err
	}
	return &page.Images[0], nil
}

// mayRead asks for the first byte of an image.
func (p *Provider) mayRead(ctx context.Context, r *record) providers.Right {
	const what = "read images"
	if r == nil {
		return providers.Right{What: what, May: providers.Unknown, How: "there is none to ask for"}
	}
	err := p.client.retry.Do(ctx, func(ctx context.Context) error {
		_, end, err := p.client.try(ctx, request{
			service: imageService, method: http.MethodGet, path: "/images/" + r.ID + "/file",
			header: map[string]string{"Range": "bytes=0-0"},
			ok:     []int{http.StatusOK, http.StatusPartialContent, http.StatusNoContent, http.StatusRequestedRangeNotSatisfiable},
		})
		if err == nil {
			end()
		}
		return err
	})
	return right(what, err, "the first byte of image "+r.ID+" is given")
}

// mayUpload asks for a record with the id of an image that is there. Glance looks at the
// role first (403) and at the id then (409), and makes nothing.
func (p *Provider) mayUpload(ctx context.Context, r *record) providers.Right {
	const what = "upload images"
	if r == nil {
		return providers.Right{What: what, May: providers.Unknown, How: "there is no image to ask with"}
	}
	err := p.askUpload(ctx, r)
	return right(what, err, "a record with the id of image "+r.ID+" is refused for its id alone")
}

func (p *Provider) askUpload(ctx context.Context, r *record) error {
	var made record
	_, err := p.client.call(ctx, request{
		service: imageService, method: http.MethodPost, path: "/images", once: true,
		json: map[string]any{"id": r.ID, "name": "chromogenic asks", "visibility": "private", "disk_format": "raw", "container_format": "bare"},
		ok:   []int{http.StatusCreated},
	}, &made)
	switch {
	case err == nil && made.ID != "": // the image has gone for good since it was listed
		return p.remove(ctx, made.ID)
	case err == nil:
		return disk.Errorf(disk.Unreachable, "the answer names no image")
	case disk.KindOf(err) == disk.Busy:
		return nil
	}
	return err
}

// MayUpload asks Glance where the roles are none with which projects upload. It asks
// once for each login, and makes none for that.
func (p *Provider) MayUpload(ctx context.Context) error {
	s := p.client.good("")
	if s == nil || len(s.roles) == 0 || slices.ContainsFunc(s.roles, usual) {
		return nil
	}
	p.mu.Lock()
	asked, denied := p.asked, p.denied
	p.mu.Unlock()
	if asked == s.token {
		return denied
	}
	r, err := p.anImage(ctx)
	if err != nil || r == nil {
		return nil
	}
	err = p.askUpload(ctx, r)
	if err != nil && disk.KindOf(err) != disk.Denied {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.denied = s.token, err
	return err
}

// usual tells whether a role is one with which projects upload, as far as its name goes.
func usual(role string) bool {
	switch strings.ToLower(role) {
	case "admin", "member", "_member_", "manager":
		return true
	}
	return false
}
