package openstack

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	return p.source(ctx, r)
}

// source is the bytes of an image that can be read.
func (p *Provider) source(ctx context.Context, r *record) (providers.Source, error) {
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
	return p.bytes(ctx, r, r.format())
}

// bytes are those of an image that can be read, in a format.
func (p *Provider) bytes(ctx context.Context, r *record, format string) (providers.Source, error) {
	src := providers.Source{Format: format, Streams: true}
	if p.o.Spool {
		var err error
		if src.InOrder, err = p.inOrder(ctx, r); err != nil {
			return providers.Source{}, err
		}
	}
	src.Image = newRemote(p.client, r, src.InOrder)
	return src, nil
}

// What is known of ranges.
const (
	rangesUnknown = iota
	rangesGiven
	rangesIgnored
)

// inOrder finds out, once, whether the way to the images ignores ranges: then an image
// comes as a whole, from its beginning.
func (p *Provider) inOrder(ctx context.Context, r *record) (bool, error) {
	if *r.Size < 2 {
		return false, nil // it tells nothing
	}
	if p.ranges.Load() == rangesUnknown {
		err := p.client.retry.Do(ctx, func(ctx context.Context) error {
			_, done, err := p.client.get(ctx, part{id: r.ID, off: 1, end: 2, size: *r.Size})
			if err == nil {
				done()
			}
			return err
		})
		switch {
		case errors.Is(err, errNoRanges):
			p.ranges.Store(rangesIgnored)
		case err != nil:
			return false, err
		default:
			p.ranges.Store(rangesGiven)
		}
	}
	return p.ranges.Load() == rangesIgnored, nil
}

// errNoRanges is the failure of a read of a part.
var errNoRanges = errors.New("the image service, or a proxy before it, ignores ranges: it answers with the whole image")

// A part is a range of an image's bytes, [off, end).
type part struct {
	id             string
	off, end, size int64
	skip           bool // of an answer that is the whole image, what lies before off is skipped
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

// get asks for a part. It is one try: the answer is checked to be that part and no other.
func (c *client) get(ctx context.Context, p part) (*http.Response, func(), error) {
	resp, done, err := c.try(ctx, request{
		service: imageService, method: http.MethodGet, path: "/images/" + p.id + "/file",
		header: map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", p.off, p.end-1), "Accept": "application/octet-stream"},
		ok:     []int{http.StatusOK, http.StatusPartialContent, http.StatusNoContent},
	})
	if err != nil {
		return nil, nil, err
	}
	if err := p.check(ctx, resp); err != nil {
		done()
		return nil, nil, err
	}
	return resp, done, nil
}

// check sees to it that what comes next of an answer is the part.
func (p part) check(ctx context.Context, resp *http.Response) error {
	whole := resp.StatusCode == http.StatusOK
	switch n := resp.ContentLength; {
	case resp.StatusCode == http.StatusNoContent:
		return disk.Errorf(disk.Busy, "the image has no bytes yet")
	case whole && n >= 0 && n != p.size:
		return disk.Errorf(disk.Stale, "the image has %d bytes, it had %d", n, p.size)
	case whole && p.skip:
		if _, err := io.CopyN(io.Discard, resp.Body, p.off); err != nil {
			return transportError(ctx, err)
		}
	case whole && (p.off != 0 || p.end != p.size):
		return disk.Hint(disk.Errorf(disk.Unsupported, "%w", errNoRanges),
			"ask whoever runs it to let the header Range through; with spool: true for this provider in the configuration, an image is fetched as a whole before it is read")
	case !whole:
		from, total, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || from != p.off || total != p.size {
			return disk.Errorf(disk.Stale, "asked for byte %d of %d, and the answer is of %q", p.off, p.size, resp.Header.Get("Content-Range"))
		}
	}
	return nil
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
