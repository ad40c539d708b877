package pipeline

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"chromogenic/disk"
	"chromogenic/formats/iso"
)

// A writer that was cut off closes its file like one that is done: a pipe whose
// producer died, dd by SIGINT, rsync --inplace. So what arrives is looked at
// before it becomes an image: by the source that it equals as far as it goes, or
// by what the disk says of its own size. A raw disk without any structure cannot
// be judged.

// errTruncated tells of an image that has size bytes and should have want.
func errTruncated(size, want int64, by string) error {
	err := disk.Errorf(disk.Malformed, "image looks truncated: it has %d bytes, and %d by %s", size, want, by)
	return disk.Hint(err, "the writer was cut off, or the image was incomplete before: copy the whole of it")
}

// whole tells why the spool is no complete copy of the view that it has been
// recognised as.
func (s *Spool) whole() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.broken != nil {
		return fmt.Errorf("copy is of a source that cannot be read: %w", s.broken)
	}
	for _, d := range s.doubts {
		if d.size == s.size.Load() {
			return fmt.Errorf("copy is of a source that could not be read at its beginning: %w", d.err)
		}
	}
	if s.plain {
		return nil
	}
	var short *core
	for _, c := range s.cands {
		if c.Size() <= s.size.Load() {
			return s.readGaps(c)
		}
		if c != s.expect { // which is the source only by accident
			short = c
		}
	}
	if short == nil || !s.telling(short) {
		return nil
	}
	return errTruncated(s.size.Load(), short.Size(), fmt.Sprintf("its source, %q of %s", short.Ref.Entry.Name, short.Ref.Site))
}

// readGaps reads what c has where the writer left a hole. There may be data: not
// every program copies blocks that no file uses. But what cannot be read was not
// left out on purpose; rsync -S takes it for zeros.
func (s *Spool) readGaps(c *core) error {
	buf := make([]byte, 1<<20)
	for off, size := int64(0), c.Size(); off < size; {
		in, end := s.same.at(off, size)
		e, err := c.Extent(off, end-off)
		if err == nil && !in && !e.Zero {
			e.Len = min(e.Len, int64(len(buf)))
			err = disk.ReadFull(c.image, buf[:e.Len], off)
		}
		if err != nil {
			return fmt.Errorf("copy is of a source that cannot be read: %w", err)
		}
		off = e.End()
	}
	return nil
}

// telling tells whether what was recognised as c's is more than zeros, which
// any disk may begin with.
func (s *Spool) telling(c *core) bool {
	for _, r := range s.same {
		if !allZero(c.image, r.from, r.to-r.from) {
			return true
		}
	}
	return false
}

// structureSize is how much of a disk's beginning tells its size: the superblock
// of Btrfs, of 4 KiB, is at 64 KiB; all else is before.
const structureSize = btrfsSuper + 4096

// btrfsSuper is the offset of the superblock of Btrfs (btrfs.readthedocs.io,
// On-disk format, Superblock).
const btrfsSuper = 64 << 10

// checkWhole refuses a raw disk that ends before what is on it does.
func checkWhole(img disk.Image) error {
	head := make([]byte, structureSize)
	if err := disk.ReadFull(img, head[:min(structureSize, img.Size())], 0); err != nil {
		return err
	}
	for _, c := range []struct {
		by   string
		size int64
	}{{"its GPT", gptSize(head)}, {"its partition table", mbrSize(head)}, {"its ext file system", extSize(head)}, {"its XFS", xfsSize(head)}, {"its Btrfs", btrfsSize(head)}, {"its FAT or NTFS", dosSize(head)}, {"its swap area", swapSize(head)}} {
		if c.size > img.Size() {
			return errTruncated(img.Size(), c.size, c.by)
		}
		if c.size > 0 {
			if err := checkOnce(img, c.size, c.by); err != nil {
				return err
			}
		}
	}
	return nil
}

// rsyncBuffer is how much rsync writes at once, in bytes (its fileio.c, write_file). When a
// signal ends rsync --inplace just after a write, its cleanup writes the same buffer again,
// behind the first, and closes the file as if all were well.
const rsyncBuffer = 256 << 10

// checkOnce refuses a disk whose last bytes are there twice, the second time behind the
// end that it says it has. Those that are there more often are a pattern, such as that of
// erased flash memory, and none of this.
func checkOnce(img disk.Image, end int64, by string) error {
	size := img.Size()
	rest := size % rsyncBuffer // of an image that ends in the middle of a buffer, that part twice
	for _, n := range []int64{size - end, rsyncBuffer, rest / 2, (rest + rsyncBuffer) / 2} {
		if n <= 0 || n > rsyncBuffer || size-n < max(end, n) {
			continue
		}
		p := make([]byte, min(3*n, size))
		if err := disk.ReadFull(img, p, size-int64(len(p))); err != nil {
			return err
		}
		before, once, twice := p[:int64(len(p))-2*n], p[int64(len(p))-2*n:][:n], p[int64(len(p))-n:]
		uniform := bytes.Count(twice, twice[:1]) == len(twice)
		if bytes.Equal(once, twice) && !bytes.Equal(before, once) && !uniform {
			err := disk.Errorf(disk.Malformed, "image looks interrupted: its last %d bytes are there twice, behind byte %d, where it ends by %s", n, end, by)
			return disk.Hint(err, "its writer was killed, as rsync --inplace does it: copy it again")
		}
	}
	return nil
}

// checkDisc refuses an ISO that ends before its volume does.
func checkDisc(img disk.Image) error {
	size, err := iso.Size(img)
	if err == nil && size > img.Size() {
		err = errTruncated(img.Size(), size, "its volume descriptor")
	}
	return err
}

// mbrEntries gives the four entries of a partition table, or nothing where the
// first sector has none: a boot sector of a file system ends with the same two
// bytes, and with program text where the entries would be.
func mbrEntries(head []byte) (entries [][]byte) {
	if head[510] != 0x55 || head[511] != 0xaa {
		return nil
	}
	for _, at := range []int{3, 54, 82} { // of exFAT and NTFS, FAT16, FAT32
		if name := head[at : at+5]; bytes.HasPrefix(name, []byte("FAT")) || string(name) == "EXFAT" || string(name) == "NTFS " {
			return nil
		}
	}
	for i := range 4 {
		e := head[446+16*i:][:16]
		if e[0]&0x7f != 0 { // the status is 0x80 or 0
			return nil
		}
		entries = append(entries, e)
	}
	return entries
}

// protective is the type of the MBR partition that stands for a GPT (UEFI 5.2.3).
const protective = 0xee

// mbrSize is the end of the last partition, in bytes. Its unit is the sector of
// the drive; with 512 it is never too much.
func mbrSize(head []byte) (size int64) {
	for _, e := range mbrEntries(head) {
		start, count := binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
		if e[4] != 0 && e[4] != protective && start > 0 && count > 0 {
			size = max(size, (int64(start)+int64(count))*disk.SectorSize)
		}
	}
	return size
}

// gptSize is the end of the backup header, the last sector of the disk. Fields
// are those of UEFI 5.3.2; a header whose checksum is wrong tells nothing.
func gptSize(head []byte) int64 {
	if !slices.ContainsFunc(mbrEntries(head), func(e []byte) bool { return e[4] == protective }) {
		return 0
	}
	for _, sector := range []int64{512, 4096} {
		h := head[sector:][:512]
		n := binary.LittleEndian.Uint32(h[12:])
		if string(h[:8]) != "EFI PART" || n < 92 || n > 512 {
			continue
		}
		sum := crc32.ChecksumIEEE(append(append(bytes.Clone(h[:16]), 0, 0, 0, 0), h[20:n]...))
		backup := binary.LittleEndian.Uint64(h[32:])
		if sum == binary.LittleEndian.Uint32(h[16:]) && backup < 1<<50 {
			return (int64(backup) + 1) * sector
		}
	}
	return 0
}

// extSize is the size of an ext2, 3 or 4 on the bare disk, by its superblock at
// offset 1024 (kernel documentation, ext4, "Super Block").
func extSize(head []byte) int64 {
	sb := head[1024:2048]
	shift := binary.LittleEndian.Uint32(sb[24:])
	if binary.LittleEndian.Uint16(sb[56:]) != 0xef53 || shift > 6 {
		return 0
	}
	blocks := uint64(binary.LittleEndian.Uint32(sb[4:]))
	const incompat64bit = 0x80
	if binary.LittleEndian.Uint32(sb[96:])&incompat64bit != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(sb[336:])) << 32
	}
	if blocks > 1<<46 {
		return 0
	}
	return int64(blocks) << (10 + shift)
}

// xfsSize is the size of an XFS on the bare disk, by its superblock at offset 0.
func xfsSize(head []byte) int64 {
	block, blocks := int64(binary.BigEndian.Uint32(head[4:])), binary.BigEndian.Uint64(head[8:])
	if string(head[:4]) != "XFSB" || block < 512 || block > 1<<16 || blocks > 1<<46 {
		return 0
	}
	return int64(blocks) * block
}

// btrfsSize is the size of the device of a Btrfs on the bare disk: the field
// total_bytes of the superblock's dev_item.
func btrfsSize(head []byte) int64 {
	sb := head[btrfsSuper:]
	size := binary.LittleEndian.Uint64(sb[0xd1:])
	if string(sb[0x40:0x48]) != "_BHRfS_M" || size > 1<<60 {
		return 0
	}
	return int64(size)
}

// dosSize is the size of a FAT or NTFS on the bare disk, by the parameter block
// of its boot sector (Microsoft, FAT specification, section 3; NTFS has 64 bits
// of sectors at 40, and one more sector behind them).
func dosSize(head []byte) int64 {
	if head[510] != 0x55 || head[511] != 0xaa || head[0] != 0xeb && head[0] != 0xe9 {
		return 0
	}
	sector := uint64(binary.LittleEndian.Uint16(head[11:]))
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 {
		return 0
	}
	var sectors uint64
	switch {
	case string(head[3:11]) == "NTFS    ":
		sectors = binary.LittleEndian.Uint64(head[40:]) + 1
	case string(head[54:57]) == "FAT" || string(head[82:85]) == "FAT":
		if sectors = uint64(binary.LittleEndian.Uint16(head[19:])); sectors == 0 {
			sectors = uint64(binary.LittleEndian.Uint32(head[32:]))
		}
	}
	if sectors > 1<<46 {
		return 0
	}
	return int64(sectors * sector)
}

// swapSize is the size of a swap area of 4 KiB pages (mkswap(8), union
// swap_header of the kernel: last_page is the second field behind 1024 bytes).
func swapSize(head []byte) int64 {
	if string(head[4086:4096]) != "SWAPSPACE2" || binary.LittleEndian.Uint32(head[1024:]) != 1 {
		return 0
	}
	return (int64(binary.LittleEndian.Uint32(head[1028:])) + 1) << 12
}
