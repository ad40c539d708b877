package qcow2

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
)

// Places in the file of craft, whose clusters are of 512 bytes.
const (
	craftCluster = 512
	craftRefs    = 1 * craftCluster
	craftL1      = 2 * craftCluster
	craftL2      = 3 * craftCluster
	craftData    = 4 * craftCluster
	craftEnd     = 6 * craftCluster
)

func put32(p []byte, off int, v uint32) { binary.BigEndian.PutUint32(p[off:], v) }
func put64(p []byte, off int, v uint64) { binary.BigEndian.PutUint64(p[off:], v) }

// craft builds the smallest proper image: a disk of 4 clusters, the first two
// with data, and lets the edits spoil it.
func craft(edits ...func(p []byte)) []byte {
	p := make([]byte, craftEnd)
	copy(p, magic)
	put32(p, 4, 3)
	put32(p, 20, 9)
	put64(p, 24, 4*craftCluster)
	put32(p, 36, 1)
	put64(p, 40, craftL1)
	put64(p, 48, craftRefs)
	put32(p, 56, 1)
	put32(p, 96, 4)
	put32(p, 100, 112)
	put64(p, craftL1, craftL2|bitCopied)
	put64(p, craftL2, craftData|bitCopied)
	put64(p, craftL2+8, (craftData+craftCluster)|bitCopied)
	for i := craftData; i < craftEnd; i++ {
		p[i] = byte(i)
	}
	for _, edit := range edits {
		edit(p)
	}
	return p
}

// set32 and set64 are edits of one field.
func set32(off int, v uint32) func([]byte) { return func(p []byte) { put32(p, off, v) } }
func set64(off int, v uint64) func([]byte) { return func(p []byte) { put64(p, off, v) } }

// packedEntry is an L2 entry of craft for n sectors of compressed data at off
// (spec, "Compressed Clusters Descriptor", with cluster_bits 9: x is 61).
func packedEntry(off, sectors int) uint64 {
	return bitCompressed | uint64(sectors-1)<<61 | uint64(off)
}

// pack puts raw deflate of n bytes where the data begins and makes the first
// cluster of it.
func pack(n int) func([]byte) {
	return func(p []byte) {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, 9)
		w.Write(bytes.Repeat([]byte("text"), n/4+1)[:n])
		w.Close()
		clear(p[craftData:])
		copy(p[craftData:], b.Bytes())
		put64(p, craftL2, packedEntry(craftData, 1))
	}
}

// craftExtended builds an image with extended L2 entries, clusters of 16 KiB and
// one cluster, whose subclusters bits tells.
func craftExtended(entry, bitmap uint64) []byte {
	const cluster = 16 << 10
	p := make([]byte, 5*cluster)
	copy(p, craft(set32(20, 14), set64(24, cluster), set64(40, 2*cluster), set64(48, cluster), set64(72, uint64(featureExtendedL2))))
	clear(p[512:])
	put64(p, 2*cluster, 3*cluster)
	put64(p, 3*cluster, entry)
	put64(p, 3*cluster+8, bitmap)
	for i := 4 * cluster; i < len(p); i++ {
		p[i] = byte(i >> 4)
	}
	return p
}
