package vmdk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/klauspost/compress/zlib"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// How the grains of a built extent are kept.
const (
	plain   = iota
	marked  // VDF, grain marker
	counted // open-vmdk without SPARSEFLAG_EMBEDDED_LBA
	bare    // qemu without VMDK4_FLAG_MARKER
)

// spec is a hosted sparse extent that build makes byte by byte. The zero value
// of a field is what products write.
type spec struct {
	size       int64 // bytes of the disk
	grain      int64 // sectors
	entries    int64 // of a table
	data       func(grain int64) bool
	zeroed     func(grain int64) bool // entries of 1
	kind       int
	atEnd      bool // directory and tables behind the grains, a footer
	redundant  bool // a second directory with tables of its own
	allTables  bool // also those without grains
	backwards  bool // the last grain first in the file
	clipLast   bool // of the last grain only what is of the disk
	text       string
	textSector int64 // -1 is none, -2 behind all else
	textLen    int64 // sectors
	edit       func(h *header)
	patch      func(p []byte, at places) []byte
}

// places is where build put things, in sectors.
type places struct {
	directory int64
	tables    []int64
	grains    map[int64]int64
}

// withDefaults fills in what products write.
func (s spec) withDefaults() spec {
	if s.size == 0 {
		s.size = 5 * mib
	}
	if s.grain == 0 {
		s.grain = 128
	}
	if s.entries == 0 {
		s.entries = 512
	}
	if s.data == nil {
		s.data = func(g int64) bool { return g%3 != 1 }
	}
	if s.zeroed == nil {
		s.zeroed = func(int64) bool { return false }
	}
	if s.textSector == 0 {
		s.textSector = 1
	}
	if s.textLen == 0 {
		s.textLen = 20
	}
	if s.text == "" && s.textSector != -1 {
		s.text = text("monolithicSparse", fmt.Sprintf("RW %d SPARSE \"disk.vmdk\"", s.size/sector))
	}
	return s
}

// text is a descriptor as VDF shows it, of these extent lines.
func text(createType string, lines ...string) string {
	return fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=%q\n\n# Extent description\n%s\n\n"+
		"# The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\nddb.virtualHWVersion = \"4\"\n", createType, strings.Join(lines, "\n"))
}

func (s spec) grains() int64 { return (s.size + s.grain*sector - 1) / (s.grain * sector) }

// want is the content of the built disk.
func (s spec) want() disk.Image {
	s = s.withDefaults()
	var runs []disk.Extent
	for g := range s.grains() {
		if s.data(g) && !s.zeroed(g) {
			off := g * s.grain * sector
			runs = append(runs, disk.Extent{Off: off, Len: min(s.grain*sector, s.size-off)})
		}
	}
	return disktest.Runs(s.size, runs...)
}

// builder appends to a file.
type builder struct{ p []byte }

// add appends q, padded to a sector, and returns the sector where it lies.
func (b *builder) add(q []byte) int64 {
	at := int64(len(b.p)) / sector
	b.p = append(b.p, q...)
	b.p = append(b.p, make([]byte, -len(b.p)&(sector-1))...)
	return at
}

func (s spec) build() []byte {
	s = s.withDefaults()
	var b builder
	h := header{
		version: 1, flags: flagNewlines, capacitySectors: uint64(s.size / sector),
		grainSectors: uint64(s.grain), tableEntries: uint32(s.entries),
	}
	b.add(make([]byte, sector))
	if s.textSector > 0 {
		b.p = append(b.p, make([]byte, (s.textSector-1+s.textLen)*sector)...)
		copy(b.p[s.textSector*sector:], s.text)
		h.descriptorSector, h.descriptorSectors = uint64(s.textSector), uint64(s.textLen)
	}
	at := places{tables: make([]int64, (s.grains()+s.entries-1)/s.entries), grains: map[int64]int64{}}
	var second places
	if s.redundant {
		second = s.reserve(&b)
		h.flags |= flagRedundant
		h.redundantGDSector = uint64(second.directory)
	}
	if !s.atEnd {
		at = s.reserve(&b)
		h.gdSector = uint64(at.directory)
	}
	h.overheadSectors = uint64(len(b.p) / sector)
	s.addGrains(&b, &at)
	if s.kind != plain {
		h.version, h.compression = 3, compressDeflate
		h.flags |= flagCompressed
	}
	if s.kind == marked {
		h.flags |= flagMarkers
	}
	if s.atEnd {
		s.addEnd(&b, &at)
		h.gdSector = gdAtEnd
	}
	s.fill(b.p, at)
	if s.redundant {
		second.grains = at.grains
		s.fill(b.p, second)
	}
	if s.textSector == -2 {
		h.descriptorSectors = uint64(s.textLen)
		h.descriptorSector = uint64(b.add([]byte(s.text)))
	}
	if s.edit != nil {
		s.edit(&h)
	}
	copy(b.p, h.encode())
	if s.atEnd {
		h.gdSector = uint64(at.directory)
		b.add(encodeMarker(1, markerFooter))
		b.add(h.encode())
		b.add(make([]byte, sector))
	} else if s.kind == marked {
		b.add(make([]byte, sector)) // end of stream
	}
	if s.patch != nil {
		b.p = s.patch(b.p, at)
	}
	return b.p
}

// reserve makes room for a directory and its tables.
func (s spec) reserve(b *builder) places {
	at := places{tables: make([]int64, (s.grains()+s.entries-1)/s.entries), grains: map[int64]int64{}}
	at.directory = b.add(make([]byte, 4*len(at.tables)))
	for t := range at.tables {
		if s.used(int64(t)) {
			at.tables[t] = b.add(make([]byte, 4*s.entries))
		}
	}
	return at
}

// used tells whether a table is in the file.
func (s spec) used(t int64) bool {
	for g := t * s.entries; g < min((t+1)*s.entries, s.grains()); g++ {
		if s.data(g) || s.zeroed(g) {
			return true
		}
	}
	return s.allTables
}

// addGrains appends all grains.
func (s spec) addGrains(b *builder, at *places) {
	var order []int64
	for g := range s.grains() {
		if s.data(g) && !s.zeroed(g) {
			order = append(order, g)
		}
	}
	if s.backwards {
		slices.Reverse(order)
	}
	for _, g := range order {
		off := g * s.grain * sector
		p := make([]byte, s.grain*sector)
		n := min(int64(len(p)), s.size-off)
		disktest.Fill(p[:n], off)
		if s.clipLast {
			p = p[:n]
		}
		at.grains[g] = b.add(s.wrap(p, g))
	}
}

// wrap is a grain as it lies in the file.
func (s spec) wrap(p []byte, g int64) []byte {
	if s.kind == plain {
		return p
	}
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	w.Write(p)
	w.Close()
	q := z.Bytes()
	le := binary.LittleEndian
	switch s.kind {
	case marked:
		return append(le.AppendUint32(le.AppendUint64(nil, uint64(g*s.grain)), uint32(len(q))), q...)
	case counted:
		return append(le.AppendUint32(nil, uint32(len(q))), q...)
	}
	return q
}

// addEnd appends the tables and the directory of a stream, each behind its
// marker, and one of the markers of type 4 that ESXi strews in (VirtualBox,
// VMDK_MARKER_UNSPECIFIED).
func (s spec) addEnd(b *builder, at *places) {
	b.add(encodeMarker(0, 4))
	for t := range at.tables {
		if s.used(int64(t)) {
			b.add(encodeMarker(uint64(sectors(4*s.entries)), markerTable))
			at.tables[t] = b.add(make([]byte, 4*s.entries))
		}
	}
	b.add(encodeMarker(uint64(sectors(4*int64(len(at.tables)))), markerDirectory))
	at.directory = b.add(make([]byte, 4*len(at.tables)))
}

// fill writes the entries of a directory and its tables.
func (s spec) fill(p []byte, at places) {
	le := binary.LittleEndian
	for t, table := range at.tables {
		le.PutUint32(p[at.directory*sector+int64(4*t):], uint32(table))
		for i := range s.entries {
			g := int64(t)*s.entries + i
			switch {
			case table == 0 || g >= s.grains():
			case s.zeroed(g):
				le.PutUint32(p[table*sector+4*i:], 1)
			default:
				le.PutUint32(p[table*sector+4*i:], uint32(at.grains[g]))
			}
		}
	}
}

// put32 returns a patch that overwrites a 32-bit number.
func put32(off int64, v uint32) func([]byte, places) []byte {
	return func(p []byte, _ places) []byte {
		binary.LittleEndian.PutUint32(p[off:], v)
		return p
	}
}
