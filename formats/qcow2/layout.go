package qcow2

import (
	"encoding/binary"
	"slices"

	"chromogenic/disk"
	"chromogenic/formats/layout"
)

// The files that are laid out: version 3, clusters of 64 KiB, which are the
// blocks of a layout.Map, refcounts of 16 bits, no header extension.
const (
	outCluster     = layout.BlockSize
	outClusterBits = 16
	outRefOrder    = 4
	tableWords     = outCluster / 8 // entries of an L1, L2 or refcount table in a cluster
	refsPerBlock   = outCluster / 2 // entries of a refcount block

	bitCopied = 1 << 63 // refcount is exactly one (spec, "Cluster mapping")
)

// Layout makes a qcow2 file of the machine's first disk:
//
//	header | refcount table | refcount blocks | L1 table | L2 tables | clusters
//
// Only L2 tables and clusters that hold data are there, in the order of the
// disk. The bytes depend on the disk's content, size and allocation map alone.
// The virtual size is that of the disk, rounded up to a sector.
func Layout(m *disk.Machine, _ layout.Options) (*layout.File, error) {
	if len(m.Disks) == 0 {
		return nil, disk.Errorf(disk.Invalid, "lay out qcow2: machine has no disk")
	}
	img := m.Disks[0]
	size := img.Size()
	if size > MaxSize {
		return nil, disk.Errorf(disk.TooLarge, "lay out qcow2: disk of %d bytes is larger than %d", size, int64(MaxSize))
	}
	alloc, err := layout.MapOf(img)
	if err != nil {
		return nil, err
	}
	p := newPlan(alloc)
	b := layout.New(outCluster)
	b.Data("header", p.header((size+disk.SectorSize-1)/disk.SectorSize*disk.SectorSize))
	b.Func("refcount table", p.refTable*outCluster, words(p.refTableWord))
	b.Func("refcount blocks", p.refBlocks*outCluster, p.fillRefcounts)
	b.Func("L1 table", p.l1*outCluster, words(p.l1Word))
	b.Func("L2 tables", int64(len(p.regions))*outCluster, words(p.l2Word))
	b.Mapped("clusters", img, alloc)
	return b.File(), nil
}

// A plan is where everything is, in clusters.
type plan struct {
	alloc   *layout.Map
	regions []uint32 // the L1 entries that have an L2 table, ascending: 4 bytes for each 512 MiB with data

	l1Entries           int64
	refTable, refBlocks int64 // lengths
	l1                  int64 // length
	total               int64 // of the file
}

// newPlan sizes the tables. The refcounts count their own clusters too, so their
// number is found by growing it until it is enough.
func newPlan(alloc *layout.Map) *plan {
	p := &plan{alloc: alloc, l1Entries: max(1, ceil(alloc.Blocks(), tableWords))} // one too of an empty disk, or its table leaks
	for i, before := int64(0), int64(0); i < p.l1Entries; i++ {
		upTo := alloc.Rank(min((i+1)*tableWords, alloc.Blocks()))
		if upTo > before {
			p.regions = append(p.regions, uint32(i))
		}
		before = upTo
	}
	p.l1 = ceil(p.l1Entries, tableWords)
	for {
		p.total = 1 + p.refTable + p.refBlocks + p.l1 + int64(len(p.regions)) + alloc.Allocated()
		blocks := ceil(p.total, refsPerBlock)
		table := ceil(blocks, tableWords)
		if blocks <= p.refBlocks && table <= p.refTable {
			return p
		}
		p.refBlocks, p.refTable = max(blocks, p.refBlocks), max(table, p.refTable)
	}
}

func ceil(a, b int64) int64 { return (a + b - 1) / b }

// The places of the sections, in clusters.

func (p *plan) refBlocksAt() int64 { return 1 + p.refTable }
func (p *plan) l1At() int64        { return p.refBlocksAt() + p.refBlocks }
func (p *plan) l2At() int64        { return p.l1At() + p.l1 }
func (p *plan) dataAt() int64      { return p.l2At() + int64(len(p.regions)) }

// header encodes the header for a disk of size bytes (spec, "Header").
func (p *plan) header(size int64) []byte {
	h := make([]byte, headerV3)
	be := binary.BigEndian
	copy(h, magic)
	be.PutUint32(h[4:], 3) // version
	be.PutUint32(h[20:], outClusterBits)
	be.PutUint64(h[24:], uint64(size))
	be.PutUint32(h[36:], uint32(p.l1Entries))
	be.PutUint64(h[40:], uint64(p.l1At()*outCluster))
	be.PutUint64(h[48:], outCluster) // the refcount table follows the header
	be.PutUint32(h[56:], uint32(p.refTable))
	be.PutUint32(h[96:], outRefOrder)
	be.PutUint32(h[100:], headerV3)
	return h
}

// refTableWord is entry i of the refcount table: the offset of block i.
func (p *plan) refTableWord(i int64) uint64 {
	if i >= p.refBlocks {
		return 0
	}
	return uint64((p.refBlocksAt() + i) * outCluster)
}

// fillRefcounts fills refcount blocks: 1, in 16 bits, for each cluster of the
// file, and 0 behind its end.
func (p *plan) fillRefcounts(q []byte, off int64) error {
	clear(q)
	for i := 1 - off&1; i < int64(len(q)) && (off+i)/2 < p.total; i += 2 {
		q[i] = 1
	}
	return nil
}

// l1Word is entry i of the L1 table.
func (p *plan) l1Word(i int64) uint64 {
	n, found := slices.BinarySearch(p.regions, uint32(i))
	if !found {
		return 0
	}
	return uint64((p.l2At()+int64(n))*outCluster) | bitCopied
}

// l2Word is entry i of the L2 tables, counted through all that there are. A block
// without data is not allocated, which reads as zeros.
func (p *plan) l2Word(i int64) uint64 {
	b := int64(p.regions[i/tableWords])*tableWords + i%tableWords
	if b >= p.alloc.Blocks() || !p.alloc.Get(b) {
		return 0
	}
	return uint64((p.dataAt()+p.alloc.Rank(b))*outCluster) | bitCopied
}

// words fills a section with big-endian words of 64 bits.
func words(word func(i int64) uint64) layout.Fill {
	return func(q []byte, off int64) error {
		var w [8]byte
		for len(q) > 0 {
			binary.BigEndian.PutUint64(w[:], word(off/8))
			n := copy(q, w[off%8:])
			q, off = q[n:], off+int64(n)
		}
		return nil
	}
}
