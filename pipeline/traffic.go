package pipeline

import (
	"context"
	"sync/atomic"

	"chromogenic/disk"
	"chromogenic/providers"
)

// leastPart is the least that is asked of a remote provider at once, in bytes,
// however low the rate: each request costs time, and often money.
const leastPart = 256 << 10

// traffic is what goes between us and one provider, under its limits and those of
// all. It counts what is fetched from the provider and sent to it, and nothing that
// a cache has.
type traffic struct {
	least      int // that is read at once, if there is so much
	read, send *pacer
	budget     spender
	now        atomic.Pointer[bounds]

	fetched, sent atomic.Int64 // bytes
}

// bounds are those that traffic is subject to.
type bounds struct {
	read, send pacers
	budgets    []spender
	any        bool // what is read is bounded by one of them
}

// take is that of all budgets.
func (b *bounds) take(ctx context.Context, n int64, over bool) error {
	for i, s := range b.budgets {
		if err := s.take(ctx, n, over); err != nil {
			for _, s := range b.budgets[:i] {
				s.giveBack(n)
			}
			return err
		}
	}
	return nil
}

func (b *bounds) giveBack(n int64) {
	for _, s := range b.budgets {
		s.giveBack(n)
	}
}

// metered gives a source of the provider as one that is read within the limits.
// Over says that its reader may exceed the budgets. Reads that wait end with ctx, or
// with the source's Close.
func (t *traffic) metered(ctx context.Context, src providers.Source, over bool) providers.Source {
	meter := func(img disk.Image) disk.Image {
		ctx, end := context.WithCancelCause(ctx)
		return &metered{img, t, over, ctx, end}
	}
	src.Image = meter(src.Image)
	if resolve := src.Resolve; resolve != nil {
		src.Resolve = func(name string) (disk.Image, error) {
			img, err := resolve(name)
			if err != nil {
				return nil, err
			}
			return meter(img), nil
		}
	}
	return src
}

// A metered image is one of a provider.
type metered struct {
	disk.Image
	t    *traffic
	over bool
	ctx  context.Context
	end  context.CancelCauseFunc
}

var (
	_ disk.Allocator = (*metered)(nil)
	_ disk.Verifier  = (*metered)(nil)
)

// Allocated is that of the image; where it cannot tell, its size.
func (m *metered) Allocated() int64 { return allocatedOf(m.Image) }

// Verify is that of the image. What it reads anew is within the limits too.
func (m *metered) Verify(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	meter := func(img disk.Image) disk.Image { return &metered{img, m.t, m.over, ctx, end} }
	return disk.Verify(disk.Through(ctx, meter), m.Image)
}

// ReadAt reads the image, when its turn has come. Where that is bounded, holes
// are not read, for they would use it up.
func (m *metered) ReadAt(p []byte, off int64) (int, error) {
	b := m.t.now.Load()
	if !b.any {
		n, err := m.Image.ReadAt(p, off)
		m.t.fetched.Add(int64(n))
		return n, err
	}
	q, end := disk.ClipRead(p, off, m.Size())
	for done := 0; done < len(q); {
		e, err := m.Extent(off+int64(done), int64(len(q)-done))
		if err != nil {
			return done, err
		}
		part := q[done : done+int(e.Len)]
		if e.Zero {
			clear(part)
		} else if n, err := m.fetch(b, part, e.Off); err != nil {
			return done + n, err
		}
		done += len(part)
	}
	return len(q), end
}

// fetch reads data.
func (m *metered) fetch(b *bounds, p []byte, off int64) (int, error) {
	if err := b.take(m.ctx, int64(len(p)), m.over); err != nil {
		return 0, err
	}
	n, err := inParts(m.Image, p, off, func(left int) (int, error) {
		part := b.read.part(left, m.t.least)
		return part, b.read.wait(m.ctx, part)
	})
	m.t.fetched.Add(int64(n))
	b.giveBack(int64(len(p) - n))
	if n == len(p) {
		err = nil
	}
	return n, err
}

// Close closes the image, and ends the reads that wait.
func (m *metered) Close() error {
	m.end(disk.ErrClosed)
	return m.Image.Close()
}

// outgoing gives what is sent to the provider as an image that is read no faster
// than the limits let it be sent.
func (t *traffic) outgoing(ctx context.Context, img disk.Image, more ...*pacer) disk.Image {
	b := t.now.Load()
	return sending{paced{img, ctx, append(more, b.send...)}, t}
}

// A sending image is on its way to a provider.
type sending struct {
	paced
	t *traffic
}

// ReadAt reads the image.
func (s sending) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.paced.ReadAt(p, off)
	s.t.sent.Add(int64(n))
	return n, err
}
