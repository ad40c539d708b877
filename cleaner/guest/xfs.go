package guest

import (
	"encoding/binary"
	"fmt"

	"chromogenic/disk"
)

// An xfsFS is an unmounted xfs. Offsets are those of XFS Algorithms & Data Structures,
// 3rd edition: "Superblocks", "AG Free Space Management", "Journaling Log".
type xfsFS struct {
	f          volumeFile
	block      int64 // size of a block
	sector     int64
	blocks     int64
	agBlocks   int64
	agCount    int64
	agShift    uint   // log2 of agBlocks, rounded up: how a block's number is made
	logStart   uint64 // a block's number
	logBlocks  int64
	crc        bool // version 5
	shortBlock int  // header of a block of a tree within a group
}

// scrubXFS removes what deleted files have left in an unmounted xfs: in free blocks, in
// those that each group keeps ready, and in the log.
func scrubXFS(f volumeFile, size int64) error {
	x, err := openXFS(f, size)
	if err != nil {
		return err
	}
	for ag := range x.agCount {
		if err := x.scrubGroup(ag); err != nil {
			return fmt.Errorf("discard free blocks of group %d: %w", ag, err)
		}
	}
	if x.logStart == 0 {
		return disk.Errorf(disk.Unsupported, "clear log: it is on another disk")
	}
	return x.scrubLog()
}

func openXFS(f volumeFile, size int64) (*xfsFS, error) {
	sb := make([]byte, 512)
	if err := readFull(f, sb, 0); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	x := &xfsFS{
		f: f, block: int64(be.Uint32(sb[4:])), blocks: int64(be.Uint64(sb[8:])), logStart: be.Uint64(sb[48:]),
		agBlocks: int64(be.Uint32(sb[84:])), agCount: int64(be.Uint32(sb[88:])), logBlocks: int64(be.Uint32(sb[96:])),
		sector: int64(be.Uint16(sb[102:])), agShift: uint(sb[124]), crc: be.Uint16(sb[100:])&0xf == 5, shortBlock: 16,
	}
	if x.crc {
		x.shortBlock = 56
	}
	if string(sb[:4]) != "XFSB" || x.block < 512 || x.block > 64<<10 || x.sector < 512 || x.sector > x.block || x.blocks < 1 || x.blocks > size/x.block ||
		x.agBlocks < 4 || x.agCount < 1 || x.agShift > 32 || x.agBlocks > 1<<x.agShift ||
		(x.agCount-1)*x.agBlocks >= x.blocks || x.agCount*x.agBlocks < x.blocks {
		return nil, disk.Errorf(disk.Malformed, "read superblock: it makes no sense")
	}
	return x, nil
}

// groupSize is the length of a group; the last one may be shorter.
func (x *xfsFS) groupSize(ag int64) int64 { return min(x.agBlocks, x.blocks-ag*x.agBlocks) }

func (x *xfsFS) discard(ag, block, n int64) error {
	if block < 1 || n < 1 || block > x.groupSize(ag) || n > x.groupSize(ag)-block {
		return disk.Errorf(disk.Malformed, "discard %d blocks at %d: the group has %d", n, block, x.groupSize(ag))
	}
	return x.f.Discard((ag*x.agBlocks+block)*x.block, n*x.block)
}

// scrubGroup reads the header of the free space (AGF, the second sector: the root of the
// tree by block at 16, its depth at 28, first and last of the list of kept blocks at 40
// and 44, their number at 48), the tree, and the list (AGFL, the fourth sector).
func (x *xfsFS) scrubGroup(ag int64) error {
	agf, agfl := make([]byte, x.sector), make([]byte, x.sector)
	start := ag * x.agBlocks * x.block
	if err := readFull(x.f, agf, start+x.sector); err != nil {
		return err
	}
	if err := readFull(x.f, agfl, start+3*x.sector); err != nil {
		return err
	}
	be := binary.BigEndian
	if string(agf[:4]) != "XAGF" {
		return disk.Errorf(disk.Malformed, "read free space: it makes no sense")
	}
	left := x.groupSize(ag)
	if err := x.tree(ag, int64(be.Uint32(agf[16:])), int(be.Uint32(agf[28:])), &left); err != nil {
		return err
	}
	list := agfl
	if x.crc {
		list = agfl[36:]
	}
	room := uint32(len(list) / 4)
	first, n := be.Uint32(agf[40:]), be.Uint32(agf[48:])
	if n > room || first >= room {
		return disk.Errorf(disk.Malformed, "read list of kept blocks: it makes no sense")
	}
	for k := range n {
		block := int64(be.Uint32(list[4*((first+k)%room):]))
		if block >= x.groupSize(ag) {
			continue // the list of older kernels is an entry shorter
		}
		if err := x.discard(ag, block, 1); err != nil {
			return err
		}
	}
	return nil
}

// tree discards what the leaves of a tree of free space name. A block: magic, level (16
// bits), entries (16 bits), ...; leaves have pairs of block and length, nodes have as
// many keys of 8 bytes as there is room for, and then children.
func (x *xfsFS) tree(ag, block int64, depth int, left *int64) error {
	if *left--; *left < 0 || depth < 1 || depth > 9 || block < 1 || block >= x.groupSize(ag) {
		return disk.Errorf(disk.Malformed, "read free space at block %d: it makes no sense", block)
	}
	p := make([]byte, x.block)
	if err := readFull(x.f, p, (ag*x.agBlocks+block)*x.block); err != nil {
		return err
	}
	be := binary.BigEndian
	n := int(be.Uint16(p[6:]))
	body := p[x.shortBlock:]
	room := len(body) / 12 // of a node
	magic := string(p[:4])
	switch {
	case magic != "ABTB" && magic != "AB3B", int(be.Uint16(p[4:])) != depth-1, depth == 1 && n > len(body)/8, depth > 1 && n > room:
		return disk.Errorf(disk.Malformed, "read free space at block %d: it makes no sense", block)
	}
	for k := range n {
		if depth > 1 {
			if err := x.tree(ag, int64(be.Uint32(body[8*room+4*k:])), depth-1, left); err != nil {
				return err
			}
			continue
		}
		if err := x.discard(ag, int64(be.Uint32(body[8*k:])), int64(be.Uint32(body[8*k+4:]))); err != nil {
			return err
		}
	}
	return nil
}
