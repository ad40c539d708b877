package guest

import (
	"encoding/binary"
	"fmt"

	"chromogenic/disk"
)

// scrubExt removes what deleted and shortened files have left in an unmounted and
// checked ext2, ext3 or ext4: in free blocks and inodes, in the journal, behind the
// ends of files, in extents that were never written to, and between the names of
// folders.
func scrubExt(f volumeFile, size int64) error {
	e, err := openExt(f, size)
	if err != nil {
		return err
	}
	if err := e.discardFree(); err != nil {
		return fmt.Errorf("discard free blocks: %w", err)
	}
	return e.eachInode(func(e *extFS, i extInode) error {
		switch {
		case i.number == extJournal && e.compat&extHasJournal != 0:
			return e.scrubJournal(i)
		case i.number < 11 && i.number != 2 || i.flags()&(extInline|extEncrypt|extEAInode|extVerity) != 0:
			return nil // the filesystem's own, or without blocks of the usual kind: verity has its hashes behind the end
		case i.mode() == extRegular:
			return e.scrubFile(i)
		case i.mode() == extFolder:
			return e.scrubFolder(i)
		}
		return nil
	})
}

// scrubJournal discards all but the first block of the journal, its superblock, which
// says that it is empty: s_start, a big-endian word at 28, is 0 (kernel, fs/jbd2,
// journal_superblock_t; magic C03B3998).
func (e *extFS) scrubJournal(i extInode) error {
	first := true
	return e.eachRun(i, func(r extRun) error {
		if first {
			first = false
			head, err := e.readBlock(r.block)
			if err != nil {
				return err
			}
			be := binary.BigEndian
			if be.Uint32(head) != 0xC03B3998 || r.logical != 0 || be.Uint32(head[28:]) != 0 {
				return disk.Errorf(disk.Malformed, "discard journal: it is not empty")
			}
			r.block, r.n = r.block+1, r.n-1
		}
		if r.n == 0 {
			return nil
		}
		if err := e.discard(r.block, r.n); err != nil {
			return fmt.Errorf("discard journal: %w", err)
		}
		return nil
	})
}

// scrubFile zeroes what a file has behind its end, and discards what it has but never
// wrote.
func (e *extFS) scrubFile(i extInode) error {
	size := i.size()
	end := (size + e.block - 1) / e.block
	return e.eachRun(i, func(r extRun) error {
		if r.unwritten {
			return e.discard(r.block, r.n)
		}
		if beyond := min(r.n, r.logical+r.n-end); beyond > 0 {
			if err := e.discard(r.block+r.n-beyond, beyond); err != nil {
				return err
			}
		}
		if last := end - 1; size%e.block != 0 && r.logical <= last && last < r.logical+r.n {
			return e.scrubEnd(r.block+last-r.logical, size%e.block)
		}
		return nil
	})
}

// scrubEnd zeroes a block from an offset on.
func (e *extFS) scrubEnd(block, from int64) error {
	p, err := e.readData(block)
	if err != nil || !clean(p[from:]) {
		return err
	}
	return e.writeBlock(block, p)
}

// scrubFolder zeroes what is left of names between those of a folder.
func (e *extFS) scrubFolder(i extInode) error {
	return e.eachRun(i, func(r extRun) error {
		for k := range r.n {
			if i.flags()&extIndex != 0 && r.logical+k == 0 {
				continue // the root of the hashes: "." and "..", and they
			}
			p, err := e.readBlock(r.block + k)
			if err != nil {
				return err
			}
			if !e.scrubNames(i, p) {
				continue
			}
			if err := e.writeBlock(r.block+k, p); err != nil {
				return err
			}
		}
		return nil
	})
}

// The end of a block of names with a checksum: an entry without a name, of 12 bytes
// and type DE.
const extTail = 12

// scrubNames zeroes what lies between the names in a block, and tells whether that
// changed it. An entry is inode, length of the entry, length of the name (8 bits), type,
// name; its length is a multiple of 4. A block that makes no sense, or that is a node of
// hashes, stays as it is.
func (e *extFS) scrubNames(i extInode, p []byte) bool {
	le := binary.LittleEndian
	end := len(p)
	if e.csum {
		tail := p[end-extTail:]
		if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != extTail || tail[7] != 0xde {
			return false
		}
		end -= extTail
	}
	length := func(at int) int {
		n := int(le.Uint16(p[at+4:]))
		if len(p) == 64<<10 && (n == 0 || n == 65535) { // 64 KiB do not fit the field
			n = len(p)
		}
		return n
	}
	if i.flags()&extIndex != 0 && le.Uint32(p) == 0 && length(0) == len(p) {
		return false
	}
	for at := 0; at < end; at += length(at) {
		n := length(at)
		if n < 8 || n%4 != 0 || at+n > end || 8+int(p[at+6]) > n {
			return false
		}
	}
	changed := false
	for at := 0; at < end; at += length(at) {
		name := 0
		if le.Uint32(p[at:]) != 0 {
			name = int(p[at+6])
		}
		changed = clean(p[at+8+name:at+length(at)]) || changed
	}
	if changed && e.csum {
		var number [4]byte
		le.PutUint32(number[:], uint32(i.number))
		sum := crcMore(crcMore(crcMore(e.seed, number[:]), i.raw[0x64:0x68]), p[:end]) // and the generation
		le.PutUint32(p[len(p)-4:], sum)
	}
	return changed
}
