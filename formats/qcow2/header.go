package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"chromogenic/disk"
)

// MaxSize is the largest virtual disk, in bytes, that is read or laid out. The
// format could take more (2 PiB with 64 KiB clusters and QEMU's largest L1
// table), but nobody has such a disk, and a header that claims one is hostile.
const MaxSize = 64 << 40

// The limits of the format and of QEMU (block/qcow2.h).
const (
	minClusterBits  = 9        // spec, "Header", cluster_bits
	maxClusterBits  = 21       // QEMU's limit, named there
	minExtendedBits = 14       // with extended L2 entries, named there
	maxL1Bytes      = 32 << 20 // QCOW_MAX_L1_SIZE; spec, "Header", size
	maxRefBytes     = 8 << 20  // QCOW_MAX_REFTABLE_SIZE; spec, "Host cluster management"
	maxSnapshots    = 65536    // QCOW_MAX_SNAPSHOTS
	maxBackingName  = 1023     // spec, "Header", backing_file_size
	maxRefOrder     = 6        // spec, "Header", refcount_order
)

// Lengths of the header, in bytes (spec, "Header" and "Additional fields").
const (
	headerV2       = 72
	headerV3       = 104
	compressionOff = 104 // of the additional field compression_type
	headerKnown    = 112 // all the fields that are known, padded to 8 bytes
)

// Methods of crypt_method and compression_type (spec, "Header" and "Additional
// fields").
const (
	cryptAES  = 1
	cryptLUKS = 2

	compressionZlib = 0
	compressionZstd = 1
)

const magic = "QFI\xfb" // spec, "Header"

// Probe tells by the magic whether head begins a qcow2 file. It is true for
// every version, so that Open can say which one it cannot read.
func Probe(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }

// A header is the header of a file as it is on disk. The fields from
// incompatible on are zero in version 2.
type header struct {
	version          uint32
	backingOffset    uint64
	backingSize      uint32
	clusterBits      uint32
	size             uint64 // of the virtual disk, bytes
	crypt            uint32
	l1Entries        uint32
	l1Offset         uint64
	refTableOffset   uint64
	refTableClusters uint32
	snapshots        uint32
	snapshotsOffset  uint64
	incompatible     features
	refcountOrder    uint32
	length           uint32
	compression      byte
}

// readHeader reads and checks the header of img. What it returns can be relied
// on: every size is within the limits, every table within the file.
func readHeader(img disk.Image) (*header, error) {
	p := make([]byte, headerKnown)
	if err := disk.ReadFull(img, p, 0); err != nil {
		return nil, fmt.Errorf("read qcow2 header: %w", err)
	}
	if !Probe(p) {
		return nil, malformed("no qcow2 magic at offset 0")
	}
	h := &header{version: binary.BigEndian.Uint32(p[4:])}
	if err := h.checkVersion(); err != nil {
		return nil, err
	}
	if need := h.minLength(); img.Size() < need {
		return nil, truncated("header needs %d bytes, the file has %d", need, img.Size())
	}
	h.parse(p)
	for _, check := range []func(disk.Image) error{
		h.checkGeometry, h.checkFeatures, h.checkCrypt, h.checkCompression, h.checkTables,
	} {
		if err := check(img); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// parse takes the fields of p, which holds headerKnown bytes; what the file or
// the header's own length does not reach is zero, as the spec wants it.
func (h *header) parse(p []byte) {
	be := binary.BigEndian
	h.backingOffset = be.Uint64(p[8:])
	h.backingSize = be.Uint32(p[16:])
	h.clusterBits = be.Uint32(p[20:])
	h.size = be.Uint64(p[24:])
	h.crypt = be.Uint32(p[32:])
	h.l1Entries = be.Uint32(p[36:])
	h.l1Offset = be.Uint64(p[40:])
	h.refTableOffset = be.Uint64(p[48:])
	h.refTableClusters = be.Uint32(p[56:])
	h.snapshots = be.Uint32(p[60:])
	h.snapshotsOffset = be.Uint64(p[64:])
	h.refcountOrder = 4 // "always assumed" in version 2
	h.length = headerV2
	if h.version == 2 {
		return
	}
	h.incompatible = features(be.Uint64(p[72:]))
	h.refcountOrder = be.Uint32(p[96:])
	h.length = be.Uint32(p[100:])
	if h.length > compressionOff {
		h.compression = p[compressionOff]
	}
}

func (h *header) checkVersion() error {
	switch h.version {
	case 2, 3:
		return nil
	case 1:
		return disk.Hint(unsupported("the file is of the old qcow format, version 1"),
			"convert it with qemu-img convert -f qcow -O qcow2")
	}
	return unsupported("version %d is not known", h.version)
}

// minLength is the least number of bytes that a header of this version takes.
func (h *header) minLength() int64 {
	if h.version == 2 {
		return headerV2
	}
	return headerV3
}

// checkGeometry checks the sizes that all else depends on.
func (h *header) checkGeometry(disk.Image) error {
	switch {
	case h.clusterBits < minClusterBits || h.clusterBits > maxClusterBits:
		return malformed("cluster size of 2^%d bytes is not between 512 bytes and 2 MiB", h.clusterBits)
	case int64(h.length) < h.minLength():
		return malformed("header length %d is less than %d", h.length, h.minLength())
	case int64(h.length) > h.clusterSize():
		return malformed("header length %d is more than a cluster of %d bytes", h.length, h.clusterSize())
	case h.size > MaxSize:
		return malformed("virtual size of %d bytes is more than %d", h.size, int64(MaxSize))
	case h.refcountOrder > maxRefOrder:
		return malformed("refcounts of 2^%d bits are wider than 64 bits", h.refcountOrder)
	case h.backingOffset > uint64(h.clusterSize()):
		return malformed("backing file name at offset %d is outside the first cluster", h.backingOffset)
	case h.backingOffset != 0 && int64(h.backingSize) > min(maxBackingName, h.clusterSize()-int64(h.backingOffset)):
		return malformed("backing file name of %d bytes at offset %d is too long", h.backingSize, h.backingOffset)
	}
	return nil
}

func (h *header) checkCrypt(disk.Image) error {
	const hint = "decrypt it with qemu-img convert, which asks for the key"
	switch h.crypt {
	case 0:
		return nil
	case cryptAES:
		return disk.Hint(unsupported("the image is encrypted with AES"), hint)
	case cryptLUKS:
		return disk.Hint(unsupported("the image is encrypted with LUKS"), hint)
	}
	return unsupported("the image is encrypted with unknown method %d", h.crypt)
}

// checkCompression wants the type and its feature bit to agree, as the spec does
// ("Additional fields", compression_type).
func (h *header) checkCompression(disk.Image) error {
	switch flagged := h.incompatible.has(featureCompression); {
	case h.compression > compressionZstd:
		return unsupported("compression type %d is not known", h.compression)
	case flagged && h.compression == compressionZlib:
		return malformed("compression type bit is set, but the type is zlib")
	case !flagged && h.compression != compressionZlib:
		return malformed("compression type is %d, but its feature bit is not set", h.compression)
	}
	return nil
}

// checkTables wants every table that the header points at to be aligned and to
// lie in the file. The refcount and snapshot tables are not read; a header that
// puts them nowhere is still not to be trusted. An image without its refcount
// table is refused as QEMU does.
func (h *header) checkTables(img disk.Image) error {
	file := img.Size()
	if int64(h.l1Entries)*8 > maxL1Bytes {
		return malformed("L1 table of %d entries is larger than %d bytes", h.l1Entries, maxL1Bytes)
	}
	if need := h.l1Needed(); int64(h.l1Entries) < need {
		return malformed("L1 table of %d entries is too small for %d bytes, which need %d", h.l1Entries, h.size, need)
	}
	if h.refTableClusters == 0 {
		return malformed("the image has no refcount table")
	}
	refBytes := int64(h.refTableClusters) << h.clusterBits
	if refBytes > maxRefBytes {
		return malformed("refcount table of %d bytes is larger than %d", refBytes, maxRefBytes)
	}
	if h.snapshots > maxSnapshots {
		return malformed("%d snapshots are more than %d", h.snapshots, maxSnapshots)
	}
	for _, t := range h.tables() {
		switch {
		case t.off%uint64(h.clusterSize()) != 0:
			return malformed("%s at offset %d is not aligned to clusters of %d bytes", t.name, t.off, h.clusterSize())
		case t.off == 0:
			return malformed("%s at offset 0 overlaps the header", t.name)
		case t.off > uint64(file) || t.bytes > file-int64(t.off):
			return truncated("%s of %d bytes at offset %d is behind the end of the file at %d", t.name, t.bytes, t.off, file)
		}
	}
	return nil
}

// A table is one of those that the header points at.
type table struct {
	name  string
	off   uint64 // in the file
	bytes int64
}

// tables lists the tables of the header that have entries. A snapshot takes 40
// bytes at least (spec, "Snapshots").
func (h *header) tables() []table {
	all := []table{
		{"L1 table", h.l1Offset, int64(h.l1Entries) * 8},
		{"refcount table", h.refTableOffset, int64(h.refTableClusters) << h.clusterBits},
		{"snapshot table", h.snapshotsOffset, int64(h.snapshots) * 40},
	}
	used := all[:0]
	for _, t := range all {
		if t.bytes > 0 {
			used = append(used, t)
		}
	}
	return used
}

func (h *header) clusterSize() int64 { return 1 << h.clusterBits }

// l2Bits is the number of bits of a cluster's number that count within an L2
// table: an entry takes 8 bytes, an extended one 16.
func (h *header) l2Bits() uint32 {
	if h.incompatible.has(featureExtendedL2) {
		return h.clusterBits - 4
	}
	return h.clusterBits - 3
}

// l1Needed is how many entries of the L1 table the virtual disk takes. There may
// be more: a shrunken disk leaves some, and the state of a virtual machine lies
// behind the disk.
func (h *header) l1Needed() int64 {
	span := int64(1) << (h.clusterBits + h.l2Bits())
	return (int64(h.size) + span - 1) / span
}

// backingName is the name of the backing file, empty for none.
func (h *header) backingName(img disk.Image) (string, error) {
	if h.backingOffset == 0 || h.backingSize == 0 {
		return "", nil
	}
	p := make([]byte, h.backingSize)
	if err := disk.ReadFull(img, p, int64(h.backingOffset)); err != nil {
		return "", fmt.Errorf("read backing file name: %w", err)
	}
	return string(p), nil
}
