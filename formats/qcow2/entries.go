package qcow2

import "math/bits"

// offsetMask is bits 9 to 55, the offset in an L1 entry and in a standard
// cluster descriptor (spec, "Cluster mapping").
const offsetMask = 0x00ff_ffff_ffff_fe00

// sectorSize is the unit, in bytes, in which the length of compressed data is
// kept (spec, "Compressed Clusters Descriptor").
const sectorSize = 512

// An l1Entry is a word of the L1 table.
type l1Entry uint64

// table is the offset in the file of the L2 table, 0 for none. Bit 63 speaks of
// refcounts, and the reserved bits are ignored as QEMU does.
func (e l1Entry) table() int64 { return int64(e & offsetMask) }

// An l2Entry is the cluster word of an L2 table; with extended L2 entries it is
// the first of two.
type l2Entry uint64

const (
	bitZero       = 1 << 0  // reads as zeros; not with extended L2 entries
	bitCompressed = 1 << 62 // the rest is a compressed cluster descriptor
)

func (e l2Entry) compressed() bool { return e&bitCompressed != 0 }

// zero is the flag of a standard cluster without subclusters.
func (e l2Entry) zero() bool { return e&bitZero != 0 }

// host is the offset in the file of a standard cluster, 0 for none.
func (e l2Entry) host() int64 { return int64(e & offsetMask) }

// data is where the bytes of a compressed cluster are: n bytes at off. They
// begin anywhere and end with a sector, or with the file if that is sooner.
func (e l2Entry) data(clusterBits uint32) (off, n int64) {
	x := 62 - (clusterBits - 8) // the spec's x: the width of the offset
	off = int64(e & (1<<x - 1))
	more := int64(e >> x & (1<<(clusterBits-8) - 1)) // sectors beyond the first
	return off, (more+1)*sectorSize - off%sectorSize
}

// subclustersPerCluster is that of extended L2 entries (spec, "Extended L2
// Entries").
const subclustersPerCluster = 32

// subclusters is the second word of an extended L2 entry: 32 bits that say
// which subclusters have data, then 32 that say which read as zeros. It means
// nothing for a compressed cluster.
type subclusters uint64

func (s subclusters) allocated(i int64) bool { return s>>i&1 != 0 }

func (s subclusters) zero(i int64) bool { return s>>(32+i)&1 != 0 }

// contradicts tells whether a subcluster has data and reads as zeros at once.
func (s subclusters) contradicts() bool { return uint32(s)&uint32(s>>32) != 0 }

// lastAllocated is the last subcluster that has data, -1 for none.
func (s subclusters) lastAllocated() int64 { return int64(bits.Len32(uint32(s))) - 1 }
