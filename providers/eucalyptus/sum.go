package eucalyptus

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"sync"

	"chromogenic/disk"
)

// A summing image makes the digest of disk.Sum of what is read of it: by one reader, from the
// first byte to the last, who passes over nothing but holes.
type summing struct {
	disk.Image

	mu    sync.Mutex
	at    int64 // what is hashed
	chunk hash.Hash
	all   hash.Hash
	none  []byte // the digest of a whole chunk of zeros, when it was needed
	err   error
}

// sumChunk is the chunk of disk.Sum, in bytes.
const sumChunk = 4 << 20

func newSumming(img disk.Image) *summing {
	return &summing{Image: img, chunk: sha256.New(), all: sha256.New()}
}

// ReadAt reads, and hashes what was read.
func (s *summing) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Image.ReadAt(p, off)
	s.mu.Lock()
	defer s.mu.Unlock()
	if off < s.at {
		s.err = disk.Errorf(disk.Other, "sum: offset %d is read after %d", off, s.at)
	}
	s.hole(off)
	s.add(p[:n])
	return n, err
}

func (s *summing) hole(to int64) {
	var none [64 << 10]byte
	for s.at < to {
		left := sumChunk - s.at%sumChunk
		if n := min(left, to-s.at); left == sumChunk && n == left {
			s.all.Write(s.zero(none[:]))
			s.at += n
		} else {
			s.add(none[:min(n, int64(len(none)))])
		}
	}
}

// zero is the digest of a whole chunk of zeros.
func (s *summing) zero(none []byte) []byte {
	if s.none == nil {
		h := sha256.New()
		for n := 0; n < sumChunk; n += len(none) {
			h.Write(none)
		}
		s.none = h.Sum(nil)
	}
	return s.none
}

func (s *summing) add(p []byte) {
	for len(p) > 0 {
		n := min(int64(len(p)), sumChunk-s.at%sumChunk)
		s.chunk.Write(p[:n])
		s.at += n
		p = p[n:]
		if s.at%sumChunk == 0 {
			s.all.Write(s.chunk.Sum(nil))
			s.chunk.Reset()
		}
	}
}

// sum is the digest, when all was read.
func (s *summing) sum() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return "", s.err
	}
	size := s.Size()
	if s.at > size {
		return "", disk.Errorf(disk.Other, "sum: %d bytes were read of %d", s.at, size)
	}
	padded := (size + disk.SectorSize - 1) / disk.SectorSize * disk.SectorSize
	s.hole(padded)
	if s.at%sumChunk != 0 {
		s.all.Write(s.chunk.Sum(nil))
	}
	s.all.Write(binary.BigEndian.AppendUint64(nil, uint64(padded)))
	return hex.EncodeToString(s.all.Sum(nil)), nil
}
