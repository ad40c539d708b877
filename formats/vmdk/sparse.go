package vmdk

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"chromogenic/disk"
)

const (
	maxGrain        = 16 << 20 // bytes; products write 64 KiB
	maxTableEntries = 1 << 16  // VDF says 512, ESX 4096
	maxTables       = 1 << 22  // 16 MiB of directory; 64 TiB of the usual tables are half of it

	// cacheBytes is how many bytes of tables and inflated grains an extent keeps.
	cacheBytes = 2 << 20
)

// sparse is a sparse extent as a disk. Its directory is in memory, where an
// entry of 0 stands also for a table that has no grain; tables and inflated
// grains come through a small cache.
type sparse struct {
	img        disk.Image
	size       int64 // bytes of the disk
	grainSize  int64 // bytes
	tableSpan  int64 // bytes of the disk that one table maps
	entries    int64 // of a full table
	compressed bool
	markers    bool
	zeroGrain  bool

	directory []uint32 // sector of each table
	allocated int64    // bytes of the disk in grains
	cache     *cache
	inflaters sync.Pool // *inflater
	closed    atomic.Bool
}

var _ disk.Allocator = (*sparse)(nil)

// openSparse opens the extent that g describes. Sectors is its size as the
// descriptor says it, or 0 where it does not; text is the embedded descriptor,
// which no table may overlap.
func openSparse(img disk.Image, g geometry, sectors int64, text []byte) (*sparse, error) {
	switch {
	case g.grainSectors == 0 || bits.OnesCount64(g.grainSectors) != 1 || g.grainSectors > maxGrain/sector:
		return nil, disk.Errorf(disk.Malformed, "open vmdk: grain size of %d sectors", g.grainSectors)
	case g.tableEntries == 0 || g.tableEntries > maxTableEntries:
		return nil, disk.Errorf(disk.Malformed, "open vmdk: grain tables of %d entries", g.tableEntries)
	case g.capacitySectors == 0 || g.capacitySectors > maxVirtual/sector:
		return nil, disk.Errorf(disk.Malformed, "open vmdk: capacity of %d sectors", g.capacitySectors)
	case g.overheadSectors > uint64(img.Size()+sector-1)/sector:
		return nil, errHintTruncated(disk.Errorf(disk.Malformed, "open vmdk: truncated: tables of %d sectors in a file of %d bytes", g.overheadSectors, img.Size()))
	}
	// Some writers round the capacity up to a whole grain (VirtualBox: cSectors,
	// against cNominalSectors in the descriptor). Any other difference means that
	// one of the two is not of this disk.
	capacity := int64(g.capacitySectors)
	if sectors == 0 {
		sectors = capacity
	}
	if sectors > capacity || capacity-sectors >= int64(g.grainSectors) {
		return nil, disk.Errorf(disk.Malformed, "open vmdk: the descriptor says %d sectors, the header %d", sectors, capacity)
	}
	s := &sparse{
		img:        img,
		size:       sectors * sector,
		grainSize:  int64(g.grainSectors) * sector,
		entries:    int64(g.tableEntries),
		compressed: g.compressed,
		markers:    g.markers,
		zeroGrain:  g.zeroGrain,
		cache:      newCache(cacheBytes),
	}
	s.tableSpan = s.entries * s.grainSize
	s.inflaters.New = func() any { return new(inflater) }
	if err := s.load(g, len(text)); err != nil {
		return nil, err
	}
	return s, nil
}

// Size is the length of the disk in bytes.
func (s *sparse) Size() int64 { return s.size }

// Allocated is the bytes of the disk that lie in grains.
func (s *sparse) Allocated() int64 { return s.allocated }

// Close makes later reads fail. The file stays its owner's.
func (s *sparse) Close() error {
	s.closed.Store(true)
	return nil
}

// entry is the i-th of a grain table: the sector of a grain, 0 for zeros.
func (s *sparse) entry(table []byte, i int64) uint32 {
	v := binary.LittleEndian.Uint32(table[4*i:])
	if v == 1 && s.zeroGrain { // VDF, zeroed-grain table entry; qemu VMDK_GTE_ZEROED
		return 0
	}
	return v
}

// tableLen is the length in bytes of the t-th table: the last maps no more than
// the disk needs.
func (s *sparse) tableLen(t int64) int64 {
	grains := (s.size + s.grainSize - 1) / s.grainSize
	return 4 * min(s.entries, grains-t*s.entries)
}

// table is the t-th table, which is not empty.
func (s *sparse) table(t int64) ([]byte, error) {
	return s.cache.get(tableKey(t), func() ([]byte, error) {
		p := make([]byte, s.tableLen(t))
		if err := disk.ReadFull(s.img, p, int64(s.directory[t])*sector); err != nil {
			return nil, fmt.Errorf("read grain table %d: %w", t, err)
		}
		return p, nil
	})
}

// need is how many bytes of a grain are of the disk: all, but for the last one.
func (s *sparse) need(grain int64) int64 { return min(s.grainSize, s.size-grain*s.grainSize) }

// ReadAt reads the disk as io.ReaderAt does.
func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	if s.closed.Load() {
		return 0, disk.ErrClosed
	}
	q, eof := disk.ClipRead(p, off, s.size)
	if len(q) == 0 {
		return 0, eof
	}
	done := 0
	for done < len(q) {
		n, err := s.readRun(q[done:], off+int64(done))
		if err != nil {
			return done, fmt.Errorf("read vmdk at offset %d: %w", off+int64(done), err)
		}
		done += n
	}
	return done, eof
}

// readRun reads as much of p as one access gives: up to the end of a table, the
// zeros, the neighbouring grains that are neighbours in the file too, or one
// compressed grain.
func (s *sparse) readRun(p []byte, off int64) (int, error) {
	t := off / s.tableSpan
	p = p[:min(int64(len(p)), (t+1)*s.tableSpan-off)]
	if s.directory[t] == 0 {
		clear(p)
		return len(p), nil
	}
	table, err := s.table(t)
	if err != nil {
		return 0, err
	}
	first := off/s.grainSize - t*s.entries
	in := off % s.grainSize
	last := first + (in+int64(len(p))-1)/s.grainSize
	at := int64(s.entry(table, first))
	step := s.grainSize / sector // from one grain to its neighbour
	if at == 0 {
		step = 0
	}
	i := first + 1
	for ; i <= last && int64(s.entry(table, i)) == at+(i-first)*step; i++ {
		if at != 0 && s.compressed {
			break
		}
	}
	p = p[:min(int64(len(p)), (i-first)*s.grainSize-in)]
	switch {
	case at == 0:
		clear(p)
	case s.compressed:
		grain := off / s.grainSize
		data, err := s.cache.get(grainKey(grain), func() ([]byte, error) { return s.inflate(grain, at) })
		if err != nil {
			return 0, err
		}
		copy(p, data[in:])
	default:
		if err := disk.ReadFull(s.img, p, at*sector+in); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Extent is that of disk.Image. Tables without a grain cost nothing.
func (s *sparse) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, s.size)
	if err != nil {
		return disk.Extent{}, err
	}
	if s.closed.Load() {
		return disk.Extent{}, disk.ErrClosed
	}
	run := disk.Extent{Off: off}
	for at, end := off, off+n; at < end; {
		t := at / s.tableSpan
		stop := min((t+1)*s.tableSpan, end)
		zero := true
		to := stop
		if s.directory[t] != 0 {
			table, err := s.table(t)
			if err != nil {
				return disk.Extent{}, fmt.Errorf("find extent of vmdk at offset %d: %w", at, err)
			}
			i := at/s.grainSize - t*s.entries
			zero = s.entry(table, i) == 0
			for to = at - at%s.grainSize + s.grainSize; to < stop; to += s.grainSize {
				if i++; s.entry(table, i) == 0 != zero {
					break
				}
			}
			to = min(to, stop)
		}
		if run.Len > 0 && zero != run.Zero {
			break
		}
		run.Zero = zero
		run.Len = to - off
		if to < stop {
			break
		}
		at = to
	}
	return run, nil
}
