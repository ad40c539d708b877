package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"chromogenic/disk"
)

// An extInode is one that is in use.
type extInode struct {
	number int64
	raw    []byte
}

// Flags of an inode.
const (
	extIndex    = 0x1000 // a folder with hashed names
	extEncrypt  = 0x800
	extExtents  = 0x80000
	extEAInode  = 0x200000 // holds the value of an attribute
	extVerity   = 0x100000
	extInline   = 0x10000000
	extJournal  = 8 // the number of the journal's
	extFolder   = 0x4000
	extRegular  = 0x8000
	extTypeMask = 0xf000
)

func (i extInode) mode() uint16  { return binary.LittleEndian.Uint16(i.raw) & extTypeMask }
func (i extInode) flags() uint32 { return binary.LittleEndian.Uint32(i.raw[0x20:]) }

// size is that of a regular file or folder.
func (i extInode) size() int64 {
	le := binary.LittleEndian
	return int64(uint64(le.Uint32(i.raw[4:])) | uint64(le.Uint32(i.raw[0x6c:]))<<32)
}

// mostGroups is how many groups are gone through at a time: each takes two windows.
const mostGroups = 8

// eachInode zeroes the inodes that are not in use, and calls f with the others. Groups are
// gone through beside each other, each with an extFS of its own: no two of them have an
// inode, or blocks of one, in common.
func (e *extFS) eachInode(f func(*extFS, extInode) error) error {
	work, ctx := errgroup.WithContext(context.Background())
	work.SetLimit(min(runtime.GOMAXPROCS(0), mostGroups))
	each := sync.Pool{New: func() any {
		own := *e
		own.structures, own.data = window{}, nil
		return &own
	}}
	for n, d := range e.groups {
		work.Go(func() (err error) {
			defer func() {
				if err = recovered(recover(), err); err != nil {
					err = fmt.Errorf("inodes of group %d: %w", n, err)
				}
			}()
			if ctx.Err() != nil {
				return nil // another one has failed
			}
			own := each.Get().(*extFS)
			defer each.Put(own)
			own.forget()
			return own.eachOf(int64(n), d, f)
		})
	}
	return work.Wait()
}

func (e *extFS) eachOf(g int64, d extGroup, f func(*extFS, extInode) error) error {
	if d.flags&extInodeUninit != 0 {
		return e.discard(d.table, e.tableBlocks())
	}
	used, err := e.readBlock(d.inodeBitmap)
	if err != nil {
		return err
	}
	per := e.block / e.inodeSize // a block
	unused := int64(0)           // blocks before this one
	flush := func(b int64) error {
		n := unused
		unused = 0
		if n == 0 {
			return nil
		}
		return e.discard(d.table+b-n, n)
	}
	for b := range e.tableBlocks() {
		first := b * per
		inUse := false
		for i := first; i < min(first+per, e.inodes); i++ {
			inUse = inUse || bit(used, i)
		}
		if !inUse {
			unused++
			continue
		}
		if err := flush(b); err != nil {
			return err
		}
		p, err := e.readBlock(d.table + b)
		if err != nil {
			return err
		}
		changed := false
		for i := first; i < min(first+per, e.inodes); i++ {
			raw := p[(i-first)*e.inodeSize:][:e.inodeSize]
			if !bit(used, i) {
				changed = clean(raw) || changed
				continue
			}
			if err := f(e, extInode{g*e.inodes + i + 1, bytes.Clone(raw)}); err != nil {
				return fmt.Errorf("inode %d: %w", g*e.inodes+i+1, err)
			}
		}
		if changed {
			if err := e.writeBlock(d.table+b, p); err != nil {
				return err
			}
		}
	}
	return flush(e.tableBlocks())
}

// clean zeroes p, and tells whether it was anything else.
func clean(p []byte) bool {
	if len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) { // all are the first
		return false
	}
	clear(p)
	return true
}

// An extRun is a piece of a file: blocks of the file, and of the filesystem.
type extRun struct {
	logical, block, n int64
	unwritten         bool // reads as zeros, whatever is there
}

// eachRun maps a file, and calls f with its runs in order: at most as many blocks as there
// are, and none of them is held.
func (e *extFS) eachRun(i extInode, f func(extRun) error) error {
	m := &extMap{fs: e, left: e.blocks, f: f}
	var err error
	switch {
	case i.flags()&extExtents != 0:
		err = m.extents(i.raw[0x28:0x28+60], 6)
	default:
		err = m.indirect(i.raw[0x28 : 0x28+60])
	}
	if err != nil {
		return err
	}
	return m.flush()
}

type extMap struct {
	fs   *extFS
	f    func(extRun) error
	last extRun // it may go on; of no blocks for none
	left int64  // blocks that it may still have, those of the map itself among them
}

// take counts blocks. A map that goes round in a circle has as many as the filesystem, so
// that now and then it is looked whether anybody still waits.
func (m *extMap) take(n int64) error {
	const now = 1 << 16
	before := m.left / now
	if m.left -= n; m.left < 0 {
		return disk.Errorf(disk.Malformed, "map file: more blocks than there are")
	}
	if m.left/now != before {
		_, err := m.fs.f.ReadAt(nil, 0)
		return err
	}
	return nil
}

func (m *extMap) add(r extRun) error {
	if err := m.take(r.n); err != nil {
		return err
	}
	if !m.fs.within(r.block, r.n) {
		return disk.Errorf(disk.Malformed, "map file: %d blocks at %d", r.n, r.block)
	}
	if last := &m.last; last.logical+last.n == r.logical && last.block+last.n == r.block && last.unwritten == r.unwritten {
		last.n += r.n
		return nil
	}
	err := m.flush()
	m.last = r
	return err
}

func (m *extMap) flush() error {
	if m.last.n == 0 {
		return nil
	}
	return m.f(m.last)
}

// extents reads a node of an extent tree: a header of 12 bytes (magic F30A, entries,
// room, depth), then entries of 12. A length above 32768 is of an extent that is not
// written to.
func (m *extMap) extents(node []byte, depth int) error {
	le := binary.LittleEndian
	entries, here := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
	if le.Uint16(node) != 0xF30A || 12+12*entries > len(node) || here >= depth {
		return disk.Errorf(disk.Malformed, "map file: an extent header that makes no sense")
	}
	for k := range entries {
		x := node[12+12*k:]
		logical := int64(le.Uint32(x))
		if here > 0 {
			child := int64(le.Uint32(x[4:])) | int64(le.Uint16(x[8:]))<<32
			if err := m.take(1); err != nil {
				return err
			}
			p, err := m.fs.readBlock(child)
			if err != nil {
				return err
			}
			if err := m.extents(p, here); err != nil {
				return err
			}
			continue
		}
		n, unwritten := int64(le.Uint16(x[4:])), false
		if n > 32768 {
			n, unwritten = n-32768, true
		}
		if err := m.add(extRun{logical, int64(le.Uint32(x[8:])) | int64(le.Uint16(x[6:]))<<32, n, unwritten}); err != nil {
			return err
		}
	}
	return nil
}

// indirect reads the older map: twelve blocks, and blocks of blocks of three depths.
func (m *extMap) indirect(words []byte) error {
	le := binary.LittleEndian
	logical, span := int64(0), int64(1)
	for k := range 15 {
		depth := max(0, k-11)
		if depth > 0 {
			span *= m.fs.block / 4
		}
		if err := m.branch(int64(le.Uint32(words[4*k:])), logical, span, depth); err != nil {
			return err
		}
		logical += span
	}
	return nil
}

// branch maps the blocks below one, which are span in number.
func (m *extMap) branch(block, logical, span int64, depth int) error {
	if block == 0 {
		return nil
	}
	if depth == 0 {
		return m.add(extRun{logical, block, 1, false})
	}
	if err := m.take(1); err != nil {
		return err
	}
	p, err := m.fs.readBlock(block)
	if err != nil {
		return err
	}
	each := span / (m.fs.block / 4)
	for k := range m.fs.block / 4 {
		if err := m.branch(int64(binary.LittleEndian.Uint32(p[4*k:])), logical+k*each, each, depth-1); err != nil {
			return err
		}
	}
	return nil
}
