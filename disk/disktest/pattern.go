// Package disktest holds what the tests of all that is a disk.Image share: a
// pattern disk on which every misplaced byte is visible, the conformance suite,
// and an image that fails as it is told to.
package disktest

import (
	"encoding/binary"
	"io"
	"sort"
	"sync/atomic"

	"chromogenic/disk"
)

// BlockSize is the block of Pattern, in bytes.
const BlockSize = 64 << 10

// Pattern returns an image of size bytes in which every 8 bytes hold their own
// offset, big-endian, so that a byte read from the wrong place is seen. Data
// says which 64 KiB blocks are data; the others are holes. Nil is all data. The
// last block may be partial. It takes no memory, whatever its size.
func Pattern(size int64, data func(block int64) bool) disk.Image {
	if data == nil {
		return Runs(size, disk.Extent{Len: size})
	}
	return &pattern{size: size, run: func(off, n int64) (end int64, zero bool) {
		b := off / BlockSize
		is := data(b)
		for b++; b*BlockSize < off+n && data(b) == is; {
			b++
		}
		return b * BlockSize, !is
	}}
}

// Runs is a Pattern whose data lies at any offsets: the extents must ascend and
// not overlap; their Zero is not looked at. All else is a hole.
func Runs(size int64, data ...disk.Extent) disk.Image {
	var runs []disk.Extent // without the seams and the empty ones
	for _, e := range data {
		if n := len(runs); n > 0 && runs[n-1].End() == e.Off {
			runs[n-1].Len += e.Len
		} else if e.Len > 0 {
			runs = append(runs, e)
		}
	}
	return &pattern{size: size, run: func(off, n int64) (end int64, zero bool) {
		i := sort.Search(len(runs), func(i int) bool { return runs[i].End() > off })
		switch {
		case i == len(runs):
			return off + n, true
		case off < runs[i].Off:
			return runs[i].Off, true
		}
		return runs[i].End(), false
	}}
}

type pattern struct {
	size   int64
	run    func(off, n int64) (end int64, zero bool) // may end behind off+n
	closed atomic.Bool
}

func (p *pattern) Size() int64 { return p.size }

func (p *pattern) Close() error {
	p.closed.Store(true)
	return nil
}

func (p *pattern) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, p.size)
	if err != nil {
		return disk.Extent{}, err
	}
	end, zero := p.run(off, n)
	return disk.Extent{Off: off, Len: min(end-off, n), Zero: zero}, nil
}

func (p *pattern) ReadAt(q []byte, off int64) (int, error) {
	if p.closed.Load() {
		return 0, disk.ErrClosed
	}
	q, eof := disk.ClipRead(q, off, p.size)
	if len(q) == 0 {
		return 0, eof
	}
	for done := 0; done < len(q); {
		e, err := p.Extent(off+int64(done), int64(len(q)-done))
		if err != nil {
			return done, err
		}
		part := q[done : done+int(e.Len)]
		if e.Zero {
			clear(part)
		} else {
			Fill(part, e.Off)
		}
		done += len(part)
	}
	return len(q), eof
}

// Fill writes the pattern of offset off into p: what a Pattern holds there when
// it is data.
func Fill(p []byte, off int64) {
	var word [8]byte
	for len(p) > 0 {
		in := off % 8
		if in == 0 && len(p) >= 8 {
			binary.BigEndian.PutUint64(p, uint64(off))
			p, off = p[8:], off+8
			continue
		}
		binary.BigEndian.PutUint64(word[:], uint64(off-in))
		n := copy(p, word[in:])
		p, off = p[n:], off+int64(n)
	}
}

// Read is all of img, which a test knows to be small.
func Read(img disk.Image) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(img, 0, img.Size()))
}
