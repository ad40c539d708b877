package qcow2

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"chromogenic/disk"
)

// Budgets of one open image, in bytes.
const (
	tableBudget   = 2 << 20 // of slices of L2 tables
	sliceLimit    = 64 << 10
	clusterBudget = 8 << 20 // of decompressed clusters
)

// An image is an open qcow2 file: the virtual disk as a disk.Image.
type image struct {
	src     disk.Image // the file
	backing disk.Image // nil for none
	size    int64      // of the virtual disk, bytes

	clusterBits    uint32
	l2Bits         uint32 // of a cluster's number: its place in the L2 table
	subclusterBits uint32 // used where extended
	extended       bool   // L2 entries are of two words
	zeroFlag       bool   // version 3: a cluster may read as zeros

	l1       []l1Entry // as many as the disk needs
	whole    []kind    // what all clusters of an L1 entry with an L2 table are, as check saw them
	slices   *lru      // parts of L2 tables by their offset in the file
	clusters *lru      // decompressed clusters by their L2 entry
	inflate  decompressor
	closed   atomic.Bool
}

// Open opens a qcow2 file as a machine of one disk. An image that names a
// backing file needs backing, which stays the caller's as img does; its name is
// never opened. Errors are of kind Malformed or Unsupported, or those of the
// images; a backing that the image does not ask for is Invalid.
func Open(img, backing disk.Image) (*disk.Machine, error) { return open(img, backing, false) }

// OpenChecked is Open of a file that an earlier Open has found sound, at the same
// version: its L2 tables, 128 MiB for a full disk of 1 TiB, are not walked again.
// A file that has changed all the same is still read within its bounds.
func OpenChecked(img, backing disk.Image) (*disk.Machine, error) { return open(img, backing, true) }

func open(img, backing disk.Image, checked bool) (*disk.Machine, error) {
	h, err := readHeader(img)
	if err != nil {
		return nil, err
	}
	name, err := h.backingName(img)
	switch {
	case err != nil:
		return nil, err
	case name != "" && backing == nil:
		return nil, disk.Hint(malformed("the image is based on the backing file %q: %w", name, ErrNoBacking),
			"supply it with convert --backing FILE")
	case name == "" && backing != nil:
		return nil, disk.Errorf(disk.Invalid, "open qcow2: the image has no backing file, but one is supplied")
	}
	d := newImage(h, img, backing)
	if d.inflate, err = newDecompressor(h.compression); err != nil {
		return nil, err
	}
	if d.l1, err = readL1(h, img); err != nil {
		return nil, err
	}
	if checked {
		d.whole = slices.Repeat([]kind{mixed}, len(d.l1))
	} else if err := d.check(h); err != nil {
		return nil, err
	}
	return &disk.Machine{Disks: []disk.Disk{{Image: d}}}, nil
}

func newImage(h *header, img, backing disk.Image) *image {
	return &image{
		src: img, backing: backing, size: int64(h.size),
		clusterBits:    h.clusterBits,
		l2Bits:         h.l2Bits(),
		subclusterBits: h.clusterBits - 5, // 32 of them
		extended:       h.incompatible.has(featureExtendedL2),
		zeroFlag:       h.version >= 3,
		slices:         newLRU(tableBudget, min(h.clusterSize(), sliceLimit)),
		clusters:       newLRU(clusterBudget, h.clusterSize()),
	}
}

// readL1 reads the part of the L1 table that the disk needs.
func readL1(h *header, img disk.Image) ([]l1Entry, error) {
	l1 := make([]l1Entry, h.l1Needed()) // within maxL1Bytes and the file, checked
	buf := make([]byte, min(int64(len(l1))*8, sliceLimit))
	for i := 0; i < len(l1); {
		p := buf[:min(len(buf), (len(l1)-i)*8)]
		if err := disk.ReadFull(img, p, int64(h.l1Offset)+int64(i)*8); err != nil {
			return nil, fmt.Errorf("read L1 table: %w", err)
		}
		for ; len(p) > 0; p = p[8:] {
			l1[i] = l1Entry(binary.BigEndian.Uint64(p))
			i++
		}
	}
	return l1, nil
}

func (d *image) clusterSize() int64 { return 1 << d.clusterBits }

// entrySize is the bytes of an L2 entry.
func (d *image) entrySize() int64 { return d.clusterSize() >> d.l2Bits }

// Size is the length of the virtual disk.
func (d *image) Size() int64 { return d.size }

// Close makes later reads fail. The file and the backing image belong to the
// caller.
func (d *image) Close() error {
	d.closed.Store(true)
	return nil
}

// ReadAt reads the virtual disk as io.ReaderAt does.
func (d *image) ReadAt(p []byte, off int64) (int, error) {
	if d.closed.Load() {
		return 0, disk.ErrClosed
	}
	q, eof := disk.ClipRead(p, off, d.size)
	for done := 0; done < len(q); {
		at := off + int64(done)
		r, err := d.run(at, int64(len(q)-done), true)
		if err == nil {
			err = d.readRun(q[done:done+int(r.n)], r, at)
		}
		if err != nil {
			return done, fmt.Errorf("read qcow2 at offset %d: %w", at, err)
		}
		done += int(r.n)
	}
	return len(q), eof
}

// readRun fills p, which is the run r that begins at off.
func (d *image) readRun(p []byte, r run, off int64) error {
	switch {
	case r.kind == plain:
		return d.readHost(p, r.host)
	case r.kind == packed:
		c, err := d.unpack(r.entry)
		if err != nil {
			return err
		}
		copy(p, c[off&(d.clusterSize()-1):])
		return nil
	case r.kind == absent && d.backing != nil && off < d.backing.Size():
		return disk.ReadFull(d.backing, p, off) // zero behind its end
	}
	clear(p)
	return nil
}

// readHost reads from the file. Behind its end there are no zeros but an error:
// the tables were checked, so the file has changed.
func (d *image) readHost(p []byte, off int64) error {
	if size := d.src.Size(); off > size-int64(len(p)) {
		return disk.Errorf(disk.Malformed, "%d bytes at offset %d are behind the end of the file at %d", len(p), off, size)
	}
	return disk.ReadFull(d.src, p, off)
}

// unpack returns the compressed cluster of entry e, whole.
func (d *image) unpack(e l2Entry) ([]byte, error) {
	return d.clusters.get(int64(e), func() ([]byte, error) {
		off, n := e.data(d.clusterBits)
		n = min(n, d.src.Size()-off) // the last sector may be cut
		if n < 1 {
			return nil, disk.Errorf(disk.Malformed, "compressed cluster at offset %d is behind the end of the file", off)
		}
		src, dst := make([]byte, n), make([]byte, d.clusterSize())
		if err := disk.ReadFull(d.src, src, off); err != nil {
			return nil, err
		}
		if err := d.inflate(dst, src); err != nil {
			return nil, disk.Errorf(disk.Malformed, "decompress cluster at offset %d: %w", off, err)
		}
		return dst, nil
	})
}

// Extent is that of disk.Image, from the L1 and L2 tables and the extents of the
// backing image. Holes of the file itself do not count: a copy of the file has
// the same extents.
func (d *image) Extent(off, n int64) (disk.Extent, error) {
	if d.closed.Load() {
		return disk.Extent{}, disk.ErrClosed
	}
	n, err := disk.CheckRange(off, n, d.size)
	if err != nil {
		return disk.Extent{}, err
	}
	e := disk.Extent{Off: off}
	for e.Len < n {
		at := e.End()
		r, err := d.run(at, n-e.Len, false)
		if err != nil {
			return disk.Extent{}, fmt.Errorf("find extent of qcow2 at offset %d: %w", at, err)
		}
		zero := r.kind == zeroed || r.kind == absent
		if r.kind == absent && d.backing != nil && at < d.backing.Size() {
			b, err := d.backing.Extent(at, r.n)
			if err != nil {
				return disk.Extent{}, fmt.Errorf("find extent of backing image: %w", err)
			}
			r.n, zero = b.Len, b.Zero
		}
		if e.Len > 0 && zero != e.Zero {
			break
		}
		e.Zero = zero
		e.Len += r.n
	}
	return e, nil
}
