package pipeline

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// structures are the beginnings of disks that tell a size of 1 MiB.
func structures() map[string][]byte {
	const sectors = 1 << 20 / 512
	gpt := make([]byte, structureSize)
	gpt[510], gpt[511] = 0x55, 0xaa
	gpt[446+4] = protective
	binary.LittleEndian.PutUint32(gpt[446+8:], 1)
	binary.LittleEndian.PutUint32(gpt[446+12:], 0xffffffff)
	h := gpt[512:]
	copy(h, "EFI PART")
	binary.LittleEndian.PutUint32(h[12:], 92)
	binary.LittleEndian.PutUint64(h[32:], sectors-1)
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))

	mbr := make([]byte, structureSize)
	mbr[510], mbr[511] = 0x55, 0xaa
	mbr[446], mbr[446+4] = 0x80, 0x83
	binary.LittleEndian.PutUint32(mbr[446+8:], 64)
	binary.LittleEndian.PutUint32(mbr[446+12:], sectors-64)

	ext := make([]byte, structureSize)
	binary.LittleEndian.PutUint16(ext[1024+56:], 0xef53)
	binary.LittleEndian.PutUint32(ext[1024+24:], 2)
	binary.LittleEndian.PutUint32(ext[1024+4:], 1<<20>>12)

	xfs := make([]byte, structureSize)
	copy(xfs, "XFSB")
	binary.BigEndian.PutUint32(xfs[4:], 4096)
	binary.BigEndian.PutUint64(xfs[8:], 1<<20>>12)

	btrfs := make([]byte, structureSize)
	copy(btrfs[btrfsSuper+0x40:], "_BHRfS_M")
	binary.LittleEndian.PutUint64(btrfs[btrfsSuper+0xd1:], 1<<20)

	fat := make([]byte, structureSize)
	copy(fat, "\xeb\x3c\x90mkfs.fat")
	binary.LittleEndian.PutUint16(fat[11:], 512)
	binary.LittleEndian.PutUint16(fat[19:], sectors)
	copy(fat[54:], "FAT16   ")
	fat[510], fat[511] = 0x55, 0xaa

	ntfs := make([]byte, structureSize)
	copy(ntfs, "\xeb\x52\x90NTFS    ")
	binary.LittleEndian.PutUint16(ntfs[11:], 512)
	binary.LittleEndian.PutUint64(ntfs[40:], sectors-1)
	ntfs[510], ntfs[511] = 0x55, 0xaa

	swap := make([]byte, structureSize)
	binary.LittleEndian.PutUint32(swap[1024:], 1)
	binary.LittleEndian.PutUint32(swap[1028:], 1<<20>>12-1)
	copy(swap[4086:], "SWAPSPACE2")
	return map[string][]byte{
		"gpt": gpt, "mbr": mbr, "ext": ext, "xfs": xfs, "btrfs": btrfs, "fat": fat, "ntfs": ntfs, "swap": swap,
	}
}

func TestRawThatEndsTooEarly(t *testing.T) {
	for name, head := range structures() {
		img := func(size int64) disk.Image {
			b := make([]byte, size)
			copy(b, head)
			return disk.Bytes(b)
		}
		for _, size := range []int64{1 << 20, 1<<20 + 512} {
			if err := checkWhole(img(size)); err != nil {
				t.Errorf("%s of 1 MiB in %d bytes: %v", name, size, err)
			}
		}
		for _, size := range []int64{1<<20 - 512, 1 << 19, structureSize} {
			if err := checkWhole(img(size)); disk.KindOf(err) != disk.Malformed {
				t.Errorf("%s of 1 MiB in %d bytes: %v", name, size, err)
			}
		}
	}
}

func TestRawThatTellsNothing(t *testing.T) {
	fat := structures()["mbr"]
	copy(fat[82:], "FAT32   ")
	text := structures()["mbr"]
	text[446+16] = 'N' // program text, where an entry has its status
	old := structures()["gpt"]
	old[512+40]++ // changes no size, but the checksum is wrong
	for name, b := range map[string][]byte{
		"empty": nil, "sector": make([]byte, 512), "zeros": make([]byte, 4096), "FAT": fat, "boot sector": text, "broken GPT": old,
		"odd": make([]byte, 777),
	} {
		if err := checkWhole(disk.Bytes(b)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSpoolThatEndsBeforeItsSource(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	b.put("a/zeros.raw", disktest.Runs(4<<20))
	v, zeros := b.view("a", "web", "qcow2"), b.view("a", "zeros", "raw")
	s := newSpool(t, b)
	write(t, s, disk.Section(v, 0, v.Size()/2), 64<<10, false)
	wantKind(t, s.whole(), disk.Malformed)
	write(t, s, v, 64<<10, false)
	if err := s.whole(); err != nil {
		t.Errorf("the whole of it: %v", err)
	}
	s = newSpool(t, b)
	write(t, s, disk.Section(zeros, 0, 1<<20), 64<<10, false)
	if err := s.whole(); err != nil {
		t.Errorf("zeros are no part of anything: %v", err)
	}
}
