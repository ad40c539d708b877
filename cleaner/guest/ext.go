package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"

	"chromogenic/disk"
)

// A volumeFile is an unmounted filesystem: reads, writes, and holes.
type volumeFile interface {
	io.ReaderAt
	io.WriterAt
	Discard(off, n int64) error
}

// An extFS is an unmounted and checked ext2, ext3 or ext4. Offsets of fields are those of
// the kernel's Documentation/filesystems/ext4. All sizes are in bytes, and all that
// is read is bounded by the size of the filesystem.
type extFS struct {
	f            volumeFile
	sb           []byte
	block        int64 // size of a block
	blocks       int64
	first        int64 // the block with the superblock
	perGroup     int64 // blocks of a group
	inodes       int64 // of a group
	inodeSize    int64
	descSize     int64
	groups       []extGroup
	csum         bool   // metadata_csum
	seed         uint32 // of the checksums
	compat       uint32
	incompat, ro uint32

	structures window
	data       []byte // the last block of a file; nil before the first
}

type extGroup struct {
	blockBitmap, inodeBitmap, table int64 // blocks
	flags                           uint16
	unused                          int64 // inodes at the end of the table
}

// Features (kernel, fs/ext4/ext4.h).
const (
	extHasJournal  = 0x4    // compat
	extRecover     = 0x4    // incompat, and so on
	extMetaBG      = 0x10   //
	ext64bit       = 0x80   //
	extCsumSeed    = 0x2000 //
	extSparseSuper = 0x1    // ro_compat, and so on
	extGDTCsum     = 0x10   //
	extBigalloc    = 0x200  //
	extMetaCsum    = 0x400  //
	extSparse2     = 0x200  // compat: sparse_super2

	extInodeUninit = 0x1 // bg_flags
	extBlockUninit = 0x2
)

// extGroups bounds the groups, of 128 MiB as a rule, that are handled: 64 TiB.
const extGroups = 512 << 10

// castagnoli is the polynomial of the checksums.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crcMore goes on with a checksum as the kernel does: without inversions.
func crcMore(sum uint32, p []byte) uint32 { return ^crc32.Update(^sum, castagnoli, p) }

// openExt reads the superblock and the group descriptors.
func openExt(f volumeFile, size int64) (*extFS, error) {
	sb := make([]byte, 1024)
	if err := readFull(f, sb, 1024); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	e := &extFS{
		f: f, sb: sb, block: 1024 << min(le.Uint32(sb[0x18:]), 16), blocks: int64(le.Uint32(sb[0x4:])), first: int64(le.Uint32(sb[0x14:])),
		perGroup: int64(le.Uint32(sb[0x20:])), inodes: int64(le.Uint32(sb[0x28:])), inodeSize: 128, descSize: 32,
		compat: le.Uint32(sb[0x5c:]), incompat: le.Uint32(sb[0x60:]), ro: le.Uint32(sb[0x64:]),
	}
	if le.Uint32(sb[0x4c:]) >= 1 { // revision 1 has inodes of any size
		e.inodeSize = int64(le.Uint16(sb[0x58:]))
	}
	if e.incompat&ext64bit != 0 {
		e.blocks |= int64(le.Uint32(sb[0x150:])) << 32
		e.descSize = int64(le.Uint16(sb[0xfe:]))
	}
	switch {
	case le.Uint16(sb[0x38:]) != 0xEF53, e.block > 64<<10, e.first > 1, e.blocks <= e.first, e.blocks > size/e.block,
		e.perGroup < 8, e.perGroup > 8*e.block, e.inodes < 1, e.inodes > 8*e.block,
		e.inodeSize < 128, e.inodeSize > e.block, bits.OnesCount64(uint64(e.inodeSize)) != 1,
		e.descSize < 32, e.descSize > e.block, bits.OnesCount64(uint64(e.descSize)) != 1:
		return nil, disk.Errorf(disk.Malformed, "read superblock: it makes no sense")
	case e.incompat&(extMetaBG|extRecover) != 0, e.ro&extBigalloc != 0:
		return nil, disk.Errorf(disk.Unsupported, "read superblock: features %#x and %#x are not known", e.incompat, e.ro)
	}
	e.csum = e.ro&extMetaCsum != 0
	if e.incompat&extCsumSeed != 0 {
		e.seed = le.Uint32(sb[0x270:])
	} else {
		e.seed = crcMore(^uint32(0), sb[0x68:0x78])
	}
	return e, e.readGroups()
}

func (e *extFS) readGroups() error {
	n := (e.blocks - e.first + e.perGroup - 1) / e.perGroup
	if n > extGroups {
		return disk.Errorf(disk.Unsupported, "read groups: there are %d, more than %d", n, extGroups)
	}
	table := make([]byte, e.descSize)
	for g := range n {
		if err := readFull(e.f, table, (e.first+1)*e.block+g*e.descSize); err != nil {
			return fmt.Errorf("read group %d: %w", g, err)
		}
		le := binary.LittleEndian
		wide := func(lo, hi int) int64 {
			v := int64(le.Uint32(table[lo:]))
			if e.descSize >= 64 {
				v |= int64(le.Uint32(table[hi:])) << 32
			}
			return v
		}
		d := extGroup{blockBitmap: wide(0, 0x20), inodeBitmap: wide(4, 0x24), table: wide(8, 0x28)}
		if e.ro&(extGDTCsum|extMetaCsum) != 0 {
			d.flags = le.Uint16(table[0x12:])
			d.unused = int64(le.Uint16(table[0x1c:]))
			if e.descSize >= 64 {
				d.unused |= int64(le.Uint16(table[0x32:])) << 16
			}
		}
		if d.unused > e.inodes || !e.within(d.blockBitmap, 1) || !e.within(d.inodeBitmap, 1) || !e.within(d.table, e.tableBlocks()) {
			return disk.Errorf(disk.Malformed, "read group %d: it makes no sense", g)
		}
		e.groups = append(e.groups, d)
	}
	return nil
}

// tableBlocks is the length of an inode table.
func (e *extFS) tableBlocks() int64 { return (e.inodes*e.inodeSize + e.block - 1) / e.block }

// within tells whether blocks lie in the filesystem.
func (e *extFS) within(block, n int64) bool {
	return block >= e.first && n >= 0 && block < e.blocks && n <= e.blocks-block
}

// readData reads a block of a file, which lies anywhere. It holds until the next one is read.
func (e *extFS) readData(block int64) ([]byte, error) {
	if !e.within(block, 1) {
		return nil, disk.Errorf(disk.Malformed, "read block %d: there are %d", block, e.blocks)
	}
	if e.data == nil {
		e.data = make([]byte, e.block)
	}
	return e.data, readFull(e.f, e.data, block*e.block)
}

// A window is what was read last of structures. What is asked for next is near, as a rule.
type window struct {
	off   int64
	bytes []byte
	room  []byte // for them
}

// extWindow is what is read at once, in bytes: as much as the kernel asks a FUSE for.
const extWindow = 128 << 10

// readBlock reads a block of structures.
func (e *extFS) readBlock(block int64) ([]byte, error) {
	w := &e.structures
	if !e.within(block, 1) {
		return nil, disk.Errorf(disk.Malformed, "read block %d: there are %d", block, e.blocks)
	}
	off := block * e.block
	if off < w.off || off+e.block > w.off+int64(len(w.bytes)) {
		at := off / extWindow * extWindow
		if w.room == nil {
			w.room = make([]byte, extWindow)
		}
		p := w.room[:min(extWindow, e.blocks*e.block-at)]
		w.bytes = nil
		if err := readFull(e.f, p, at); err != nil {
			return nil, err
		}
		w.off, w.bytes = at, p
	}
	return bytes.Clone(w.bytes[off-w.off:][:e.block]), nil
}

// forget drops what was read, for it changes.
func (e *extFS) forget() { e.structures.bytes = nil }

// writeBlock writes what was read, with changes.
func (e *extFS) writeBlock(block int64, p []byte) error {
	e.forget()
	_, err := e.f.WriteAt(p, block*e.block)
	return err
}

func (e *extFS) discard(block, n int64) error {
	if !e.within(block, n) {
		return disk.Errorf(disk.Malformed, "discard %d blocks at %d: there are %d", n, block, e.blocks)
	}
	e.forget()
	return e.f.Discard(block*e.block, n*e.block)
}

// discardFree discards all free blocks.
func (e *extFS) discardFree() error {
	uninit := e.uninitMap()
	for g, d := range e.groups {
		start := e.first + int64(g)*e.perGroup
		n := min(e.perGroup, e.blocks-start)
		used := uninit[g]
		if d.flags&extBlockUninit == 0 {
			var err error
			if used, err = e.readBlock(d.blockBitmap); err != nil {
				return fmt.Errorf("group %d: %w", g, err)
			}
		}
		for at := int64(0); at < n; {
			from := at
			for at < n && !bit(used, at) {
				at++
			}
			if at > from {
				if err := e.discard(start+from, at-from); err != nil {
					return fmt.Errorf("group %d: %w", g, err)
				}
			}
			for at < n && bit(used, at) {
				at++
			}
		}
	}
	return nil
}

// uninitMap makes the bitmaps that are not on the disk: of groups without any file, in
// which the filesystem's own structures may lie, their own and those of other groups.
func (e *extFS) uninitMap() map[int][]byte {
	maps := map[int][]byte{}
	for g, d := range e.groups {
		if d.flags&extBlockUninit != 0 {
			maps[g] = make([]byte, e.block)
		}
	}
	mark := func(block, n int64) {
		for ; n > 0 && block < e.blocks; block, n = block+1, n-1 {
			g := int((block - e.first) / e.perGroup)
			if m := maps[g]; m != nil {
				i := block - e.first - int64(g)*e.perGroup
				m[i/8] |= 1 << (i % 8)
			}
		}
	}
	le := binary.LittleEndian
	descriptors := (int64(len(e.groups))*e.descSize+e.block-1)/e.block + int64(le.Uint16(e.sb[0xce:])) // and those reserved
	for g, d := range e.groups {
		if e.hasSuper(int64(g)) {
			mark(e.first+int64(g)*e.perGroup, 1+descriptors)
		}
		mark(d.blockBitmap, 1)
		mark(d.inodeBitmap, 1)
		mark(d.table, e.tableBlocks())
	}
	return maps
}

// hasSuper tells whether a group has a copy of the superblock: with sparse_super 0, 1
// and the powers of 3, 5 and 7.
func (e *extFS) hasSuper(g int64) bool {
	if e.compat&extSparse2 != 0 || e.ro&extSparseSuper == 0 || g <= 1 {
		return true // of sparse_super2 more than there are
	}
	for _, base := range []int64{3, 5, 7} {
		p := base
		for p < g {
			p *= base
		}
		if p == g {
			return true
		}
	}
	return false
}

func bit(p []byte, i int64) bool { return i/8 < int64(len(p)) && p[i/8]&(1<<(i%8)) != 0 }
