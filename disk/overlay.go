package disk

import (
	"context"
	"fmt"
	"sync"
)

// OverlayOptions say where an overlay keeps what is written. With the zero
// value every page goes to a scratch file in os.TempDir.
type OverlayOptions struct {
	Budget  int64  // bytes of pages held in memory before they go to a scratch file
	Scratch string // folder of the scratch file, which has no name there; empty is os.TempDir
}

// An Overlay is a writable image over a base that is never written: a
// copy-on-write disk with pages of 4 KiB. Written pages are data, discarded
// ones are holes, all others are as in the base. It has the size of the base,
// for ever.
//
// All methods are safe for concurrent use. A ReadAt beside a WriteAt of the
// same bytes sees, page by page, the old or the new.
type Overlay struct {
	base Image
	size int64

	mu     sync.RWMutex // never held over a call of base
	table  pageTable
	store  pageStore
	closed bool
}

var (
	_ Allocator = (*Overlay)(nil)
	_ Verifier  = (*Overlay)(nil)
)

// NewOverlay makes an overlay that holds nothing yet. The base stays the
// caller's, to be closed after the overlay.
func NewOverlay(base Image, o OverlayOptions) *Overlay {
	size := base.Size()
	return &Overlay{
		base:  base,
		size:  size,
		table: newPageTable(pagesUpTo(size)),
		store: pageStore{budget: int(o.Budget / pageSize), folder: o.Scratch},
	}
}

// Size is that of the base, in bytes.
func (o *Overlay) Size() int64 { return o.size }

// Stored is the number of bytes that the overlay's pages take. Discards take
// none.
func (o *Overlay) Stored() int64 {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.store.stored() * pageSize
}

// Allocated is the number of bytes that are not holes. Where the base cannot
// tell its extents, all the rest counts.
func (o *Overlay) Allocated() int64 {
	var sum, off int64
	for e, err := range Extents(o) {
		if err != nil {
			return sum + o.size - off
		}
		if off = e.End(); !e.Zero {
			sum += e.Len
		}
	}
	return sum
}

// Verify is that of the base: what was not written comes from there.
func (o *Overlay) Verify(ctx context.Context) error { return Verify(ctx, o.base) }

// Close drops what was written and makes later reads and writes fail. A read
// that waits for the base returns when the base does.
func (o *Overlay) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	return o.store.close()
}

// ReadAt reads as io.ReaderAt does.
func (o *Overlay) ReadAt(p []byte, off int64) (int, error) {
	if err := o.open(); err != nil {
		return 0, err
	}
	q, eof := ClipRead(p, off, o.size)
	if len(q) == 0 {
		return 0, eof
	}
	for done := 0; done < len(q); {
		n, err := o.readRun(q[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return len(q), eof
}

func (o *Overlay) open() error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.closed {
		return ErrClosed
	}
	return nil
}

// readRun reads the beginning of p, as far as one run of pages goes.
func (o *Overlay) readRun(p []byte, off int64) (int, error) {
	o.mu.RLock()
	if o.closed {
		o.mu.RUnlock()
		return 0, ErrClosed
	}
	kind, end := o.table.run(off / pageSize)
	p = p[:min(int64(len(p)), o.start(end)-off)]
	switch kind {
	case kindZero:
		clear(p)
	case kindStored:
		defer o.mu.RUnlock()
		return o.readStored(p, off)
	}
	o.mu.RUnlock()
	if kind == kindBase {
		if err := ReadFull(o.base, p, off); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// readStored reads p from pages that are all in the store; mu is held.
func (o *Overlay) readStored(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		page, in, n := pageOf(off+int64(done), len(p)-done)
		if err := o.store.read(o.table.get(page).slot(), in, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// pageOf splits a range of n bytes at off: its first page, the offset within
// that, and how many of the bytes lie there.
func pageOf(off int64, n int) (page, in int64, here int) {
	in = off % pageSize
	return off / pageSize, in, int(min(int64(n), pageSize-in))
}

// pagesUpTo is the number of pages that begin before off.
func pagesUpTo(off int64) int64 { return off/pageSize + min(off%pageSize, 1) }

// start is the offset at which a page begins; the one behind the last begins at
// the end.
func (o *Overlay) start(page int64) int64 {
	if page == o.table.pages {
		return o.size
	}
	return page * pageSize
}

// Extent is that of Image. Written pages are data, even when they hold zeros.
func (o *Overlay) Extent(off, n int64) (Extent, error) {
	n, err := CheckRange(off, n, o.size)
	if err != nil {
		return Extent{}, err
	}
	run := Extent{Off: off}
	for run.Len < n {
		o.mu.RLock()
		closed := o.closed
		kind, end := o.table.run(run.End() / pageSize)
		o.mu.RUnlock()
		if closed {
			return Extent{}, ErrClosed
		}
		part := Extent{Off: run.End(), Zero: kind == kindZero}
		part.Len = min(o.start(end)-part.Off, n-run.Len)
		if kind == kindBase {
			if part, err = o.base.Extent(part.Off, part.Len); err != nil {
				return Extent{}, fmt.Errorf("find extent of base: %w", err)
			}
		}
		if run.Len > 0 && part.Zero != run.Zero {
			break
		}
		run.Zero = part.Zero
		run.Len += part.Len
	}
	return run, nil
}
