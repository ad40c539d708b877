package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"

	"chromogenic/disk"
)

// features is the field incompatible_features (spec, "Header"): who does not
// know one of its bits must not read the image.
type features uint64

const (
	featureDirty       features = 1 << 0 // refcounts may be wrong; they are not read
	featureCorrupt     features = 1 << 1 // not to be written; QEMU reads it, and so do we, checked
	featureDataFile    features = 1 << 2 // the data is in another file
	featureCompression features = 1 << 3 // compression_type is not zlib
	featureExtendedL2  features = 1 << 4 // clusters have subclusters

	featuresKnown = featureDirty | featureCorrupt | featureDataFile | featureCompression | featureExtendedL2
)

func (f features) has(g features) bool { return f&g != 0 }

// checkFeatures refuses what the bits say that cannot be read.
func (h *header) checkFeatures(img disk.Image) error {
	if unknown := h.incompatible &^ featuresKnown; unknown != 0 {
		bit := bits.TrailingZeros64(uint64(unknown))
		return unsupported("the image needs the unknown feature %s", h.featureName(img, bit))
	}
	if h.incompatible.has(featureDataFile) {
		return disk.Hint(malformed("the image keeps its data in an external data file, which is not opened"),
			"make one file of it with qemu-img convert -O qcow2")
	}
	if h.incompatible.has(featureExtendedL2) && h.clusterBits < minExtendedBits {
		return malformed("extended L2 entries need clusters of 16 KiB, these have %d bytes", h.clusterSize())
	}
	return nil
}

// Header extensions (spec, "Header extensions" and "Feature name table").
const (
	extensionEnd          = 0x00000000
	extensionFeatureNames = 0x6803f857

	featureNameSize = 48 // type, bit, 46 bytes of name
	extensionsLimit = 64 << 10
)

// featureName is how the image itself calls an incompatible feature, for the
// one who has to find out what the image is; without a name it is the bit. It
// looks at the first 64 KiB of extensions, and at nothing for a table that does
// not fit: the image is refused either way.
func (h *header) featureName(img disk.Image, bit int) string {
	unnamed := fmt.Sprintf("in bit %d", bit)
	end := min(h.clusterSize(), img.Size(), int64(h.length)+extensionsLimit)
	if h.backingOffset != 0 {
		end = min(end, int64(h.backingOffset))
	}
	if end <= int64(h.length) {
		return unnamed
	}
	p := make([]byte, end-int64(h.length))
	if err := disk.ReadFull(img, p, int64(h.length)); err != nil {
		return unnamed
	}
	for len(p) >= 8 {
		kind, size := binary.BigEndian.Uint32(p), int64(binary.BigEndian.Uint32(p[4:]))
		p = p[8:]
		if kind == extensionEnd || size > int64(len(p)) {
			break
		}
		if kind == extensionFeatureNames {
			for t := p[:size]; len(t) >= featureNameSize; t = t[featureNameSize:] {
				if t[0] == 0 && int(t[1]) == bit { // type 0 is "incompatible"
					return fmt.Sprintf("%q (bit %d)", bytes.TrimRight(t[2:featureNameSize], "\x00"), bit)
				}
			}
		}
		p = p[min((size+7)/8*8, int64(len(p))):] // padded to 8 bytes
	}
	return unnamed
}
