package pipeline

import (
	"hash/crc32"

	"chromogenic/disk"
)

const (
	// sumBlock is what has one checksum, in bytes.
	sumBlock = 64 << 10
	// sumRegion is how many blocks are kept together: 64 MiB of a file for 8 KiB.
	sumRegion = 1024
)

var (
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
	zeroBlockSum = crc32.Checksum(make([]byte, sumBlock), castagnoli)
)

// spoolSums are checksums of what was written into a spool, so that a disk which
// loses or changes it is found out when it is read back. They are of the blocks that
// were written from their beginning on, in order, as all copying programs write; of
// others nothing is known. The Spool guards them.
type spoolSums struct {
	regions map[int64]*[sumRegion]blockSum
}

// A blockSum is the checksum of the first done bytes of a block; 0 is nothing known.
type blockSum struct {
	sum  uint32
	done uint32
}

// at is the sum of a block; nil where there is none and none is to be made.
func (s *spoolSums) at(block int64, make bool) *blockSum {
	r := s.regions[block/sumRegion]
	if r == nil {
		if !make {
			return nil
		}
		if s.regions == nil {
			s.regions = map[int64]*[sumRegion]blockSum{}
		}
		r = new([sumRegion]blockSum)
		s.regions[block/sumRegion] = r
	}
	return &r[block%sumRegion]
}

// wrote notes the bytes p, which were written at off.
func (s *spoolSums) wrote(p []byte, off int64) {
	for len(p) > 0 {
		in := off % sumBlock
		n := min(int64(len(p)), sumBlock-in)
		b := s.at(off/sumBlock, true)
		switch {
		case in == 0 && n >= int64(b.done):
			*b = blockSum{crc32.Checksum(p[:n], castagnoli), uint32(n)}
		case in > 0 && in == int64(b.done):
			*b = blockSum{crc32.Update(b.sum, castagnoli, p[:n]), uint32(in + n)}
		case in < int64(b.done): // over what is there
			*b = blockSum{}
		}
		p, off = p[n:], off+n
	}
}

// forget knows nothing any longer of the blocks that [from, to) touches.
func (s *spoolSums) forget(from, to int64) {
	for block := from / sumBlock; block*sumBlock < to; block++ {
		b := s.at(block, false)
		if b == nil {
			block += sumRegion - 1 - block%sumRegion
			continue
		}
		*b = blockSum{}
	}
}

// data is where in [off, off+n) the first block begins of which bytes are known that
// are not all zero; off+n if there is none.
func (s *spoolSums) data(off, n int64) int64 {
	for block := off / sumBlock; block*sumBlock < off+n; block++ {
		b := s.at(block, false)
		if b == nil {
			block += sumRegion - 1 - block%sumRegion
			continue
		}
		if b.done > 0 && b.sum != zeroSum(b.done) {
			return max(off, block*sumBlock)
		}
	}
	return off + n
}

// zeroSum is the checksum of n zeros.
func zeroSum(n uint32) uint32 {
	if n == sumBlock {
		return zeroBlockSum
	}
	return crc32.Checksum(make([]byte, n), castagnoli)
}

// check compares p, which was read at off, with what was written there, as far as
// that is known.
func (s *spoolSums) check(p []byte, off int64) error {
	end := off + int64(len(p))
	for block := (off + sumBlock - 1) / sumBlock; block*sumBlock < end; block++ {
		b := s.at(block, false)
		from := block * sumBlock
		if b == nil || b.done == 0 || from+int64(b.done) > end {
			continue
		}
		if crc32.Checksum(p[from-off:from-off+int64(b.done)], castagnoli) != b.sum {
			err := disk.Errorf(disk.Malformed, "read spool at offset %d: it gives other bytes than were written", from)
			return disk.Hint(err, "the disk of the state directory, or the memory of this machine, changes what it keeps: check both")
		}
	}
	return nil
}
