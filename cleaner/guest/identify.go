package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// A volume is what the first bytes of a partition say that it holds.
type volume struct {
	Type, UUID, Label string
	Size              int64 // of the filesystem in bytes, 0 where that is not known
	Reason            string
}

// headSize is how much of a partition is looked at: the last of the superblocks
// is that of btrfs and reiserfs, at 64 KiB.
const headSize = 72 << 10

// identify looks at a partition. What it cannot name has an empty type. It reads
// a constant number of bytes and never fails on their content.
func identify(r io.ReaderAt, s span) (volume, error) {
	head := make([]byte, headSize)
	n, err := r.ReadAt(head[:min(headSize, s.Size)], s.Off)
	if err != nil && err != io.EOF {
		return volume{}, fmt.Errorf("identify filesystem at offset %d: %w", s.Off, err)
	}
	clear(head[n:])
	for _, look := range []func([]byte) (volume, bool){
		asLUKS, asLVM, asRAID, asXFS, asBtrfs, asExt, asSwap, asNTFS, asFAT, asOther,
	} {
		if v, ok := look(head); ok {
			if v.Size < 0 || v.Size > s.Size {
				v.Reason = fmt.Sprintf("it says that it has %d bytes, and its partition has %d", v.Size, s.Size)
				v.Size = 0
			}
			return v, nil
		}
	}
	return volume{}, nil
}

// asExt knows ext2, ext3 and ext4. Offsets are those of struct ext4_super_block, from
// 1024 on (kernel, Documentation/filesystems/ext4/super.rst).
func asExt(head []byte) (volume, bool) {
	sb := head[1024:2048]
	le := binary.LittleEndian
	if le.Uint16(sb[0x38:]) != 0xEF53 {
		return volume{}, false
	}
	compat, incompat, ro := le.Uint32(sb[0x5c:]), le.Uint32(sb[0x60:]), le.Uint32(sb[0x64:])
	if incompat&0x8 != 0 {
		return volume{Type: "jbd", Reason: "is the journal of another filesystem"}, true
	}
	v := volume{Type: "ext2", UUID: uuid(sb[0x68:]), Label: text(sb[0x78:0x88])}
	switch {
	// What ext3 does not know: all but filetype, recover and meta_bg; all but
	// sparse_super, large_file and btree_dir.
	case incompat&^uint32(0x2|0x4|0x10) != 0 || ro&^uint32(0x7) != 0:
		v.Type = "ext4"
	case compat&0x4 != 0:
		v.Type = "ext3"
	}
	shift := le.Uint32(sb[0x18:])
	if shift > 6 { // blocks of up to 64 KiB
		v.Reason = fmt.Sprintf("its superblock asks for blocks of 2^%d KiB", shift)
		return v, true
	}
	blocks := uint64(le.Uint32(sb[0x4:]))
	if incompat&0x80 != 0 {
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	v.Size = bytesOf(blocks, 1024<<shift)
	return v, true
}

// asXFS has the offsets of struct xfs_dsb (XFS Algorithms & Data Structures, 3rd
// edition, "Superblocks").
func asXFS(head []byte) (volume, bool) {
	if string(head[:4]) != "XFSB" {
		return volume{}, false
	}
	be := binary.BigEndian
	return volume{
		Type: "xfs", UUID: uuid(head[32:]), Label: text(head[108:120]),
		Size: bytesOf(be.Uint64(head[8:]), uint64(be.Uint32(head[4:]))),
	}, true
}

// asBtrfs has the offsets of struct btrfs_super_block, from 64 KiB on (btrfs-dev-docs,
// "On-disk format").
func asBtrfs(head []byte) (volume, bool) {
	sb := head[64<<10 : 68<<10]
	if string(sb[0x40:0x48]) != "_BHRfS_M" {
		return volume{}, false
	}
	le := binary.LittleEndian
	v := volume{
		Type: "btrfs", UUID: uuid(sb[0x20:]), Label: text(sb[0x12b : 0x12b+256]),
		Size: bytesOf(le.Uint64(sb[0xc9+8:]), 1), // of this device, in its dev_item
	}
	if n := le.Uint64(sb[0x88:]); n != 1 {
		v.Reason = fmt.Sprintf("it is one of %d devices of a btrfs", n)
	}
	return v, true
}

// asSwap knows swap space of any page size, and one that a machine was suspended
// to (kernel, include/linux/swap.h, kernel/power/swap.c).
func asSwap(head []byte) (volume, bool) {
	for _, page := range swapPages {
		switch string(head[page-10 : page]) {
		case "SWAPSPACE2", "SWAP-SPACE", "S1SUSPEND\x00":
			return volume{Type: "swap", UUID: uuid(head[1024+12:]), Label: text(head[1024+28 : 1024+44])}, true
		}
	}
	return volume{}, false
}

// swapPages are the page sizes of the machines that Linux runs on, in bytes.
var swapPages = [...]int64{4 << 10, 8 << 10, 16 << 10, 64 << 10}

// asFAT has the offsets of the BIOS parameter block (Microsoft FAT specification,
// section 3).
func asFAT(head []byte) (volume, bool) {
	if head[510] != 0x55 || head[511] != 0xaa {
		return volume{}, false
	}
	at := 0
	switch {
	case string(head[82:87]) == "FAT32":
		at = 67
	case string(head[54:58]) == "FAT1": // FAT12, FAT16
		at = 39
	default:
		return volume{}, false
	}
	le := binary.LittleEndian
	id := le.Uint32(head[at:])
	v := volume{Type: "vfat", UUID: fmt.Sprintf("%04X-%04X", id>>16, id&0xffff), Label: text(head[at+4 : at+15])}
	if v.Label == "NO NAME" {
		v.Label = ""
	}
	sectors := uint64(le.Uint16(head[19:]))
	if sectors == 0 {
		sectors = uint64(le.Uint32(head[32:]))
	}
	v.Size = bytesOf(sectors, uint64(le.Uint16(head[11:])))
	return v, true
}

func asNTFS(head []byte) (volume, bool) {
	switch string(head[3:11]) {
	case "NTFS    ":
		return volume{
			Type: "ntfs", UUID: fmt.Sprintf("%016X", binary.LittleEndian.Uint64(head[72:])),
			Reason: "Windows is not cleaned",
		}, true
	case "-FVE-FS-":
		return volume{Type: "bitlocker", Reason: "it is encrypted, and Windows is not cleaned"}, true
	case "EXFAT   ":
		return volume{Type: "exfat", Reason: "exfat is not cleaned"}, true
	}
	return volume{}, false
}

// asLUKS: the UUID is text at the same place in both versions (LUKS2 On-Disk Format
// Specification, section 2.1).
func asLUKS(head []byte) (volume, bool) {
	if string(head[:6]) != "LUKS\xba\xbe" {
		return volume{}, false
	}
	return volume{Type: "luks", UUID: text(head[168:208]), Reason: "it is encrypted (LUKS), and nobody has the key"}, true
}

// asLVM: the label is in one of the first four sectors (lvm2, lib/label/label.h).
func asLVM(head []byte) (volume, bool) {
	for s := 0; s < 4; s++ {
		if sector := head[512*s:]; string(sector[:8]) == "LABELONE" && string(sector[24:32]) == "LVM2 001" {
			return volume{Type: "lvm", UUID: text(sector[32:64]), Reason: "it is a physical volume of LVM, which is not opened"}, true
		}
	}
	return volume{}, false
}

// asRAID knows members of Linux's md whose superblock is at the beginning (versions
// 1.1 and 1.2; kernel, include/uapi/linux/raid/md_p.h).
func asRAID(head []byte) (volume, bool) {
	for _, at := range []int{0, 4096} {
		if binary.LittleEndian.Uint32(head[at:]) == 0xa92b4efc {
			return volume{Type: "raid", Reason: "it is a member of a software RAID, which is not assembled"}, true
		}
	}
	return volume{}, false
}

// asOther names what people may ask about, by its magic number.
func asOther(head []byte) (volume, bool) {
	for _, k := range []struct {
		at          int
		magic, name string
	}{
		{1024, "\x10\x20\xf5\xf2", "f2fs"},
		{1024, "\xe2\xe1\xf5\xe0", "erofs"},
		{0, "hsqs", "squashfs"},
		{32 << 10, "JFS1", "jfs"},
		{64<<10 + 52, "ReIsEr", "reiserfs"},
		{32<<10 + 1, "CD001", "iso9660"},
		{1024, "H+", "hfsplus"},
	} {
		if bytes.HasPrefix(head[k.at:], []byte(k.magic)) {
			return volume{Type: k.name, Reason: k.name + " is not cleaned"}, true
		}
	}
	return volume{}, false
}

// bytesOf is n × unit, or -1 where that is more than any disk has.
func bytesOf(n, unit uint64) int64 {
	if unit != 0 && n > uint64(1)<<62/unit {
		return -1
	}
	return int64(n * unit)
}

func uuid(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// text is a string that ends at its first zero, without blanks around it; what is
// not UTF-8 is no text.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	if !utf8.Valid(b) {
		return ""
	}
	return strings.TrimSpace(string(b))
}
