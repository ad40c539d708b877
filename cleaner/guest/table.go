package guest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"

	"chromogenic/disk"
)

// A span is a range of bytes of the disk.
type span struct{ Off, Size int64 }

func (s span) end() int64 { return s.Off + s.Size }

// A partition is one entry of a table; number 0 is the whole disk.
type partition struct {
	span
	Number int
	Kind   string // a GUID of GPT in capitals, a byte of MBR ("0x83")
	UUID   string // PARTUUID, in small letters
	Name   string // PARTLABEL
}

// A table is how a disk is divided.
type table struct {
	kind  string // "gpt", "mbr", "none"
	parts []partition
	own   []span // bytes that belong to the table and to boot loaders beside it
}

const (
	// gptEntries and gptEntrySize bound what a GPT header may ask us to read. UEFI
	// 2.10, 5.3: an entry is 128 × 2^n bytes, and tables have 128 entries unless
	// they were made larger on purpose.
	gptEntries   = 4096
	gptEntrySize = 4096

	// mbrLogical bounds the chain of logical partitions: Linux stops at 256
	// (block/partitions/msdos.c), and names none above 255.
	mbrLogical = 128

	// guidBIOSBoot is the partition that GRUB writes its core image to (GRUB
	// manual, "BIOS installation").
	guidBIOSBoot = "21686148-6449-6E6F-744E-656564454649"
)

// readTable finds how r is divided. The disk is foreign: nothing that it says makes
// us allocate much, loop for long or panic, and partitions that overlap or lie
// outside of it are an error.
func readTable(r io.ReaderAt, size int64) (table, error) {
	w := &watched{r: r}
	t, err := findTable(w, size)
	if w.err != nil {
		return table{}, fmt.Errorf("read partition table: %w", w.err)
	}
	if err != nil {
		return table{}, fmt.Errorf("read partition table: %w", err)
	}
	slices.SortFunc(t.parts, func(a, b partition) int { return cmp.Compare(a.Off, b.Off) })
	for i, p := range t.parts {
		if p.Off < 0 || p.Size <= 0 || p.Off > size || p.Size > size-p.Off {
			return table{}, disk.Errorf(disk.Malformed, "read partition table: partition %d of %d bytes at offset %d lies outside of the disk of %d bytes", p.Number, p.Size, p.Off, size)
		}
		if i > 0 && t.parts[i-1].end() > p.Off {
			return table{}, disk.Errorf(disk.Malformed, "read partition table: partitions %d and %d overlap", t.parts[i-1].Number, p.Number)
		}
	}
	return t, nil
}

func findTable(r io.ReaderAt, size int64) (table, error) {
	for _, sector := range []int64{512, 4096} {
		if t, ok := readGPT(r, size, sector); ok {
			return t, nil
		}
	}
	t, ok, err := readMBR(r, size)
	if ok || err != nil {
		return t, err
	}
	return table{kind: "none", parts: []partition{{span: span{0, size}}}, own: nil}, nil
}

// readGPT reads a GPT of disks with sectors of the given size with go-diskfs, which
// may panic on what it does not expect. UEFI 2.10, table 5.5: "EFI PART" at 0,
// the first usable block at 40, the last at 48, the other header at 32, the
// number of entries at 80, the size of each at 84.
func readGPT(r io.ReaderAt, size, sector int64) (t table, ok bool) {
	defer func() {
		if recover() != nil {
			t, ok = table{}, false
		}
	}()
	var header []byte
	for _, off := range []int64{(size/sector - 1) * sector, sector} {
		head := make([]byte, 92)
		if off < sector || off+sector > size {
			continue
		}
		if _, err := r.ReadAt(head, off); err != nil {
			return table{}, false
		}
		if string(head[:8]) != "EFI PART" {
			continue
		}
		entries, each := binary.LittleEndian.Uint32(head[80:]), binary.LittleEndian.Uint32(head[84:])
		if entries == 0 || entries > gptEntries || each < gpt.PartitionEntrySize || each > gptEntrySize || each%gpt.PartitionEntrySize != 0 {
			return table{}, false
		}
		header = head
	}
	if header == nil {
		return table{}, false
	}
	g, err := gpt.Read(sectionFile{io.NewSectionReader(r, 0, size)}, int(sector), int(sector))
	if err != nil {
		return table{}, false
	}
	t.kind = "gpt"
	for _, p := range g.Partitions {
		if p.Type == gpt.Unused {
			continue
		}
		t.parts = append(t.parts, partition{
			span: span{p.GetStart(), p.GetSize()}, Number: p.Index,
			Kind: strings.ToUpper(string(p.Type)), UUID: strings.ToLower(p.GUID), Name: p.Name,
		})
	}
	block := func(at int) int64 { // in bytes, within the disk
		return int64(min(binary.LittleEndian.Uint64(header[at:]), uint64(size/sector))) * sector
	}
	first, last, other := block(40), block(48)+sector, block(32)+sector
	if binary.LittleEndian.Uint64(header[32:]) == 1 { // this is the header at the end
		other = size
	}
	t.own = []span{{0, first}}
	if other > last {
		t.own = append(t.own, span{last, min(other, size) - last})
	}
	return t, true
}

// readMBR reads the four entries of the first sector, and the chain of logical
// partitions, which go-diskfs does not follow. A boot sector of a filesystem looks
// alike, so an entry that makes no sense means that there is no table.
func readMBR(r io.ReaderAt, size int64) (table, bool, error) {
	sector, entries, ok := readBootSector(r, 0)
	if !ok {
		return table{}, false, nil
	}
	t := table{kind: "mbr"}
	serial := binary.LittleEndian.Uint32(sector[440:]) // what PARTUUID begins with
	add := func(number int, kind byte, off, n int64) {
		t.parts = append(t.parts, partition{
			span: span{off, n}, Number: number,
			Kind: fmt.Sprintf("0x%02x", kind), UUID: fmt.Sprintf("%08x-%02x", serial, number),
		})
	}
	first, number := size, 5
	for i, e := range entries {
		switch {
		case e.size == 0 || e.kind == byte(mbr.Empty):
			continue
		case e.off == 0 || e.off >= size || e.kind == byte(mbr.GPTProtective):
			return table{}, false, nil
		case !e.extended():
			add(i+1, e.kind, e.off, e.size)
			first = min(first, e.off)
			continue
		}
		first = min(first, e.off)
		for at, n := e.off, 0; ; n++ {
			if n == mbrLogical {
				return table{}, false, disk.Errorf(disk.Malformed, "follow logical partitions at offset %d: more than %d", e.off, mbrLogical)
			}
			t.own = append(t.own, span{at, disk.SectorSize})
			_, chain, ok := readBootSector(r, at)
			if !ok {
				break
			}
			if l := chain[0]; l.size > 0 {
				add(number, l.kind, at+l.off, l.size)
				number++
			}
			next := e.off + chain[1].off
			if chain[1].size == 0 || !chain[1].extended() {
				break
			}
			if next <= at || next >= size {
				return table{}, false, disk.Errorf(disk.Malformed, "follow logical partitions at offset %d: the next one at %d leads back or out", at, next)
			}
			at = next
		}
	}
	if len(t.parts) == 0 {
		return table{}, false, nil
	}
	// GRUB keeps its core image and its Reed-Solomon codes between the table and the
	// first partition, and fills all of that.
	t.own = append(t.own, span{0, min(first, 1<<20)})
	return t, true, nil
}

// A bootEntry is one of the four in a boot record, in bytes.
type bootEntry struct {
	kind      byte
	off, size int64
}

// extended tells whether the entry leads to logical partitions.
func (e bootEntry) extended() bool { return slices.Contains([]byte{0x05, 0x0f, 0x85}, e.kind) }

// readBootSector reads a boot record: four entries of 16 bytes at 446, the first
// sector at 8 and the number of sectors at 12 in each, and 55 AA at 510.
func readBootSector(r io.ReaderAt, off int64) (sector []byte, entries [4]bootEntry, ok bool) {
	sector = make([]byte, disk.SectorSize)
	if _, err := r.ReadAt(sector, off); err != nil && !errors.Is(err, io.EOF) || sector[510] != 0x55 || sector[511] != 0xaa {
		return nil, entries, false
	}
	for i := range entries {
		e := sector[446+16*i:]
		if e[0] != 0 && e[0] != 0x80 {
			return nil, entries, false
		}
		entries[i] = bootEntry{
			kind: e[4],
			off:  int64(binary.LittleEndian.Uint32(e[8:])) * disk.SectorSize,
			size: int64(binary.LittleEndian.Uint32(e[12:])) * disk.SectorSize,
		}
	}
	return sector, entries, true
}

// gaps are the bytes of the disk that belong to no partition and to no table.
func (t table) gaps(size int64) []span {
	used := slices.Clone(t.own)
	for _, p := range t.parts {
		used = append(used, p.span)
	}
	slices.SortFunc(used, func(a, b span) int { return cmp.Compare(a.Off, b.Off) })
	var free []span
	at := int64(0)
	for _, s := range used {
		if s.Off > at {
			free = append(free, span{at, s.Off - at})
		}
		at = max(at, s.end())
	}
	if at < size {
		free = append(free, span{at, size - at})
	}
	return free
}

// watched keeps the first error of a read, which a parser takes for the end.
type watched struct {
	r   io.ReaderAt
	err error
}

func (w *watched) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.r.ReadAt(p, off)
	if err != nil && err != io.EOF && w.err == nil {
		w.err = err
	}
	return n, err
}

// A sectionFile is what go-diskfs reads from.
type sectionFile struct{ *io.SectionReader }

func (sectionFile) Close() error                 { return nil }
func (sectionFile) Stat() (iofs.FileInfo, error) { return nil, iofs.ErrInvalid }
