package disk

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The whence values of lseek(2) that find holes.
const (
	seekData = 3
	seekHole = 4
)

// statBlock is the unit of st_blocks, in bytes, whatever the filesystem's own
// block size is: inode(7).
const statBlock = 512

// OpenFile makes an image of a regular file or a block device, which it owns
// from then on, also when it fails. Its extents are those of the filesystem; one
// that knows no holes is all data. The size is that of the moment of opening: a
// file that is shorter later is Stale, never zeros.
func OpenFile(f *os.File) (Image, error) {
	img, err := openFile(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %q: %w", f.Name(), err)
	}
	return img, nil
}

func openFile(f *os.File) (*file, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	img := &file{f: f}
	switch mode := st.Mode(); {
	case mode.IsRegular():
		img.size = st.Size()
		img.regular = true
	case mode&iofs.ModeDevice != 0 && mode&iofs.ModeCharDevice == 0:
		if img.size, err = f.Seek(0, io.SeekEnd); err != nil {
			return nil, err
		}
	default:
		return nil, Errorf(Unsupported, "neither a regular file nor a block device")
	}
	// Every read is a pread(2), so nobody minds where lseek leaves the offset.
	_, err = f.Seek(0, seekHole)
	img.sparse = err == nil
	return img, nil
}

// A file is an image that lies in the local filesystem.
type file struct {
	f       *os.File
	size    int64
	regular bool // or else a block device
	sparse  bool // the filesystem tells holes
	closed  atomic.Bool

	lookOnce  sync.Once
	unwritten bool // see reserved
}

var _ Allocator = (*file)(nil)

func (f *file) Size() int64 { return f.size }

// closeTime is how long Close waits.
const closeTime = time.Second

// Close does not wait for reads that a disk does not answer: the file is closed
// behind them.
func (f *file) Close() error {
	if f.closed.Swap(true) {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- f.f.Close() }()
	select {
	case err := <-done:
		return err
	case <-time.After(closeTime):
		return nil
	}
}

// Allocated is what the filesystem has allocated now, at most the size. A block
// device is wholly allocated.
func (f *file) Allocated() int64 {
	if st, err := f.f.Stat(); err == nil && f.regular {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			return min(sys.Blocks*statBlock, f.size)
		}
	}
	return f.size
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if f.closed.Load() {
		return 0, ErrClosed
	}
	q, eof := ClipRead(p, off, f.size)
	if len(q) == 0 {
		return 0, eof
	}
	n, err := f.f.ReadAt(q, off)
	switch {
	case n == len(q):
		return n, eof
	case errors.Is(err, io.EOF):
		return n, f.ended(off + int64(n))
	}
	return n, f.failed("read", off+int64(n), err)
}

func (f *file) Extent(off, n int64) (Extent, error) {
	n, err := CheckRange(off, n, f.size)
	if err != nil {
		return Extent{}, err
	}
	if f.closed.Load() {
		return Extent{}, ErrClosed
	}
	if !f.sparse {
		return Extent{Off: off, Len: n}, nil
	}
	data, err := f.f.Seek(off, seekData)
	if errors.Is(err, syscall.ENXIO) {
		// No data from here on: a hole, unless the file has become shorter.
		if data, err = f.f.Seek(0, io.SeekEnd); err == nil && data < f.size {
			return Extent{}, f.shrunk(data)
		}
	}
	if err != nil {
		return Extent{}, f.failed("find data in", off, err)
	}
	if data > off {
		return Extent{Off: off, Len: min(data-off, n), Zero: true}, nil
	}
	hole, err := f.f.Seek(off, seekHole)
	if errors.Is(err, syscall.ENXIO) {
		return Extent{}, f.shrunk(off)
	}
	if err != nil {
		return Extent{}, f.failed("find hole in", off, err)
	}
	// A hole can be dug at off between the two calls; data is the safe answer.
	if hole <= off {
		hole = off + n
	}
	e := Extent{Off: off, Len: min(hole-off, n)}
	if !f.reserved() {
		return e, nil
	}
	switch run, found := f.firstUnwritten(e.Off, e.Len, false); {
	case found && run.Off == off:
		return run, nil
	case found:
		e.Len = run.Off - off
	}
	return e, nil
}

func (f *file) shrunk(size int64) error {
	return Errorf(Stale, "read %q at offset %d: file has shrunk from %d to %d bytes", f.f.Name(), size, f.size, size)
}

// ended is why a read has met the end of the file at off, before its size: somebody
// has cut it, or the disk does not give what is there. The latter says nothing of the
// file, which may be whole.
func (f *file) ended(off int64) error {
	st, err := f.f.Stat()
	switch {
	case err != nil:
		return f.failed("read", off, err)
	case f.regular && st.Size() < f.size:
		return f.shrunk(st.Size())
	}
	err = fmt.Errorf("read %q at offset %d: got no more, and the file has %d bytes: %w", f.f.Name(), off, f.size, io.ErrUnexpectedEOF)
	return Hint(err, hintDisk)
}

const hintDisk = "the disk that holds the file cannot read it: look at the kernel's log (dmesg), and copy the file anew from elsewhere"

// failed is err with the place that it is of; ErrClosed where Close is the reason.
func (f *file) failed(verb string, off int64, err error) error {
	if errors.Is(err, iofs.ErrClosed) {
		return ErrClosed
	}
	var plain *iofs.PathError
	if errors.As(err, &plain) {
		err = plain.Err // it names the file too, and no offset
	}
	switch err = fmt.Errorf("%s %q at offset %d: %w", verb, f.f.Name(), off, err); {
	case errors.Is(err, syscall.EIO):
		return Hint(err, hintDisk)
	case KindOf(err) == NotFound: // it is open, so it was there
		return Errorf(Stale, "%w", err)
	}
	return err
}
