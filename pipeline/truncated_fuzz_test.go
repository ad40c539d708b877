package pipeline

import (
	"encoding/binary"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// FuzzCheckWhole holds what reads the beginning of a foreign disk: no panic, no
// size below zero, and no error but that of a cut-off disk.
func FuzzCheckWhole(f *testing.F) {
	mbr := make([]byte, structureSize)
	mbr[450], mbr[510], mbr[511] = protective, 0x55, 0xaa
	copy(mbr[512:], "EFI PART")
	f.Add(mbr)
	ext := make([]byte, structureSize)
	binary.LittleEndian.PutUint16(ext[1080:], 0xef53)
	binary.LittleEndian.PutUint32(ext[1028:], 1<<20)
	f.Add(ext)
	f.Add([]byte("XFSB\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x10\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		if err := checkWhole(disk.Bytes(p)); err != nil && disk.KindOf(err) != disk.Malformed {
			t.Error(err)
		}
		head := append(append([]byte{}, p...), make([]byte, structureSize)...)[:structureSize]
		for _, n := range []int64{gptSize(head), mbrSize(head), extSize(head), xfsSize(head), btrfsSize(head), dosSize(head), swapSize(head)} {
			if n < 0 {
				t.Errorf("size %d", n)
			}
		}
	})
}
