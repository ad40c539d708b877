package openstack

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Open opens the bytes of an image, which are fetched by ranges as they are read. A
// live server is opened for its size alone.
func (p *Provider) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	src, err := p.open(ctx, e, n)
	if err != nil {
		return providers.Source{}, fmt.Errorf("open %q: %w", e.Name, err)
	}
	return src, nil
}

func (p *Provider) open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	switch {
	case n != 0:
		return providers.Source{}, disk.Errorf(disk.NotFound, "it has no disk %d", n)
	case e.Live():
		return p.openInstance(ctx, e)
	case e.Kind == providers.Companions:
		return p.openCompanion(ctx, e)
	case e.Kind != providers.Images && e.Kind != providers.Instances:
		return providers.Source{}, disk.Errorf(disk.NotFound, "there is no such kind")
	}
	r, err := p.record(ctx, e.ID)
	if err != nil {
		return providers.Source{}, err
	}
	if now := r.version(r.metadata()); ofBytes(now) != ofBytes(e.Version) {
		return providers.Source{}, disk.Errorf(disk.Stale, "it has changed since it was listed")
	}
	return p.source(r)
}

// source is the bytes of an image that can be read.
func (p *Provider) source(r *record) (providers.Source, error) {
	if why := r.reason(nil); why != "" {
		kind := disk.Unsupported
		switch r.Status {
		case "active":
		case "deactivated":
			kind = disk.Denied
		default:
			kind = disk.Busy
		}
		return providers.Source{}, disk.Errorf(kind, "%s", why)
	}
	return providers.Source{Image: newRemote(p.client, r), Format: r.format()}, nil
}

func (p *Provider) openInstance(ctx context.Context, e providers.Entry) (providers.Source, error) {
	s, err := p.server(ctx, e.ID)
	if err != nil {
		return providers.Source{}, err
	}
	if why := s.reason(); why != "" {
		return providers.Source{}, disk.Errorf(disk.Unsupported, "%s", why)
	}
	size := s.Flavor.Disk << 30
	if size == 0 { // as large as its image
		r, err := p.record(ctx, s.Image.ID)
		if err != nil {
			return providers.Source{}, fmt.Errorf("find the size of its disk: %w", err)
		}
		if size = r.entry(p).VirtualSize; size <= 0 {
			return providers.Source{}, disk.Errorf(disk.Unsupported, "neither its flavor nor its image tells the size of its disk")
		}
	}
	return providers.Source{Image: promised{size}, Format: "raw"}, nil
}

// get asks for a range of an image's bytes, [off, end). It is one try: the answer is
// checked to be that range and no other.
func (c *client) get(ctx context.Context, id string, off, end, size int64) (*http.Response, func(), error) {
	resp, done, err := c.try(ctx, request{
		service: imageService, method: http.MethodGet, path: "/images/" + id + "/file",
		header: map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", off, end-1), "Accept": "application/octet-stream"},
		ok:     []int{http.StatusOK, http.StatusPartialContent, http.StatusNoContent},
	})
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (*http.Response, func(), error) {
		done()
		return nil, nil, err
	}
	whole := off == 0 && end == size
	switch {
	case resp.StatusCode == http.StatusNoContent:
		return fail(disk.Errorf(disk.Busy, "the image has no bytes yet"))
	case resp.StatusCode == http.StatusOK && whole:
		if n := resp.ContentLength; n >= 0 && n != size {
			return fail(disk.Errorf(disk.Stale, "the image has %d bytes, it had %d", n, size))
		}
	case resp.StatusCode == http.StatusOK:
		err := disk.Errorf(disk.Unsupported, "the image service, or a proxy before it, ignores ranges: it answers with the whole image")
		return fail(disk.Hint(err, "ask whoever runs it to let the header Range through; openstack image save fetches the whole image"))
	default:
		from, total, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || from != off || total != size {
			return fail(disk.Errorf(disk.Stale, "asked for byte %d of %d, and the answer is of %q", off, size, resp.Header.Get("Content-Range")))
		}
	}
	return resp, done, nil
}

// contentRange takes "bytes 0-99/500" apart: the first byte and the size of all.
func contentRange(s string) (from, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, all, found := strings.Cut(s, "/")
	first, _, dash := strings.Cut(span, "-")
	from, err1 := strconv.ParseInt(first, 10, 64)
	total, err2 := strconv.ParseInt(all, 10, 64)
	return from, total, ok && found && dash && err1 == nil && err2 == nil
}
