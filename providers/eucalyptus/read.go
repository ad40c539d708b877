package eucalyptus

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/crypt"
)

// maxIndex bounds an index that is read, in bytes: that of a disk of 1.5 TiB. A larger
// bundle is read as if it had none.
const maxIndex = 64 << 20

// Open opens the bundle of an image. With an index its parts are fetched as they are read;
// without one the image is InOrder, cannot be read by itself, and is a Filler. A live
// instance is opened for its size alone.
func (p *Provider) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	src, err := p.openEntry(ctx, e, n)
	if err != nil {
		return providers.Source{}, fmt.Errorf("open %q: %w", e.Name, err)
	}
	return src, nil
}

func (p *Provider) openEntry(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	switch {
	case n != 0:
		return providers.Source{}, disk.Errorf(disk.NotFound, "it has no disk %d", n)
	case e.Live():
		return p.openInstance(ctx, e)
	case e.Kind != providers.Images && e.Kind != providers.Instances && e.Kind != providers.Companions:
		return providers.Source{}, disk.Errorf(disk.NotFound, "there is no such kind")
	}
	r, err := p.record(ctx, e.ID)
	if err != nil {
		return providers.Source{}, err
	}
	if ofBytes(r.version(providers.Metadata{})) != ofBytes(e.Version) {
		return providers.Source{}, disk.Errorf(disk.Stale, "it has changed since it was listed")
	}
	if err := r.unreadable(); err != nil {
		return providers.Source{}, err
	}
	at, err := r.bundle()
	if err != nil {
		return providers.Source{}, err
	}
	b, err := p.openBundle(ctx, at)
	if err != nil {
		return providers.Source{}, err
	}
	b.image = r.ID
	return b.source(ctx)
}

// An opened is a bundle: its manifest and what opens it.
type opened struct {
	p      *Provider
	s      *session
	at     place // of the manifest
	m      *bundle.Manifest
	secret crypt.Secret
	image  string // id of the image, empty for a bundle that is none
}

// openBundle reads a manifest, and finds a key for it.
func (p *Provider) openBundle(ctx context.Context, at place) (*opened, error) {
	s, err := p.session(ctx)
	if err != nil {
		return nil, err
	}
	text, err := s.store.whole(ctx, at, bundle.MaxManifest)
	switch disk.KindOf(err) {
	case disk.NotFound: // of the bundle: the image is there
		return nil, disk.Hint(disk.Errorf(disk.Malformed, "its manifest is gone: %w", err), "the image cannot be started either: deregister it, or upload its bundle anew to the same place")
	case disk.Denied:
		return nil, &disk.Error{
			Kind: disk.Denied, RequestID: disk.AsError(err).RequestID, Err: err,
			Hint: "its owner lets the cloud read the bundle, and not this account: ask for read access to the bucket",
		}
	}
	if err != nil {
		return nil, err
	}
	m, err := bundle.Parse(text)
	if err != nil {
		return nil, err
	}
	keys, looked, err := s.cred.readingKeys()
	if err != nil {
		return nil, err
	}
	secret, err := m.Secret(keys...)
	if disk.KindOf(err) == disk.Denied {
		e := disk.AsError(err)
		hint := fmt.Sprintf("it needs the private key of account %s that it was bundled with, or that of the cloud; looked for in %s", m.User, strings.Join(looked, ", "))
		return nil, &disk.Error{Kind: disk.Denied, RequestID: e.RequestID, Hint: hint, Err: err}
	}
	if err != nil {
		return nil, err
	}
	return &opened{p: p, s: s, at: at, m: m, secret: secret}, nil
}

// source is the disk of the bundle.
func (b *opened) source(ctx context.Context) (providers.Source, error) {
	index, err := b.index(ctx)
	if err != nil {
		return providers.Source{}, err
	}
	if index == nil {
		return providers.Source{Image: newSealed(b), Format: "raw", InOrder: true}, nil
	}
	img, err := bundle.Open(context.Background(), b.m, b.secret, index, b.fetch)
	if err != nil {
		return providers.Source{}, err
	}
	return providers.Source{Image: indexed{img, b}, Format: "raw"}, nil
}

// index is that of the bundle, nil for none.
func (b *opened) index(ctx context.Context) ([]byte, error) {
	size := bundle.IndexSize(b.m.Size)
	if size > maxIndex {
		return nil, nil
	}
	p, err := b.s.store.whole(ctx, b.at.beside(b.m.Name+bundle.IndexSuffix), size)
	switch disk.KindOf(err) {
	case disk.NotFound, disk.TooLarge:
		return nil, nil
	case disk.Denied: // a store that tells nobody what is not there
		return nil, nil
	}
	return p, err
}

// fetch reads a range of a part, with all its retries, before it returns.
func (b *opened) fetch(ctx context.Context, part string, off, n int64) (io.ReadCloser, error) {
	p := make([]byte, n)
	r := reading{size: -1, ranged: true}
	got, err := b.s.store.read(ctx, b.at.beside(part), off, p, &r)
	if err != nil {
		return nil, b.explain(ctx, err)
	}
	return io.NopCloser(bytes.NewReader(p[:got])), nil
}

// explain looks why bytes that were there cannot be had any more: with the image they are
// gone for good.
func (b *opened) explain(ctx context.Context, err error) error {
	switch disk.KindOf(err) {
	case disk.NotFound, disk.Denied:
	default:
		return err
	}
	if b.image == "" {
		return err
	}
	if _, failed := b.p.record(ctx, b.image); disk.KindOf(failed) == disk.NotFound {
		return disk.Errorf(disk.Stale, "the image is gone: %w", err)
	}
	return err
}

// An indexed image is read at random. What has failed may be because the image is gone.
type indexed struct {
	disk.Image
	b *opened
}

func (d indexed) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Image.ReadAt(p, off)
	if disk.KindOf(err) == disk.Stale { // nothing of it is given out
		n = 0
	}
	return n, err
}

// openInstance opens a live instance, as large as its image.
func (p *Provider) openInstance(ctx context.Context, e providers.Entry) (providers.Source, error) {
	i, err := p.instance(ctx, e.ID)
	if err != nil {
		return providers.Source{}, err
	}
	if why := instanceReason(i); why != "" {
		return providers.Source{}, disk.Errorf(disk.Unsupported, "%s", why)
	}
	r, err := p.record(ctx, i.Image)
	if err == nil && r.size() >= 0 {
		return providers.Source{Image: promised{r.size()}, Format: "raw"}, nil
	}
	var at place
	if err == nil {
		at, err = r.bundle()
	}
	var text []byte
	if err == nil {
		var s *session
		if s, err = p.session(ctx); err == nil {
			text, err = s.store.whole(ctx, at, bundle.MaxManifest)
		}
	}
	var m *bundle.Manifest
	if err == nil {
		m, err = bundle.Parse(text)
	}
	if err != nil {
		return providers.Source{}, disk.Hint(disk.Errorf(disk.Unsupported, "its image does not tell the size of its disk: %w", err),
			"capture it: chromogenic capture")
	}
	return providers.Source{Image: promised{m.Size}, Format: "raw"}, nil
}

// A promised disk is that of a live instance: of a known size, without bytes until it is
// captured.
type promised struct{ size int64 }

func (d promised) Size() int64 { return d.size }

func (d promised) Close() error { return nil }

func (d promised) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, d.size)
	return disk.Extent{Off: off, Len: n}, err
}

func (d promised) ReadAt([]byte, int64) (int, error) {
	return 0, disk.Hint(disk.Errorf(disk.Policy, "read instance: its disk can be read as a capture only"),
		"chromogenic capture makes one")
}
