package pipeline

import (
	"context"
	"sync"
	"sync/atomic"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A filled image is one that a providers.Filler gives as a whole. It is fetched when its
// first byte is wanted: its size is known before, and all that a look at it asks for. Where
// its holes are is known when it was fetched.
type filled struct {
	p   *Pipeline
	key string
	img *sharedImage

	mu     sync.Mutex // held while it is fetched
	whole  atomic.Pointer[disk.Image]
	closed bool
}

func newFilled(p *Pipeline, key string, img disk.Image) *filled {
	f := &filled{p: p, key: key, img: &sharedImage{Image: img}}
	f.img.uses.Store(1)
	return f
}

// A sharedImage is closed by the last who has it.
type sharedImage struct {
	disk.Image
	uses atomic.Int64
}

func (s *sharedImage) Close() error {
	if s.uses.Add(-1) > 0 {
		return nil
	}
	return s.Image.Close()
}

// get gives the whole, and fetches it where that was not done. A failure is not
// remembered.
func (f *filled) get(ctx context.Context) (disk.Image, error) {
	if w := f.whole.Load(); w != nil {
		return *w, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, disk.ErrClosed
	}
	if w := f.whole.Load(); w != nil {
		return *w, nil
	}
	f.img.uses.Add(1) // of the fetch
	w, err := f.p.fetchWhole(ctx, f.key, f.img, true)
	if err != nil {
		return nil, err
	}
	f.whole.Store(&w)
	return w, nil
}

func (f *filled) Size() int64 { return f.img.Size() }

func (f *filled) ReadAt(p []byte, off int64) (int, error) {
	w, err := f.get(f.p.ctx)
	if err != nil {
		return 0, err
	}
	return w.ReadAt(p, off)
}

// Extent is all data until the image is there.
func (f *filled) Extent(off, n int64) (disk.Extent, error) {
	if w := f.whole.Load(); w != nil {
		return (*w).Extent(off, n)
	}
	n, err := disk.CheckRange(off, n, f.Size())
	return disk.Extent{Off: off, Len: n}, err
}

func (f *filled) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	if w := f.whole.Load(); w != nil {
		(*w).Close()
	}
	return f.img.Close()
}

// fillerOf is what gives an image as a whole, if that is the only way to have it.
func fillerOf(img disk.Image) (providers.Filler, bool) {
	switch img := img.(type) {
	case *sharedImage:
		return fillerOf(img.Image)
	case *metered:
		if f, ok := img.Image.(providers.Filler); ok {
			return meteredFiller{f, img}, true
		}
		return nil, false
	}
	f, ok := img.(providers.Filler)
	return f, ok
}

// A meteredFiller fills within the limits of its provider. What it fetches is known
// before, so the budgets allow it or do not.
type meteredFiller struct {
	providers.Filler
	m *metered
}

func (f meteredFiller) Fill(ctx context.Context, to providers.Spool, progress func(done int64)) error {
	var done, allowed int64
	b := f.m.t.now.Load()
	to = allowedSpool{to, func(fetched int64) error {
		if err := b.take(ctx, fetched, f.m.over); err != nil {
			return err
		}
		allowed = fetched
		return nil
	}}
	err := f.Filler.Fill(ctx, to, func(now int64) {
		f.m.t.fetched.Add(now - done)
		for n := now - done; n > 0; {
			part := b.read.part(int(min(n, 1<<30)), f.m.t.least)
			if b.read.wait(ctx, part) != nil {
				break // and so does who fills
			}
			n -= int64(part)
		}
		done = now
		if progress != nil {
			progress(now)
		}
	})
	if err != nil {
		b.giveBack(max(0, allowed-done))
	}
	return err
}

// An allowedSpool is begun when it may be.
type allowedSpool struct {
	providers.Spool
	allow func(fetched int64) error
}

func (s allowedSpool) Begin(size, fetched int64) error {
	if err := s.Spool.Begin(size, fetched); err != nil {
		return err
	}
	return s.allow(fetched)
}

// filling is the spool of a whole.
type filling struct {
	p *Pipeline
	w *whole
}

// Begin refuses what there is no room for.
func (f filling) Begin(size, fetched int64) error {
	if size != f.w.size {
		return disk.Errorf(disk.Stale, "fetch image: it has %d bytes now, it had %d", size, f.w.size)
	}
	if err := f.p.roomFor(size); err != nil {
		return disk.Hint(err, "make room, raise spool_limit, or put the state directory elsewhere: this image can be read as a whole only")
	}
	f.p.log.Info("fetch whole image: no part of it can be had", "fetched_bytes", fetched, "bytes", size, "into", f.p.state.spool)
	return nil
}

func (f filling) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > f.w.size || int64(len(p)) > f.w.size-off {
		return 0, disk.Errorf(disk.Other, "fetch image: %d bytes at offset %d are beyond its %d", len(p), off, f.w.size)
	}
	return f.w.spool.WriteAt(p, off)
}
