package disk

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// OpenStill is OpenFile for a file that nobody may change meanwhile: after each
// read, and each look at the extents, its size and modification time are compared
// with those of the opening, and it is Stale when they differ or the file has been
// removed. So what is read is of one version, as far as writers set the time.
func OpenStill(f *os.File) (Image, error) {
	img, err := OpenFile(f)
	if err != nil {
		return nil, err
	}
	was, err := f.Stat()
	if err != nil {
		img.Close()
		return nil, fmt.Errorf("open %q: %w", f.Name(), err)
	}
	if !was.Mode().IsRegular() {
		return img, nil // the size of a device is fixed, and its time says nothing
	}
	return &still{Image: img, f: f, size: was.Size(), time: was.ModTime(), named: named(was)}, nil
}

// named tells whether a file has a name.
func named(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Nlink > 0
}

// still is a file that must stay as it is.
type still struct {
	Image
	f     *os.File // of Image, which owns it
	size  int64
	time  time.Time
	named bool // it had a name, and is to keep one
}

var _ Allocator = (*still)(nil)

func (s *still) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Image.ReadAt(p, off)
	if changed := s.check(off, err); changed != nil {
		return 0, changed
	}
	return n, err
}

func (s *still) Extent(off, n int64) (Extent, error) {
	e, err := s.Image.Extent(off, n)
	if changed := s.check(off, err); changed != nil {
		return Extent{}, changed
	}
	return e, err
}

// Allocated is what the filesystem has allocated, in bytes.
func (s *still) Allocated() int64 {
	if n, err := Allocated(s.Image); err == nil {
		return n
	}
	return s.Size()
}

// check fails when the file is not as it was. Of a file whose state cannot be had,
// what the look itself has met, if anything, tells more.
func (s *still) check(off int64, met error) error {
	if errors.Is(met, ErrClosed) {
		return nil
	}
	now, err := s.f.Stat()
	switch {
	case errors.Is(err, os.ErrClosed):
		return ErrClosed
	case err != nil && met != nil:
		return nil
	case err != nil:
		return fmt.Errorf("read %q at offset %d: %w", s.f.Name(), off, err)
	case now.Size() != s.size || !now.ModTime().Equal(s.time):
		return Errorf(Stale, "read %q at offset %d: file changed on disk while it was open", s.f.Name(), off)
	case s.named && !named(now):
		return Errorf(Stale, "read %q at offset %d: file was deleted or replaced while it was open", s.f.Name(), off)
	}
	return nil
}
