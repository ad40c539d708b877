package vmdk

import (
	"encoding/binary"
	"fmt"
	"io"

	"chromogenic/disk"
)

const (
	sector     = disk.SectorSize
	headerSize = 512
	footerSize = 3 * sector // marker, footer, end-of-stream marker

	// gdAtEnd in place of the directory's offset says that the footer has it
	// (VDF, Stream-Optimized Compressed, GD_AT_END).
	gdAtEnd = 1<<64 - 1

	// newlines are the bytes 73 to 76 of the header: they do not survive a
	// transfer that rewrites line ends (VDF, Hosted Sparse Extents).
	newlines = "\n \r\n"
)

// Flags of the hosted header. Those of the upper half must be understood.
const (
	flagNewlines   = 1 << 0
	flagRedundant  = 1 << 1
	flagZeroGrain  = 1 << 2
	flagCompressed = 1 << 16
	flagMarkers    = 1 << 17
	flagsMust      = 0xffff0000 // open-vmdk SPARSEFLAG_INCOMPAT_FLAGS
)

// Types of the metadata markers in a stream.
const (
	markerTable     = 1
	markerDirectory = 2
	markerFooter    = 3
)

const compressDeflate = 1

// header is the SparseExtentHeader (VDF, Hosted Sparse Extents): little-endian,
// packed.
type header struct {
	version           uint32
	flags             uint32
	capacitySectors   uint64
	grainSectors      uint64
	descriptorSector  uint64
	descriptorSectors uint64
	tableEntries      uint32
	redundantGDSector uint64
	gdSector          uint64
	overheadSectors   uint64
	compression       uint16
	footer            bool // read from the end of a stream
}

func decodeHeader(p []byte) header {
	le := binary.LittleEndian
	return header{
		version:           le.Uint32(p[4:]),
		flags:             le.Uint32(p[8:]),
		capacitySectors:   le.Uint64(p[12:]),
		grainSectors:      le.Uint64(p[20:]),
		descriptorSector:  le.Uint64(p[28:]),
		descriptorSectors: le.Uint64(p[36:]),
		tableEntries:      le.Uint32(p[44:]),
		redundantGDSector: le.Uint64(p[48:]),
		gdSector:          le.Uint64(p[56:]),
		overheadSectors:   le.Uint64(p[64:]),
		compression:       le.Uint16(p[77:]),
	}
}

// encode is the header as a sector.
func (h header) encode() []byte {
	p, le := make([]byte, headerSize), binary.LittleEndian
	copy(p, magicHosted)
	le.PutUint32(p[4:], h.version)
	le.PutUint32(p[8:], h.flags)
	le.PutUint64(p[12:], h.capacitySectors)
	le.PutUint64(p[20:], h.grainSectors)
	le.PutUint64(p[28:], h.descriptorSector)
	le.PutUint64(p[36:], h.descriptorSectors)
	le.PutUint32(p[44:], h.tableEntries)
	le.PutUint64(p[48:], h.redundantGDSector)
	le.PutUint64(p[56:], h.gdSector)
	le.PutUint64(p[64:], h.overheadSectors)
	copy(p[73:], newlines)
	le.PutUint16(p[77:], h.compression)
	return p
}

// encodeMarker is a metadata marker as a sector: the number of sectors that
// follow it, size 0, and the type.
func encodeMarker(sectors uint64, kind uint32) []byte {
	p := make([]byte, sector)
	binary.LittleEndian.PutUint64(p, sectors)
	binary.LittleEndian.PutUint32(p[12:], kind)
	return p
}

// stream tells whether the extent is of a streamOptimized disk.
func (h header) stream() bool { return h.flags&flagCompressed != 0 && h.flags&flagMarkers != 0 }

// readHeader reads the header of a hosted extent, or the footer where the
// header defers to it. What it returns is checked, except for what lies where.
func readHeader(img disk.Image) (header, error) {
	if img.Size() < headerSize {
		return header{}, errTruncated("header", 0, headerSize, img.Size())
	}
	h, err := readHeaderAt(img, 0)
	if err != nil || h.gdSector != gdAtEnd {
		return h, err
	}
	f, err := readFooter(img)
	if err != nil {
		return header{}, err
	}
	// "The footer takes precedence over the header" (qemu); the descriptor
	// stands behind the header in either.
	f.descriptorSector, f.descriptorSectors = h.descriptorSector, h.descriptorSectors
	f.footer = true
	return f, nil
}

func readHeaderAt(img disk.Image, off int64) (header, error) {
	p := make([]byte, headerSize)
	if err := disk.ReadFull(img, p, off); err != nil {
		return header{}, fmt.Errorf("read vmdk header: %w", err)
	}
	h := decodeHeader(p)
	if h.flags&flagNewlines != 0 && string(p[73:77]) != newlines {
		return header{}, disk.Hint(disk.Errorf(disk.Malformed, "open vmdk: damaged by a text-mode transfer: newline bytes are %x", p[73:77]),
			"transfer the file again in binary mode")
	}
	return h, h.check()
}

// readFooter reads the footer, which stands before the end-of-stream marker at
// the very end of a stream.
func readFooter(img disk.Image) (header, error) {
	size := img.Size()
	if size < headerSize+footerSize || size%sector != 0 {
		return header{}, errNoFooter(size)
	}
	p := make([]byte, footerSize)
	if err := disk.ReadFull(img, p, size-footerSize); err != nil {
		return header{}, fmt.Errorf("read vmdk footer: %w", err)
	}
	le := binary.LittleEndian
	marker, footer, eos := p[:sector], p[sector:2*sector], p[2*sector:]
	if le.Uint32(marker[8:]) != 0 || le.Uint32(marker[12:]) != markerFooter || string(footer[:4]) != magicHosted ||
		le.Uint64(eos) != 0 || le.Uint64(eos[8:]) != 0 {
		return header{}, errNoFooter(size)
	}
	h, err := readHeaderAt(img, size-2*sector)
	if err == nil && h.gdSector == gdAtEnd {
		err = disk.Errorf(disk.Malformed, "open vmdk: the footer does not say where the grain directory is")
	}
	return h, err
}

func errNoFooter(size int64) error {
	return errHintTruncated(disk.Errorf(disk.Malformed, "open vmdk: truncated: no footer and end-of-stream marker at the end, file offset %d", size))
}

// check refuses what cannot be read whatever the file holds.
func (h header) check() error {
	switch {
	case h.version < 1 || h.version > 3:
		return disk.Errorf(disk.Unsupported, "open vmdk: version %d", h.version)
	case h.flags&flagsMust&^(flagCompressed|flagMarkers) != 0:
		return disk.Errorf(disk.Unsupported, "open vmdk: unknown flags %#x", h.flags)
	case h.compression > compressDeflate:
		return disk.Errorf(disk.Unsupported, "open vmdk: compression algorithm %d", h.compression)
	case h.flags&flagCompressed != 0 != (h.compression == compressDeflate):
		return disk.Errorf(disk.Unsupported, "open vmdk: flags %#x and compression algorithm %d disagree", h.flags, h.compression)
	case h.flags&flagMarkers != 0 && h.flags&flagCompressed == 0:
		return disk.Errorf(disk.Unsupported, "open vmdk: markers without compression")
	}
	return nil
}

// geometry is where and how a sparse extent keeps its grains, of a hosted
// header or of a COWD one.
type geometry struct {
	capacitySectors uint64
	grainSectors    uint64
	tableEntries    uint64
	gdSector        uint64
	gdEntries       uint64 // what the header says; 0 where it does not
	overheadSectors uint64
	headerSectors   int64
	footer          bool
	compressed      bool
	markers         bool
	zeroGrain       bool // an entry of 1 is a grain of zeros
	descriptor      uint64
}

func (h header) geometry() geometry {
	g := geometry{
		capacitySectors: h.capacitySectors,
		grainSectors:    h.grainSectors,
		tableEntries:    uint64(h.tableEntries),
		gdSector:        h.gdSector,
		overheadSectors: h.overheadSectors,
		headerSectors:   1,
		footer:          h.footer,
		compressed:      h.flags&flagCompressed != 0,
		markers:         h.flags&flagMarkers != 0,
		zeroGrain:       h.flags&flagZeroGrain != 0,
		descriptor:      h.descriptorSector,
	}
	if g.gdSector == 0 && h.flags&flagRedundant != 0 {
		g.gdSector = h.redundantGDSector
	}
	return g
}

// readCOWD reads the header of an ESX sparse extent (VDF, ESXi Host Sparse
// Extents).
func readCOWD(img disk.Image) (geometry, error) {
	const size = 2048
	if img.Size() < size {
		return geometry{}, errTruncated("header", 0, size, img.Size())
	}
	p := make([]byte, size)
	if err := disk.ReadFull(img, p, 0); err != nil {
		return geometry{}, fmt.Errorf("read vmdk header: %w", err)
	}
	le := binary.LittleEndian
	if v := le.Uint32(p[4:]); v != 1 {
		return geometry{}, disk.Errorf(disk.Unsupported, "open vmdk: ESX sparse extent of version %d", v)
	}
	return geometry{
		capacitySectors: uint64(le.Uint32(p[12:])),
		grainSectors:    uint64(le.Uint32(p[16:])),
		gdSector:        uint64(le.Uint32(p[20:])),
		gdEntries:       uint64(le.Uint32(p[24:])),
		tableEntries:    4096, // fixed
		headerSectors:   size / sector,
	}, nil
}

// errTruncated says that what should lie at off is cut off by the file's end.
func errTruncated(what string, off, n, size int64) error {
	return errHintTruncated(disk.Errorf(disk.Malformed, "open vmdk: truncated: %s at file offset %d, %d bytes, in a file of %d: %w",
		what, off, n, size, io.ErrUnexpectedEOF))
}

func errHintTruncated(err error) error {
	return disk.Hint(err, "the file is cut off; copy it again and compare its size with the original's")
}
