package disk

import "fmt"

// WriteAt writes all of p, or tells how much of it and why not more. A write
// beyond the end writes nothing and is an error.
func (o *Overlay) WriteAt(p []byte, off int64) (int, error) {
	if err := o.checkWrite(off, int64(len(p))); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		page, in, n := pageOf(off+int64(done), len(p)-done)
		if err := o.writePage(page, in, p[done:done+n]); err != nil {
			return done, fmt.Errorf("write overlay at offset %d: %w", off+int64(done), err)
		}
		done += n
	}
	return len(p), nil
}

// Discard makes n bytes at off read as zero. The whole pages among them become
// holes, whatever their number at hardly any cost; the parts of pages at the
// edges are written with zeros, unless they are holes already.
func (o *Overlay) Discard(off, n int64) error {
	if err := o.checkWrite(off, n); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	end := off + n
	first, last := pagesUpTo(off), end/pageSize // the whole pages are [first, last)
	if end == o.size {
		last = o.table.pages
	}
	if first >= last {
		return o.zeroFill(off, end)
	}
	if err := o.zeroFill(off, o.start(first)); err != nil {
		return err
	}
	if err := o.zeroFill(o.start(last), end); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return ErrClosed
	}
	o.table.discard(first, last, o.store.free)
	return nil
}

// zeroFill writes zeros to [from, to), less than two pages, where it is not a
// hole. An empty or inverted range is none.
func (o *Overlay) zeroFill(from, to int64) error {
	if from >= to {
		return nil
	}
	if e, err := o.Extent(from, to-from); err != nil || e.Zero && e.End() == to {
		return err
	}
	_, err := o.WriteAt(make([]byte, to-from), from)
	return err
}

func (o *Overlay) checkWrite(off, n int64) error {
	if off < 0 || n < 0 || off > o.size || n > o.size-off {
		return Errorf(Invalid, "write overlay: offset %d length %d outside of its %d bytes", off, n, o.size)
	}
	return o.open()
}

// writePage changes a page from in on. A page of the base is read before mu is
// taken, so that a slow base stops nobody else; what was read stays true, for
// the base never changes.
func (o *Overlay) writePage(page, in int64, p []byte) error {
	var buf *[pageSize]byte
	whole := in == 0 && int64(len(p)) == min(pageSize, o.size-page*pageSize)
	if !whole && o.state(page) == pageBase {
		buf = new([pageSize]byte)
		if err := ReadFull(o.base, buf[:], page*pageSize); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return ErrClosed
	}
	s := o.table.get(page)
	if s >= firstSlot {
		return o.store.write(s.slot(), in, p)
	}
	if buf == nil || s == pageZero { // it may have been discarded since it was read
		buf = new([pageSize]byte)
	}
	copy(buf[in:], p)
	slot, err := o.store.add(buf)
	if err != nil {
		return err
	}
	o.table.set(page, pageState(slot)+firstSlot)
	return nil
}

func (o *Overlay) state(page int64) pageState {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.table.get(page)
}
