package bundle

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"chromogenic/providers/internal/crypt"
)

// The index of a bundle, all numbers big-endian:
//
//	offset  length
//	     0       8  "CHRINDEX"
//	     8       4  version, 1
//	    12       4  bytes of a chunk of the disk; the last may have fewer
//	    16       8  bytes of the disk
//	    24       8  bytes of all parts
//	    32       8  bytes of a part; the last may have fewer
//	    40      20  SHA-1 of the tar stream, as the manifest has it
//	    60       8  bytes of the gzip stream before the first chunk
//	    68      36  for every chunk: bytes of its deflate blocks, the highest bit set
//	                where the chunk is zeros alone; SHA-256 of the chunk, 0 for zeros
//	  then      32  HMAC-SHA-256 of all before it
//
// The blocks of a chunk begin and end with a whole byte, need nothing of what is
// before them, and follow those of the chunk before. The key of the HMAC is the
// SHA-256 of "chromogenic index 1", key and initialization vector of the bundle, so
// that only those who can read the bundle can say what is in it.
const (
	indexMagic   = "CHRINDEX"
	indexVersion = 1
	indexHead    = 68
	indexEntry   = 4 + sha256.Size
	zeroBit      = 1 << 31
	// maxPacked bounds the blocks of a chunk: deflate stores what it cannot compress,
	// with 5 bytes for 65535 (RFC 1951, 3.2.4), and the flush adds some more.
	maxPacked = chunkSize + chunkSize/1000 + 100
)

// IndexSize is how many bytes the index of a disk of size bytes has.
func IndexSize(size int64) int64 {
	return indexHead + chunks(size)*indexEntry + sha256.Size
}

// chunks is how many chunks a disk of size bytes has.
func chunks(size int64) int64 { return (size + chunkSize - 1) / chunkSize }

// An indexWriter collects an index while its bundle is made.
type indexWriter struct {
	first int64 // -1 for not yet known
	b     []byte
}

func newIndexWriter(size int64) *indexWriter {
	return &indexWriter{first: -1, b: make([]byte, indexHead, IndexSize(size))}
}

// add takes up the next chunk, whose blocks begin at an offset of the gzip stream.
func (w *indexWriter) add(off int64, k *chunk) {
	if w.first < 0 {
		w.first = off
	}
	n := uint32(len(k.packed))
	digest := k.digest
	if k.zero {
		n |= zeroBit
		clear(digest[:])
	}
	w.b = binary.BigEndian.AppendUint32(w.b, n)
	w.b = append(w.b, digest[:]...)
}

// finish is the index of a bundle that is made.
func (w *indexWriter) finish(m *Manifest, s crypt.Secret) []byte {
	copy(w.b, indexPrefix(m))
	binary.BigEndian.PutUint64(w.b[indexHead-8:], uint64(w.first))
	return append(w.b, indexSum(w.b, s)...)
}

// indexPrefix is what an index begins with, up to what only its writer knows.
func indexPrefix(m *Manifest) []byte {
	b := make([]byte, 0, indexHead)
	b = append(b, indexMagic...)
	b = binary.BigEndian.AppendUint32(b, indexVersion)
	b = binary.BigEndian.AppendUint32(b, chunkSize)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(m.BundledSize))
	b = binary.BigEndian.AppendUint64(b, PartSize)
	return append(b, m.Digest[:]...)
}

func indexSum(b []byte, s crypt.Secret) []byte {
	key := sha256.New()
	key.Write([]byte("chromogenic index 1"))
	key.Write(s.Key)
	key.Write(s.IV)
	mac := hmac.New(sha256.New, key.Sum(nil))
	mac.Write(b)
	return mac.Sum(nil)
}

// An index is a map from the chunks of a disk to their places in the gzip stream.
type index struct {
	entries []byte  // as they stand in the file
	offs    []int64 // of the blocks of each chunk in the gzip stream, and the end of the last
}

// parseIndex reads an index, and checks that it is of this bundle and was made by
// somebody who has its key. Anything else is Malformed.
func parseIndex(b []byte, m *Manifest, s crypt.Secret) (*index, error) {
	prefix := indexPrefix(m)
	end := len(b) - sha256.Size
	switch {
	case int64(len(b)) != IndexSize(m.Size):
		return nil, malformed("%d bytes, want %d for a disk of %d", len(b), IndexSize(m.Size), m.Size)
	case !bytes.HasPrefix(b, []byte(indexMagic)):
		return nil, malformed("it is no index")
	case !bytes.HasPrefix(b, prefix):
		at := 0
		for b[at] == prefix[at] {
			at++
		}
		return nil, malformed("byte %d is not what the manifest says: it is the index of another bundle", at)
	case !hmac.Equal(b[end:], indexSum(b[:end], s)):
		return nil, malformed("it is not authentic: it was changed, or made with another key")
	}
	x := &index{entries: b[indexHead:end], offs: make([]int64, 0, chunks(m.Size)+1)}
	first := binary.BigEndian.Uint64(b[indexHead-8:])
	if first > maxSize {
		return nil, malformed("the first chunk lies at byte %d", first)
	}
	off := int64(first)
	x.offs = append(x.offs, off)
	for p := x.entries; len(p) > 0; p = p[indexEntry:] {
		n := int64(binary.BigEndian.Uint32(p) &^ zeroBit)
		if n < 1 || n > maxPacked {
			return nil, malformed("chunk %d has %d bytes", len(x.offs)-1, n)
		}
		off += n
		x.offs = append(x.offs, off)
	}
	if off > m.BundledSize {
		return nil, malformed("the last chunk ends at byte %d, and all parts at %d", off, m.BundledSize)
	}
	return x, nil
}

// zero tells whether chunk i is zeros alone.
func (x *index) zero(i int64) bool { return x.entries[i*indexEntry]&(zeroBit>>24) != 0 }

// digest is the SHA-256 of chunk i.
func (x *index) digest(i int64) [sha256.Size]byte {
	return [sha256.Size]byte(x.entries[i*indexEntry+4 : (i+1)*indexEntry])
}

// checkParts tells whether the parts are cut as Bundle does, for otherwise the index
// does not say where a byte is.
func checkParts(m *Manifest) error {
	if n := (m.BundledSize + PartSize - 1) / PartSize; int64(len(m.Parts)) != n {
		return malformed("%d parts, want %d for %d bytes", len(m.Parts), n, m.BundledSize)
	}
	return nil
}
