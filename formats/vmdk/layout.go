package vmdk

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/adler32"
	"math"
	"sort"
	"sync"

	"chromogenic/disk"
	"chromogenic/formats/layout"
)

// What is written has the sizes that all products write (VDF, Hosted Sparse
// Extents, and Stream-Optimized Compressed). A group is the grains of one table.
const (
	grainSectors      = layout.BlockSize / sector
	groupGrains       = 512                      // numGTEsPerGT
	tableSectors      = groupGrains * 4 / sector // 4
	descriptorSectors = 20
	overheadSectors   = 128 // header, descriptor, and room up to a grain's boundary
)

// A grain on disk: marker, zlib header, two stored blocks of half a grain each
// (RFC 1951, 3.2.4: at most 65535 bytes), Adler-32, and zeros up to a sector.
// VirtualBox reads a grain into a buffer of 129 sectors (vmdkAllocStreamBuffers),
// which this fills to the last one: a third block would not fit.
const (
	half           = layout.BlockSize / 2
	blockHead      = 5 // of a stored block
	grainHead      = grainMarkerLen + 2 + blockHead
	secondHalf     = grainHead + half + blockHead
	checksumAt     = secondHalf + half
	grainEnd       = checksumAt + 4
	storedSectors  = (grainEnd + sector - 1) / sector // 129
	groupOverhead  = 1 + tableSectors                 // marker and table behind the grains
	compressedSize = grainEnd - grainMarkerLen        // 65552
)

// Layout lays out the first disk of m as a streamOptimized VMDK of stored
// grains: every 64 KiB block that holds data, in order. Bytes and size depend on
// the disk, its bus and o.Seed alone. A disk above MaxSize is TooLarge, and so is
// one with so much data (2 TiB less 16 GiB and a little) that the file's end
// cannot be said in 32-bit sectors. An empty disk is Invalid.
func Layout(m *disk.Machine, o layout.Options) (*layout.File, error) {
	if len(m.Disks) == 0 {
		return nil, disk.Errorf(disk.Invalid, "lay out vmdk: machine has no disk")
	}
	src := m.Disks[0]
	switch size := src.Size(); {
	case size == 0:
		return nil, disk.Errorf(disk.Invalid, "lay out vmdk: disk of size 0")
	case size > MaxSize:
		return nil, disk.Hint(disk.Errorf(disk.TooLarge, "lay out vmdk: disk of %d bytes, at most %d", size, int64(MaxSize)), "use qcow2 or raw")
	}
	blocks, err := layout.MapOf(src)
	if err != nil {
		return nil, fmt.Errorf("lay out vmdk: %w", err)
	}
	w, err := newWriter(src, blocks)
	if err != nil {
		return nil, err
	}
	h := header{
		version:           3, // with these flags, as open-vmdk and ESXi
		flags:             flagNewlines | flagCompressed | flagMarkers,
		capacitySectors:   uint64(src.Size()+sector-1) / sector,
		grainSectors:      grainSectors,
		descriptorSector:  1,
		descriptorSectors: descriptorSectors,
		tableEntries:      groupGrains,
		gdSector:          gdAtEnd,
		overheadSectors:   overheadSectors,
		compression:       compressDeflate,
	}
	text := make([]byte, descriptorSectors*sector)
	copy(text, descriptorText(int64(h.capacitySectors), src.Bus, contentID(o.Seed)))

	b := layout.New(sector)
	b.Data("header", h.encode())
	b.Data("descriptor", text)
	b.Zero("overhead", (overheadSectors-1-descriptorSectors)*sector)
	b.Func("grains", (w.end()-overheadSectors)*sector, w.fill)
	gdSectors := sectors(4 * w.groups())
	b.Data("grain directory marker", encodeMarker(uint64(gdSectors), markerDirectory))
	h.gdSector = uint64(b.Offset()) / sector
	b.Func("grain directory", gdSectors*sector, w.fillDirectory)
	b.Data("footer marker", encodeMarker(1, markerFooter))
	b.Data("footer", h.encode())
	b.Data("end of stream", make([]byte, sector))
	return b.File(), nil
}

// contentID is the CID: random to the eye, and neither "no parent" nor the value
// that open-vmdk avoids beside it.
func contentID(seed []byte) uint32 {
	sum := sha256.Sum256(append([]byte("cid\x00"), seed...))
	for p := sum[:]; len(p) > 4; p = p[4:] {
		if id := binary.BigEndian.Uint32(p); id < 0xfffffffe {
			return id
		}
	}
	return 0
}

// descriptorText is the embedded descriptor. The geometry is what VMware derives
// for the adapter from the capacity alone.
func descriptorText(capacitySectors int64, bus string, cid uint32) string {
	adapter, heads, cylinders := "lsilogic", int64(255), capacitySectors/(255*63)
	if bus == "ide" {
		adapter, heads, cylinders = "ide", 16, min(16383, capacitySectors/(16*63))
	}
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=%08x
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW %d SPARSE "disk1.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "%s"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "63"
ddb.virtualHWVersion = "4"
`, cid, capacitySectors, adapter, max(cylinders, 1), heads)
}

// writer computes the grains and tables of a disk from its allocation map.
type writer struct {
	src    disk.Image
	blocks *layout.Map
	starts []uint32 // sector where the grains of each group begin; one more, the end
	bufs   sync.Pool
}

func newWriter(src disk.Image, blocks *layout.Map) (*writer, error) {
	groups := (blocks.Blocks() + groupGrains - 1) / groupGrains
	w := &writer{src: src, blocks: blocks, starts: make([]uint32, groups+1)}
	w.bufs.New = func() any { return new([layout.BlockSize]byte) }
	at := int64(overheadSectors)
	for g := range groups {
		w.starts[g] = uint32(at)
		if n := w.grains(g); n > 0 {
			at += n*storedSectors + groupOverhead
		}
		if at > math.MaxUint32 {
			return nil, disk.Hint(disk.Errorf(disk.TooLarge, "lay out vmdk: %d bytes of data end behind the last 32-bit sector number", blocks.Bytes()), "use qcow2 or raw")
		}
	}
	w.starts[groups] = uint32(at)
	return w, nil
}

func (w *writer) groups() int64 { return int64(len(w.starts)) - 1 }

// end is the sector behind the last table.
func (w *writer) end() int64 { return int64(w.starts[w.groups()]) }

// grains is how many blocks of group g hold data.
func (w *writer) grains(g int64) int64 {
	return w.blocks.Rank(min((g+1)*groupGrains, w.blocks.Blocks())) - w.blocks.Rank(g*groupGrains)
}

// fill computes the groups: their grains, a marker and the table of each.
func (w *writer) fill(p []byte, off int64) error {
	at := off + overheadSectors*sector
	// The last group that begins at or before at is not empty: the next begins
	// behind it.
	g := int64(sort.Search(len(w.starts), func(i int) bool { return int64(w.starts[i])*sector > at })) - 1
	for ; len(p) > 0; g++ {
		start, n := int64(w.starts[g])*sector, w.grains(g)
		if n == 0 {
			continue
		}
		k := w.blocks.Rank(g * groupGrains)
		tail := start + n*storedSectors*sector
		for ; at < tail && len(p) > 0; at, p = advance(at, p, storedSectors*sector, start) {
			i := (at - start) / (storedSectors * sector)
			in := (at - start) % (storedSectors * sector)
			if err := w.fillGrain(p[:min(int64(len(p)), storedSectors*sector-in)], in, w.blocks.Select(k+i)); err != nil {
				return err
			}
		}
		if len(p) > 0 {
			n := copy(p, w.table(g, n)[at-tail:])
			at, p = at+int64(n), p[n:]
		}
	}
	return nil
}

// advance moves at to the next multiple of unit from start, and p with it.
func advance(at int64, p []byte, unit, start int64) (int64, []byte) {
	n := min(unit-(at-start)%unit, int64(len(p)))
	return at + n, p[n:]
}

// table is the marker and the grain table of group g, which has n grains.
func (w *writer) table(g, n int64) []byte {
	p := make([]byte, groupOverhead*sector)
	copy(p, encodeMarker(tableSectors, markerTable))
	block := g * groupGrains
	for i := range n {
		block = w.blocks.Next(block, true)
		entry := block % groupGrains
		binary.LittleEndian.PutUint32(p[sector+4*entry:], w.starts[g]+uint32(i*storedSectors))
		block++
	}
	return p
}

// fillDirectory computes the grain directory: where each group's table is, 0 for
// a group without data.
func (w *writer) fillDirectory(p []byte, off int64) error {
	var entry [4]byte
	for len(p) > 0 {
		at := uint32(0)
		if g := off / 4; g < w.groups() {
			if n := w.grains(g); n > 0 {
				at = w.starts[g] + uint32(n*storedSectors+1)
			}
		}
		binary.LittleEndian.PutUint32(entry[:], at)
		n := copy(p, entry[off%4:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// fillGrain computes p from offset in of the stored grain of a block.
func (w *writer) fillGrain(p []byte, in, block int64) error {
	if in == 0 && len(p) >= grainEnd {
		return w.wholeGrain(p, block)
	}
	var head [grainHead]byte
	putGrainHead(head[:], block)
	var second [blockHead]byte
	putBlockHead(second[:], true)
	clear(p)
	copyAt(p, in, head[:], 0)
	copyAt(p, in, second[:], grainHead+half)
	if to := in + int64(len(p)); to > checksumAt && in < grainEnd {
		buf := w.bufs.Get().(*[layout.BlockSize]byte)
		defer w.bufs.Put(buf)
		if err := disk.ReadFull(w.src, buf[:], block*layout.BlockSize); err != nil {
			return err
		}
		copyAt(p, in, buf[:half], grainHead)
		copyAt(p, in, buf[half:], secondHalf)
		copyAt(p, in, binary.BigEndian.AppendUint32(nil, adler32.Checksum(buf[:])), checksumAt)
		return nil
	}
	for i, at := range []int64{grainHead, secondHalf} {
		from, to := max(in, at), min(in+int64(len(p)), at+half)
		if from >= to {
			continue
		}
		if err := disk.ReadFull(w.src, p[from-in:to-in], block*layout.BlockSize+int64(i)*half+from-at); err != nil {
			return err
		}
	}
	return nil
}

// wholeGrain is fillGrain of a grain that p has room for: the block is read in
// place, and its second half moved up behind its header.
func (w *writer) wholeGrain(p []byte, block int64) error {
	data := p[grainHead : grainHead+layout.BlockSize]
	if err := disk.ReadFull(w.src, data, block*layout.BlockSize); err != nil {
		return err
	}
	sum := adler32.Checksum(data)
	copy(p[secondHalf:], data[half:])
	putGrainHead(p, block)
	putBlockHead(p[grainHead+half:], true)
	binary.BigEndian.PutUint32(p[checksumAt:], sum)
	clear(p[grainEnd:])
	return nil
}

// putGrainHead writes what stands before the first half: the marker, a zlib
// header (RFC 1950: deflate, 32 KiB window, fastest) and the block's.
func putGrainHead(p []byte, block int64) {
	binary.LittleEndian.PutUint64(p, uint64(block*grainSectors))
	binary.LittleEndian.PutUint32(p[8:], compressedSize)
	p[12], p[13] = 0x78, 0x01
	putBlockHead(p[14:], false)
}

// putBlockHead writes the header of a stored block of half a grain.
func putBlockHead(p []byte, final bool) {
	p[0] = 0
	if final {
		p[0] = 1
	}
	binary.LittleEndian.PutUint16(p[1:], half)
	binary.LittleEndian.PutUint16(p[3:], ^uint16(half))
}

// copyAt copies what of src, which lies at offset at, falls into p, which lies
// at offset off.
func copyAt(p []byte, off int64, src []byte, at int64) {
	if at >= off && at < off+int64(len(p)) {
		copy(p[at-off:], src)
	} else if at < off && at+int64(len(src)) > off {
		copy(p, src[off-at:])
	}
}
