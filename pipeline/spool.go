package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// A Spool takes the bytes of an image that a program writes into the mount,
// until they are published or dropped. It is safe for concurrent use.
//
// Bytes that equal those of a view which is open, or was a moment ago, at the
// same offset are recognised: they are noted, not stored. So a copy inside the
// mount knows its source, whichever program makes it, and needs no scratch
// space. The first byte that differs makes a plain sparse file of it. So it is with
// the image that has the name already; see Expect.
//
// States: fresh (nothing was written), recognised (cands is not empty, same
// says which bytes equal theirs, the rest is zero), plain (all is in the file;
// what was never written is zero, and without a file all of it).
type Spool struct {
	p *Pipeline

	mu    sync.RWMutex
	size  atomic.Int64 // changed under mu, and read by who must not wait for a write
	plain bool
	cands []*core // whose bytes equal all that was written; each is a use
	same  ranges

	expect *core // the image that has the name already, a use; nil if there is none
	strict bool  // what differs from it is refused: see Expect

	peeked peeked

	broken error // why the source of what was recognised could not be read on
	doubts []doubt

	closed bool
	file   *os.File // nil while nothing is stored
	sums   spoolSums
	path   string // of the file, in the spool folder
	most   int64  // bytes that the file took before it was made smaller
	left   bool   // the file stays, for a job that goes on later
}

// NewSpool makes an empty spool.
func (p *Pipeline) NewSpool(context.Context) (*Spool, error) { return &Spool{p: p}, nil }

// Size is the present length in bytes.
func (s *Spool) Size() int64 { return s.size.Load() }

// Allocated is the number of bytes that take scratch space.
func (s *Spool) Allocated() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return held(s.file)
}

// Scratch is the most scratch space that the spool has ever taken, in bytes.
func (s *Spool) Scratch() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return max(s.most, held(s.file))
}

// held is what a file takes, in bytes; 0 for nil.
func held(f *os.File) int64 {
	var st unix.Stat_t
	if f == nil || unix.Fstat(int(f.Fd()), &st) != nil {
		return 0
	}
	return st.Blocks * 512 // stat(2) counts in 512 bytes whatever the file system does
}

// WriteAt writes as io.WriterAt does; the spool grows as needed. It fails with
// NoSpace at the limit of all spools.
func (s *Spool) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, disk.Errorf(disk.Invalid, "write spool: offset %d", off)
	}
	if len(p) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, disk.ErrClosed
	}
	if s.strict {
		err := s.compare(p, off)
		if err == nil {
			return len(p), nil
		}
		if !s.unexpect(err) {
			return 0, err
		}
	}
	if !s.plain {
		if s.recognise(p, off) {
			return len(p), nil
		}
		if err := s.settle(); err != nil {
			return 0, err
		}
	}
	n, err := s.store(p, off)
	s.grow(off + int64(n))
	return n, err
}

// grow makes the spool at least size bytes long.
func (s *Spool) grow(size int64) {
	if size > s.size.Load() {
		s.size.Store(size)
	}
}

// store writes into the file. What is kept for nobody makes room for it.
func (s *Spool) store(p []byte, off int64) (int, error) {
	n, err := s.write(p, off)
	for err != nil && disk.KindOf(err) == disk.NoSpace && s.p.makeRoom() {
		n, err = s.write(p, off)
	}
	return n, err
}

// write writes into the file, which is made for the first byte.
func (s *Spool) write(p []byte, off int64) (int, error) {
	if err := s.p.claim(s.file, int64(len(p))); err != nil {
		return 0, err
	}
	if s.file == nil {
		f, err := os.CreateTemp(s.p.state.spool, spoolPrefix)
		if err != nil {
			return 0, fmt.Errorf("make spool: %w", err)
		}
		s.file, s.path = f, f.Name()
		s.p.mu.Lock()
		s.p.spools[f] += int64(len(p))
		s.p.mu.Unlock()
	}
	n, err := s.file.WriteAt(p, off)
	s.p.metrics.spooled.Add(float64(n))
	if err != nil {
		s.sums.forget(off, off+int64(len(p)))
		return n, fmt.Errorf("write spool at offset %d: %w", off, err)
	}
	s.sums.wrote(p, off)
	return n, nil
}

// claim counts n more bytes of a spool's file, nil for one that is about to be
// made, against the limit of all spools. What was written twice is counted twice
// until that reaches the limit; then the file system is asked.
func (p *Pipeline) claim(f *os.File, n int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit > 0 && p.spooled()+n > p.limit {
		for f := range p.spools {
			p.spools[f] = held(f)
		}
		if p.spooled()+n > p.limit {
			err := disk.Errorf(disk.NoSpace, "write spool: the limit of %d bytes for all spools is reached", p.limit)
			return disk.Hint(err, "raise spool_limit, or copy from inside the mount, which needs no spool")
		}
	}
	if f != nil {
		p.spools[f] += n
	}
	return nil
}

// spooled is the sum of what is counted.
func (p *Pipeline) spooled() int64 {
	var sum int64
	for _, n := range p.spools {
		sum += n
	}
	for _, n := range p.kept {
		sum += n
	}
	return sum
}

// ReadAt reads as io.ReaderAt does.
func (s *Spool) ReadAt(p []byte, off int64) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.closed:
		return 0, disk.ErrClosed
	case off < 0:
		return 0, disk.Errorf(disk.Invalid, "read spool: offset %d", off)
	}
	if off >= s.size.Load() {
		return 0, io.EOF
	}
	var end error
	if left := s.size.Load() - off; int64(len(p)) > left {
		p, end = p[:left], io.EOF
	}
	if err := s.read(p, off); err != nil {
		return 0, err
	}
	return len(p), end
}

// read fills p, which ends within the size.
func (s *Spool) read(p []byte, off int64) error {
	if s.plain || len(s.cands) == 0 {
		clear(p)
		if s.file == nil {
			return nil
		}
		// The file may be shorter than the spool: the rest was never written.
		if _, err := s.file.ReadAt(p, off); err != nil && err != io.EOF {
			return fmt.Errorf("read spool at offset %d: %w", off, err)
		}
		return nil
	}
	for len(p) > 0 {
		in, to := s.same.at(off, off+int64(len(p)))
		n := to - off
		if !in {
			clear(p[:n])
		} else if err := s.fetch(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], to
	}
	return nil
}

// Truncate sets the length.
func (s *Spool) Truncate(size int64) error {
	if size < 0 {
		return disk.Errorf(disk.Invalid, "truncate spool to %d bytes", size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if size < s.size.Load() {
		s.sums.forget(size, s.size.Load())
		s.same.remove(size, s.size.Load())
		if s.file != nil {
			s.most = max(s.most, held(s.file))
			if err := s.file.Truncate(min(size, s.fileSize())); err != nil {
				return fmt.Errorf("truncate spool: %w", err)
			}
		}
	}
	s.size.Store(size)
	if size == 0 {
		s.forget()
		s.broken, s.doubts = nil, nil
	}
	return nil
}

// forget makes a spool of no bytes fresh again: what comes next may be a copy
// of anything.
func (s *Spool) forget() {
	for _, c := range s.cands {
		s.p.drop(c)
	}
	s.cands, s.same, s.plain = nil, nil, false
	s.peeked.core, s.peeked.data = nil, nil
}

func (s *Spool) fileSize() int64 {
	var st unix.Stat_t
	if unix.Fstat(int(s.file.Fd()), &st) != nil {
		return 0
	}
	return st.Size
}

// Discard makes [off, off+n) zero.
func (s *Spool) Discard(off, n int64) error {
	if off < 0 || n < 0 {
		return disk.Errorf(disk.Invalid, "discard in spool: offset %d length %d", off, n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.size.Load()-off)
	if n <= 0 {
		return nil
	}
	s.same.remove(off, off+n)
	s.sums.forget(off, off+n)
	if s.file == nil {
		return nil
	}
	s.most = max(s.most, held(s.file))
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := unix.Fallocate(int(s.file.Fd()), mode, off, n); err == nil {
		return nil
	}
	// The file system has no holes: write the zeros.
	zero := make([]byte, min(n, 1<<20))
	for n > 0 {
		k, err := s.file.WriteAt(zero[:min(n, int64(len(zero)))], off)
		if err != nil {
			return fmt.Errorf("write zeros to spool: %w", err)
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

// Sync makes what is stored durable; it publishes nothing.
func (s *Spool) Sync() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.file == nil {
		return nil
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("sync spool: %w", err)
	}
	return nil
}

// Close drops the content. It does not wait for a read or write that a disk does
// not answer: the content goes behind that.
func (s *Spool) Close() error {
	if !s.mu.TryLock() {
		go func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if err := s.drop(); err != nil {
				s.p.log.Warn("close spool", "error", err)
			}
		}()
		return nil
	}
	defer s.mu.Unlock()
	return s.drop()
}

// drop is Close, under mu.
func (s *Spool) drop() error {
	s.forget()
	if s.expect != nil {
		s.p.drop(s.expect)
		s.expect, s.strict = nil, false
	}
	s.size.Store(0)
	s.closed = true
	if s.file == nil {
		return nil
	}
	s.p.mu.Lock()
	delete(s.p.spools, s.file)
	if s.left {
		s.p.kept[filepath.Base(s.path)] = held(s.file)
	}
	s.p.mu.Unlock()
	err := s.file.Close()
	if !s.left {
		err = errors.Join(err, removeFile(s.path))
	}
	s.file = nil
	return err
}

// removeFile removes a file that may be gone.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove spool: %w", err)
	}
	return nil
}

// keepAs gives the file of a spool a name by which a later process finds it, and
// tells whether all that was written is in it.
func (s *Spool) keepAs(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p.state.db == nil || s.file == nil || !s.plain || s.file.Truncate(s.size.Load()) != nil {
		return false
	}
	path := s.p.state.spoolPath(name)
	if os.Rename(s.path, path) != nil {
		return false
	}
	s.path = path
	return true
}

// leave keeps the file beyond the spool.
func (s *Spool) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = s.file != nil
}

// dropSpool removes the file of a job that has ended. The spool that it was goes
// on without a name.
func (p *Pipeline) dropSpool(name string) {
	if err := removeFile(p.state.spoolPath(name)); err != nil {
		p.log.Warn("remove spool", "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.kept, name)
}

// Image is the spool's content as it is now, for Copy; the spool must not be
// written while it is read. Closing it leaves the spool.
func (s *Spool) Image() disk.Image { return spoolImage{s, s.Size()} }

type spoolImage struct {
	*Spool
	size int64
}

func (i spoolImage) Size() int64 { return i.size }

func (spoolImage) Close() error { return nil }

// ReadAt reads what was written, or fails where the disk gives something else.
func (i spoolImage) ReadAt(p []byte, off int64) (int, error) {
	n, err := i.Spool.ReadAt(p, off)
	i.mu.RLock()
	defer i.mu.RUnlock()
	if bad := i.sums.check(p[:n], off); bad != nil {
		return 0, bad
	}
	return n, err
}

// Extent is that of disk.Image.
func (i spoolImage) Extent(off, n int64) (disk.Extent, error) {
	s := i.Spool
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, err := disk.CheckRange(off, n, i.size)
	if err != nil {
		return disk.Extent{}, err
	}
	if s.closed {
		return disk.Extent{}, disk.ErrClosed
	}
	if !s.plain && len(s.cands) > 0 {
		in, end := s.same.at(off, off+n)
		return disk.Extent{Off: off, Len: end - off, Zero: !in}, nil
	}
	if s.file == nil {
		return disk.Extent{Off: off, Len: n, Zero: true}, nil
	}
	e, err := fileExtent(s.file, off, n)
	if err == nil && e.Zero {
		// A hole where something was written is a write that was lost.
		if at := s.sums.data(off, e.Len); at > off {
			e.Len = at - off
		} else {
			e.Zero = false
		}
	}
	return e, err
}

// fileExtent asks the file system, which may know nothing of holes; what lies
// behind the end of the file is one.
func fileExtent(f *os.File, off, n int64) (disk.Extent, error) {
	data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return disk.Extent{Off: off, Len: n, Zero: true}, nil
	case err != nil:
		return disk.Extent{Off: off, Len: n}, nil
	case data > off:
		return disk.Extent{Off: off, Len: min(data-off, n), Zero: true}, nil
	}
	hole, err := unix.Seek(int(f.Fd()), off, unix.SEEK_HOLE)
	if err != nil {
		return disk.Extent{}, fmt.Errorf("find hole of spool at offset %d: %w", off, err)
	}
	// A hole can be dug at off between the two calls; data is the safe answer.
	if hole <= off {
		hole = off + n
	}
	return disk.Extent{Off: off, Len: min(hole-off, n)}, nil
}
