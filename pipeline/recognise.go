package pipeline

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"chromogenic/disk"
	"chromogenic/formats"
)

// recognise notes p as equal to the views it equals, and tells whether there is
// one. The spool is not plain.
func (s *Spool) recognise(p []byte, off int64) bool {
	cands := s.cands
	fresh := len(cands) == 0
	if fresh {
		cands = s.candidates()
		s.p.guess(cands, 1)
	}
	var keep, out []*core
	var broken error
	for i, err := range s.compareAll(cands, p, off, fresh) {
		c := cands[i]
		if err == nil {
			keep = append(keep, c)
			continue
		}
		out = append(out, c)
		switch why := c.whyZero(err, p, off); {
		case why == nil:
		case fresh && errors.Is(err, errDifferent):
			s.doubts = append(s.doubts, doubt{c.Size(), why})
		case !fresh && s.telling(c):
			broken = why
		}
	}
	if len(keep) == 0 && !fresh {
		// Whoever reads for the writer has met the same error, and may have put
		// zeros in the place of what he could not read.
		s.broken = broken
		return false // settle needs one of the candidates
	}
	if fresh {
		s.p.guess(cands, -1)
	}
	for _, c := range out {
		s.p.drop(c)
	}
	s.cands = keep
	if len(keep) == 0 {
		return false
	}
	s.equal(off, int64(len(p)))
	return true
}

// whyZero is why what was written, and is not what c has there, may be no writer's
// intention: c could not be read, or could not be when the writer's bytes were read,
// which are zeros since. A program that reads for another puts them in the place of what
// it has no bytes of (rsync does), and tells nobody until the end.
func (c *core) whyZero(err error, p []byte, off int64) error {
	switch {
	case errors.Is(err, ErrStalled):
		return nil
	case !errors.Is(err, errDifferent):
		return err
	}
	return c.lost.under(p, off)
}

// errDifferent says that what was written is not what a candidate has there.
var errDifferent = errors.New("it differs")

// comparisons is how many candidates are read at once. Each is waited for until it
// stalls, and a writer may not wait for one after the other.
const comparisons = 16

// compareAll gives for each candidate nil where p, written at off, is what it has
// there, errDifferent where it is not, or why that cannot be told.
func (s *Spool) compareAll(cands []*core, p []byte, off int64, fresh bool) []error {
	errs := make([]error, len(cands))
	if len(cands) == 1 && !fresh {
		errs[0] = s.compareOnly(cands[0], p, off)
		return errs
	}
	var g errgroup.Group
	g.SetLimit(comparisons)
	for i, c := range cands {
		g.Go(func() error {
			errs[i] = c.compare(p, off)
			return nil
		})
	}
	_ = g.Wait() // each has an error of its own
	return errs
}

// firstBlock is how much of a candidate among many is read at first, in bytes: most
// differ in it.
const firstBlock = 4 << 10

// compare is compareAll for one of many.
func (c *core) compare(p []byte, off int64) error {
	if off+int64(len(p)) > c.Size() {
		return errDifferent
	}
	for n := firstBlock; len(p) > 0; n = len(p) {
		n = min(n, len(p))
		have := make([]byte, n)
		if err := c.readOrStall(c.image, have, off); err != nil {
			return err
		}
		if !bytes.Equal(have, p[:n]) {
			return errDifferent
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// compareOnly is compareAll for the only candidate, which is what is being copied.
func (s *Spool) compareOnly(c *core, p []byte, off int64) error {
	if off+int64(len(p)) > c.Size() {
		return errDifferent
	}
	have, err := s.peek(c, off, len(p), false)
	if err == nil && !bytes.Equal(have, p) {
		return errDifferent
	}
	return err
}

// equal notes n bytes at off as equal to those of the candidates.
func (s *Spool) equal(off, n int64) {
	s.same.add(off, off+n)
	s.grow(off + n)
}

// WriteKnown is WriteAt of bytes that equal what was read ahead of their source, which
// costs next to nothing and waits for no disk: it is false for all others, and then has
// done nothing.
func (s *Spool) WriteKnown(p []byte, off int64) bool {
	if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	if s.closed || s.strict || s.plain || len(s.cands) != 1 || len(p) == 0 {
		return false
	}
	if have := s.peeked.get(s.cands[0], off, len(p)); have == nil || !bytes.Equal(have, p) {
		return false
	}
	s.equal(off, int64(len(p)))
	return true
}

// A peeked is what was read of a candidate to compare with.
type peeked struct {
	core *core
	off  int64
	data []byte
}

// get gives n bytes of c at off, nil where they were not read.
func (w *peeked) get(c *core, off int64, n int) []byte {
	if in := off - w.off; w.core == c && in >= 0 && in+int64(n) <= int64(len(w.data)) {
		return w.data[in : in+int64(n)]
	}
	return nil
}

// peekAhead is how much of the only candidate is read at once for writes that are
// smaller, in bytes: tar writes 10 KiB at a time.
const peekAhead = 512 << 10

// peek gives n bytes of c at off, zeros behind its end. They hold until the next call.
// It waits, and reads on for that; or, where it is told not to, it fails when the source
// does not answer.
func (s *Spool) peek(c *core, off int64, n int, impatient bool) ([]byte, error) {
	w := &s.peeked
	if have := w.get(c, off, n); have != nil {
		return have, nil
	}
	size := n
	if !impatient {
		size = max(n, int(min(peekAhead, c.Size()-off)))
	}
	if cap(w.data) < size {
		w.data = make([]byte, size)
	}
	w.core, w.off, w.data = nil, off, w.data[:size]
	read := disk.ReadFull
	if impatient {
		read = c.readOrStall
	}
	if err := read(c.image, w.data, off); err != nil {
		if errors.Is(err, ErrStalled) {
			w.data = nil // it may be written to yet
		}
		return nil, err
	}
	w.core = c
	return w.data[:n], nil
}

// settle makes a plain spool of a recognised one: the bytes that were noted are
// stored after all.
func (s *Spool) settle() error {
	if len(s.cands) > 0 {
		buf := make([]byte, 1<<20)
		for _, r := range s.same {
			for off := r.from; off < r.to; {
				n := min(r.to-off, int64(len(buf)))
				if err := s.fetch(buf[:n], off); err != nil {
					return fmt.Errorf("fetch recognised bytes: %w", err)
				}
				if _, err := s.store(buf[:n], off); err != nil {
					return err
				}
				off += n
			}
		}
	}
	s.forget()
	s.plain = true
	return nil
}

// fetch reads recognised bytes from the first candidate that gives them: all of
// them equal what was written.
func (s *Spool) fetch(p []byte, off int64) error {
	var err error
	for _, c := range s.cands {
		if err = disk.ReadFull(c.image, p, off); err == nil {
			return nil
		}
	}
	return err
}

// Bind takes n bytes of v at offset from as the spool's at offset to: what
// copy_file_range(2) does. Where from equals to nothing is read, unless the spool
// is strict and it is not known that v is what it expects.
func (s *Spool) Bind(v *View, from, to, n int64) error {
	if from < 0 || to < 0 || n < 0 || n > v.Size()-from {
		return disk.Errorf(disk.Invalid, "bind %d bytes at offset %d: the image has %d", n, from, v.Size())
	}
	if s.note(v, from, to, n) {
		return nil
	}
	buf := make([]byte, min(n, 1<<20))
	for n > 0 {
		k := s.holes(v, from, to, n)
		if k == 0 {
			k = min(n, int64(len(buf)))
			if err := disk.ReadFull(v, buf[:k], from); err != nil {
				return err
			}
			if _, err := s.WriteAt(buf[:k], to); err != nil {
				return err
			}
		}
		from, to, n = from+k, to+k, n-k
	}
	return nil
}

// note is Bind where nothing need be read; false where it must be.
func (s *Spool) note(v *View, from, to, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := v.core
	switch {
	case s.plain || from != to:
		return false
	case s.strict && c.Ref.Entry.Live():
		s.strict = false // to compare it would be to capture it
	case s.strict && c != s.expect && !s.equalDisk(v):
		return false
	case s.strict:
		c = s.expect
	}
	if !s.narrow(c) {
		return false
	}
	s.equal(to, n)
	return true
}

// narrow makes c the only candidate, if all that was written may be its.
func (s *Spool) narrow(c *core) bool {
	fresh := len(s.cands) == 0
	found := false
	for _, x := range s.cands {
		found = found || x == c
	}
	if !fresh && !found {
		return false
	}
	s.p.retain(c)
	for _, x := range s.cands {
		s.p.drop(x)
	}
	s.cands = []*core{c}
	return true
}

// Source gives the view that the whole spool equals, if there is one. The
// caller closes it.
func (s *Spool) Source() (*View, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, c := range s.cands {
		if !s.plain && c.Size() == s.size.Load() && s.gapsZero(c) {
			s.p.retain(c)
			return &View{core: c, brief: true}, true
		}
	}
	return nil, false
}

// Likely gives the one view that all which was written equals, from its beginning on,
// before it is known whether the rest will too. It is false where there is an image of
// the name already. The caller closes the view.
func (s *Spool) Likely() (*View, bool) {
	if !s.mu.TryRLock() {
		return nil, false
	}
	defer s.mu.RUnlock()
	if s.plain || s.closed || s.expect != nil || len(s.cands) != 1 {
		return nil, false
	}
	c := s.cands[0]
	in, end := s.same.at(0, s.size.Load())
	if !in || end < s.size.Load() || c.Ref.Entry.Live() || !c.Settled() {
		return nil, false
	}
	s.p.retain(c)
	return &View{core: c, brief: true}, true
}

// Same tells whether two views show the same bytes of one opened image.
func (v *View) Same(w *View) bool { return v.core == w.core }

// gapsZero tells whether what the writer left out is zero in c too.
func (s *Spool) gapsZero(c *core) bool {
	for off := int64(0); off < s.size.Load(); {
		in, end := s.same.at(off, s.size.Load())
		if !in && !allZero(c.image, off, end-off) {
			return false
		}
		off = end
	}
	return true
}

// allZero tells whether n bytes of img read as zero. It reads data only, and
// takes what cannot be read for data.
func allZero(img disk.Image, off, n int64) bool {
	buf := make([]byte, min(n, 1<<20))
	for end := off + n; off < end; {
		e, err := img.Extent(off, end-off)
		if err != nil {
			return false
		}
		for e.Len > 0 && !e.Zero {
			p := buf[:min(e.Len, int64(len(buf)))]
			if disk.ReadFull(img, p, e.Off) != nil || len(bytes.TrimLeft(p, "\x00")) > 0 {
				return false
			}
			e.Off += int64(len(p))
			e.Len -= int64(len(p))
		}
		off = e.End()
	}
	return true
}

// Blank tells whether every byte reads as zero, or the container in it (of the
// given format) holds a disk of zeros: what qemu-img leaves behind between its
// first and its last close.
func (s *Spool) Blank(format string) bool {
	img := s.Image()
	row, ok := formats.ByName(format)
	if !ok {
		return false
	}
	if format == formatRaw {
		return allZero(img, 0, img.Size())
	}
	m, err := row.Open(img, formats.OpenOptions{})
	if err != nil {
		return false
	}
	for _, d := range m.Disks {
		if !allZero(d, 0, d.Size()) {
			return false
		}
	}
	return true
}
