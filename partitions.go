package main

import (
	"encoding/binary"
	"fmt"
	"io"
	iofs "io/fs"

	"github.com/diskfs/go-diskfs/partition"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"

	"chromogenic/disk"
)

// A partitionInfo is one partition as its table has it.
type partitionInfo struct {
	Number int    `json:"number"`
	Type   string `json:"type"` // a GUID of GPT, a byte of MBR ("0x83")
	Name   string `json:"name,omitempty"`
	Start  int64  `json:"start"` // bytes
	Size   int64  `json:"size"`  // bytes
}

// gptEntries bounds the partition entries of a GPT, and gptEntrySize the bytes
// of one. UEFI 2.10, 5.3: an entry is 128 × 2^n bytes, and tables have 128
// entries unless they were made larger on purpose.
const (
	gptEntries   = 4096
	gptEntrySize = 4096
)

// partitions reads the partition table of a disk: "gpt", "mbr", or "" with none
// where there is no table that makes sense. The disk is foreign, so nothing that
// it says makes us allocate much, loop for long or panic; only a read that fails
// is an error.
func partitions(img disk.Image) (table string, list []partitionInfo, err error) {
	watched := &watchedReader{img: img}
	for _, sector := range []int64{512, 4096} {
		if !saneGPT(watched, img.Size(), sector) {
			continue
		}
		if table, list = readTable(watched, img.Size(), int(sector)); table != "" {
			break
		}
	}
	if watched.err != nil {
		return "", nil, fmt.Errorf("read partition table: %w", watched.err)
	}
	return table, list, nil
}

// readTable reads a table with go-diskfs, which may panic on what it does not
// expect. Tables of disks with 4096-byte sectors are GPT only.
func readTable(r io.ReaderAt, size int64, sector int) (table string, list []partitionInfo) {
	defer func() {
		if recover() != nil {
			table, list = "", nil
		}
	}()
	t, err := partition.Read(diskfsFile{io.NewSectionReader(r, 0, size)}, sector, sector)
	if err != nil {
		return "", nil
	}
	switch t := t.(type) {
	case *gpt.Table:
		for _, p := range t.Partitions {
			list = append(list, partitionInfo{
				Number: p.Index, Type: string(p.Type), Name: p.Name,
				Start: p.GetStart(), Size: p.GetSize(),
			})
		}
		return "gpt", list
	case *mbr.Table:
		if sector != 512 {
			return "", nil
		}
		for _, p := range t.Partitions {
			if p.Type == mbr.GPTProtective {
				return "", nil // a GPT with other sectors, or a broken one
			}
			if p.Type == mbr.Empty || p.Size == 0 {
				continue
			}
			list = append(list, partitionInfo{
				Number: p.GetIndex(), Type: fmt.Sprintf("0x%02x", byte(p.Type)),
				Start: p.GetStart(), Size: p.GetSize(),
			})
		}
		if len(list) > 0 {
			return "mbr", list
		}
	}
	return "", nil
}

// saneGPT looks at the two places where go-diskfs may find a GPT header, and
// tells whether one of them would have it read a table without measure. UEFI
// 2.10, table 5.5: "EFI PART" at 0, the number of entries at 80, the size of
// each at 84.
func saneGPT(r io.ReaderAt, size, sector int64) bool {
	for _, off := range []int64{sector, (size/sector - 1) * sector} {
		var head [92]byte
		if off < 0 || off+sector > size {
			continue
		}
		if _, err := r.ReadAt(head[:], off); err != nil {
			return false
		}
		if string(head[:8]) != "EFI PART" {
			continue
		}
		entries := binary.LittleEndian.Uint32(head[80:])
		each := binary.LittleEndian.Uint32(head[84:])
		if entries == 0 || entries > gptEntries || each < gpt.PartitionEntrySize || each > gptEntrySize || each%gpt.PartitionEntrySize != 0 {
			return false
		}
	}
	return true
}

// A watchedReader keeps the first error of a read, for go-diskfs takes it for a
// table that is not there.
type watchedReader struct {
	img disk.Image
	err error
}

func (w *watchedReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.img.ReadAt(p, off)
	if err != nil && err != io.EOF && w.err == nil {
		w.err = err
	}
	return n, err
}

// A diskfsFile is what go-diskfs reads from.
type diskfsFile struct{ *io.SectionReader }

func (diskfsFile) Close() error                 { return nil }
func (diskfsFile) Stat() (iofs.FileInfo, error) { return nil, iofs.ErrInvalid }
