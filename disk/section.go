package disk

import (
	"context"
	"sync/atomic"
)

// Section returns the n bytes of img from off as an image of their own: a
// partition of a disk, a member of a tar file. What lies outside of img is cut
// off. The section does not own img: its Close ends its own reads alone, and a
// read that waits for img returns when img does.
func Section(img Image, off, n int64) Image {
	if off < 0 {
		n += off
		off = 0
	}
	return &section{img: img, off: off, size: max(0, min(n, img.Size()-off))}
}

type section struct {
	img       Image
	off, size int64
	closed    atomic.Bool
}

func (s *section) Size() int64 { return s.size }

func (s *section) Close() error {
	s.closed.Store(true)
	return nil
}

// Verify is that of the whole image.
func (s *section) Verify(ctx context.Context) error { return Verify(ctx, s.img) }

func (s *section) ReadAt(p []byte, off int64) (int, error) {
	if s.closed.Load() {
		return 0, ErrClosed
	}
	q, eof := ClipRead(p, off, s.size)
	if len(q) == 0 {
		return 0, eof
	}
	if err := ReadFull(s.img, q, s.off+off); err != nil {
		return 0, err
	}
	return len(q), eof
}

func (s *section) Extent(off, n int64) (Extent, error) {
	n, err := CheckRange(off, n, s.size)
	if err != nil {
		return Extent{}, err
	}
	e, err := s.img.Extent(s.off+off, n)
	if err != nil {
		return Extent{}, err
	}
	e.Off = off
	return e, nil
}
