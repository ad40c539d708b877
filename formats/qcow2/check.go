package qcow2

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"chromogenic/disk"
)

// check walks all L2 tables once and refuses an image whose tables overlap, lie
// outside the file or lead there. It needs memory for the places of the tables
// (8 bytes each) and some buffers, however large the disk is, and leaves a byte for
// each table, so that extents need not read it again where it is of one kind.
//
// QEMU reads zeros behind the end of a file, so it reads a cut-off image without
// a word. What it writes itself is always whole: every byte of the disk that is
// allocated lies inside the file. Only clusters with subclusters end with the
// last subcluster in use, a last compressed cluster may end within its last
// sector, and old versions ended the file with the disk's last sector. So a
// missing byte means a cut-off file.
func (d *image) check(h *header) error {
	meta, err := d.findMetadata(h)
	if err != nil {
		return err
	}
	c := checker{image: d, meta: meta, file: d.src.Size()}
	d.whole = make([]kind, len(d.l1))
	ahead := d.readTables()
	defer ahead.stop()
	for i, e := range d.l1 {
		if e.table() == 0 {
			continue
		}
		if d.whole[i], err = c.checkL2(i, e.table(), ahead.next()); err != nil {
			return err
		}
	}
	return c.checkTail()
}

// metadata knows the clusters of the file that hold tables.
type metadata struct {
	clusters []int64 // their offsets, ascending
	size     int64   // of a cluster

	from, to int64 // a range without any: that of the last question
}

// findMetadata collects the header and the tables, and refuses two in one place.
func (d *image) findMetadata(h *header) (*metadata, error) {
	size, file := d.clusterSize(), d.src.Size()
	m := &metadata{clusters: []int64{0}, size: size} // the header is at 0
	for _, t := range h.tables() {
		for off := int64(t.off); off < int64(t.off)+t.bytes; off += size {
			m.clusters = append(m.clusters, off)
		}
	}
	fixed := slices.Clone(m.clusters)
	slices.Sort(fixed)
	if off, ok := duplicate(fixed); ok {
		return nil, malformed("two tables overlap at offset %d", off)
	}
	for i, e := range d.l1 {
		off := e.table()
		switch {
		case off == 0:
			continue
		case off%size != 0:
			return nil, malformed("L2 table %d at offset %d is not aligned to clusters of %d bytes", i, off, size)
		case off > file-size:
			return nil, truncated("L2 table %d at offset %d is behind the end of the file at %d", i, off, file)
		}
		if _, taken := slices.BinarySearch(fixed, off); taken {
			return nil, malformed("L2 table %d at offset %d overlaps the header or another table", i, off)
		}
		m.clusters = append(m.clusters, off)
	}
	slices.Sort(m.clusters)
	if off, ok := duplicate(m.clusters); ok {
		return nil, malformed("two L1 entries share the L2 table at offset %d", off)
	}
	return m, nil
}

// duplicate finds a number that is twice in sorted.
func duplicate(sorted []int64) (int64, bool) {
	for i := 1; i < len(sorted); i++ {
		if sorted[i] == sorted[i-1] {
			return sorted[i], true
		}
	}
	return 0, false
}

// taken tells whether the cluster that holds off is one of a table. Data lies in
// long runs between tables, so most answers come from the last one.
func (m *metadata) taken(off int64) bool {
	if off >= m.from && off < m.to {
		return false
	}
	off &^= m.size - 1
	i, found := slices.BinarySearch(m.clusters, off)
	if found {
		return true
	}
	m.from, m.to = m.clusters[i-1]+m.size, math.MaxInt64 // clusters[0] is 0, and off is not
	if i < len(m.clusters) {
		m.to = m.clusters[i]
	}
	return false
}

// A checker checks the entries of L2 tables.
type checker struct {
	*image
	meta *metadata
	file int64 // its size

	tail    l2Entry // the compressed cluster that begins last, of those that the file cuts
	tailOff int64
}

// checkL2 checks the L2 table i at the offset table, and tells of what kind its
// clusters are. Begins is the beginning of it. Entries behind the end of the disk are not
// looked at.
func (c *checker) checkL2(i int, table int64, begins tablePart) (kind, error) {
	guest := c.first(i)
	size := c.tableSize(i)
	var whole kind
	for in := int64(0); in < size; {
		p := begins.p
		if begins.err == nil && in > 0 {
			p = p[:min(int64(len(p)), size-in)]
			begins.err = disk.ReadFull(c.src, p, table+in)
		}
		if begins.err != nil {
			return mixed, fmt.Errorf("read L2 table: %w", begins.err)
		}
		in += int64(len(p))
		for ; len(p) > 0; p = p[c.entrySize():] {
			if err := c.checkEntry(p, guest); err != nil {
				return mixed, err
			}
			k := c.clusterKind(p)
			if guest == c.first(i) {
				whole = k
			} else if k != whole {
				whole = mixed
			}
			guest += c.clusterSize()
		}
	}
	return whole, nil
}

// first is the offset in the disk of the first cluster of L2 table i.
func (d *image) first(i int) int64 { return int64(i) << (d.l2Bits + d.clusterBits) }

// tableSize is how many bytes of L2 table i the disk needs.
func (d *image) tableSize(i int) int64 {
	clusters := (d.size - d.first(i) + d.clusterSize() - 1) >> d.clusterBits
	return min(clusters*d.entrySize(), d.clusterSize())
}

// clusterKind is the kind of the cluster whose entry begins p, as extents see it.
func (c *checker) clusterKind(p []byte) kind {
	switch r := c.piece(p, 0); {
	case r.n < c.clusterSize():
		return mixed
	case r.kind == packed:
		return plain
	default:
		return r.kind
	}
}

// checkEntry checks the L2 entry that begins p, of the cluster at guest.
func (c *checker) checkEntry(p []byte, guest int64) error {
	e := l2Entry(binary.BigEndian.Uint64(p))
	if e.compressed() {
		return c.checkPacked(e, guest)
	}
	host := e.host()
	if host&(c.clusterSize()-1) != 0 {
		return malformed("cluster at offset %d of the file (%d of the disk) is not aligned to clusters of %d bytes", host, guest, c.clusterSize())
	}
	used := min(c.clusterSize(), c.size-guest) // bytes that can be read
	switch {
	case c.extended:
		s := subclusters(binary.BigEndian.Uint64(p[8:]))
		if s.contradicts() {
			return malformed("subclusters at offset %d of the disk are allocated and zero at once", guest)
		}
		last := s.lastAllocated()
		if last >= 0 && host == 0 {
			return malformed("subclusters at offset %d of the disk are allocated, but have no cluster", guest)
		}
		used = min(used, (last+1)<<c.subclusterBits)
	case e.zero() && !c.zeroFlag:
		return malformed("cluster at offset %d of the disk has the zero flag in an image of version 2", guest)
	case e.zero():
		used = 0
	}
	if host == 0 || used == 0 {
		return nil
	}
	if host > c.file-used {
		return truncated("cluster at offset %d of the file (%d of the disk) is behind the end of the file at %d", host, guest, c.file)
	}
	if c.meta.taken(host) {
		return malformed("cluster at offset %d of the file (%d of the disk) overlaps the header or a table", host, guest)
	}
	return nil
}

// checkPacked checks the entry of a compressed cluster. The file may end within
// the last sector of its data, but not before.
func (c *checker) checkPacked(e l2Entry, guest int64) error {
	off, n := e.data(c.clusterBits)
	if off+n-sectorSize >= c.file {
		return truncated("compressed cluster at offset %d of the file (%d of the disk) is behind the end of the file at %d", off, guest, c.file)
	}
	if c.meta.taken(off) {
		return malformed("compressed cluster at offset %d of the file (%d of the disk) overlaps the header or a table", off, guest)
	}
	if off+n > c.file && off >= c.tailOff {
		c.tail, c.tailOff = e, off
	}
	return nil
}

// checkTail decompresses the last cluster of a file that ends within a sector:
// nothing else can tell whether its data is all there.
func (c *checker) checkTail() error {
	if c.tail == 0 {
		return nil
	}
	if _, err := c.unpack(c.tail); err != nil {
		return truncated("the last cluster: %w", err)
	}
	return nil
}
