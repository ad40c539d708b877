package layout

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"

	"golang.org/x/sync/errgroup"

	"chromogenic/disk"
)

// BlockSize is the granularity of a Map, in bytes. It is the cluster of the
// qcow2 files and the grain of the VMDK files that are laid out here.
const BlockSize = 64 << 10

// MaxSize is the largest disk that has a Map, in bytes: 64 TiB, as the largest
// VHDX. Its map takes 136 MiB.
const MaxSize = 64 << 40

// blocksPerRank is how many blocks share one prefix count: 512 blocks are 32 MiB,
// exactly one VMDK grain table, and 16 of them are one qcow2 L2 table.
const blocksPerRank = 512

// wordsPerRank is blocksPerRank in words of the bitmap.
const wordsPerRank = blocksPerRank / 64

// A Map says which 64 KiB blocks of a disk hold data. It answers rank and
// select in O(1) and O(log n), so a layout computes every offset from it and
// stores none. It takes 2.1 MiB per TiB, is immutable, and safe for concurrent
// use.
type Map struct {
	size  int64    // bytes of the disk
	words []uint64 // bit b%64 of word b/64 is block b
	ranks []uint32 // ranks[i]: set bits before block i*blocksPerRank; one more than groups, the last is the total
}

// What MapOf asks of an image at the same time, and for how much of it, in bytes. The
// tables of an image in a cloud take a round trip each. A section is whole words of the
// bitmap, so that each is written by one goroutine alone.
const (
	mapParallel = 8
	mapSection  = 1 << 30
)

// MapOf returns the allocation map of img: a block is set where any byte of it
// lies in an extent that is not Zero. An image that carries a map (see Frozen)
// gives that one.
func MapOf(img disk.Image) (*Map, error) {
	if f, ok := img.(*frozen); ok {
		return f.m, nil
	}
	if d, ok := img.(disk.Disk); ok {
		return MapOf(d.Image)
	}
	if img.Size() > MaxSize {
		return nil, disk.Errorf(disk.TooLarge, "map image: %d bytes, at most %d", img.Size(), int64(MaxSize))
	}
	m := newMap(img.Size())
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(mapParallel)
	for off := int64(0); off < m.size && ctx.Err() == nil; off += mapSection {
		g.Go(func() error { return m.ask(ctx, img, off, min(off+mapSection, m.size)) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("map image: %w", err)
	}
	m.count()
	return m, nil
}

// ask marks what img says of [off, end).
func (m *Map) ask(ctx context.Context, img disk.Image, off, end int64) error {
	for off < end && ctx.Err() == nil {
		e, err := img.Extent(off, end-off)
		if err != nil {
			return err
		}
		if !e.Zero {
			m.set(e.Off/BlockSize, (e.End()+BlockSize-1)/BlockSize)
		}
		off = e.End()
	}
	return nil
}

// FullMap returns the map of a disk of size bytes, at most MaxSize, whose every
// block is set.
func FullMap(size int64) *Map {
	m := newMap(size)
	m.set(0, m.Blocks())
	m.count()
	return m
}

func newMap(size int64) *Map {
	n := (size + BlockSize - 1) / BlockSize
	return &Map{size: size, words: make([]uint64, (n+63)/64)}
}

// set marks the blocks [from, to).
func (m *Map) set(from, to int64) {
	for b := from; b < to; {
		if b%64 == 0 && to-b >= 64 {
			m.words[b/64] = ^uint64(0)
			b += 64
			continue
		}
		m.words[b/64] |= 1 << (b % 64)
		b++
	}
}

// count fills the prefix counts.
func (m *Map) count() {
	groups := (len(m.words) + wordsPerRank - 1) / wordsPerRank
	m.ranks = make([]uint32, groups+1)
	var sum uint32
	for i, w := range m.words {
		if i%wordsPerRank == 0 {
			m.ranks[i/wordsPerRank] = sum
		}
		sum += uint32(bits.OnesCount64(w))
	}
	m.ranks[groups] = sum
}

// Size is the length of the mapped disk in bytes.
func (m *Map) Size() int64 { return m.size }

// Blocks is the number of blocks of the disk, the last one maybe partial.
func (m *Map) Blocks() int64 { return (m.size + BlockSize - 1) / BlockSize }

// Allocated is the number of blocks that are set.
func (m *Map) Allocated() int64 { return int64(m.ranks[len(m.ranks)-1]) }

// Get tells whether block b is set; b must be in [0, Blocks).
func (m *Map) Get(b int64) bool { return m.words[b/64]>>(b%64)&1 != 0 }

// Rank is the number of set blocks before block b; b is in [0, Blocks].
func (m *Map) Rank(b int64) int64 {
	g := b / blocksPerRank
	r := int64(m.ranks[g])
	for w := g * wordsPerRank; w < b/64; w++ {
		r += int64(bits.OnesCount64(m.words[w]))
	}
	if b%64 != 0 {
		r += int64(bits.OnesCount64(m.words[b/64] & (1<<(b%64) - 1)))
	}
	return r
}

// Select is the block that is the k-th set one, counted from 0; k is in
// [0, Allocated).
func (m *Map) Select(k int64) int64 {
	lo, hi := 0, len(m.ranks)-1 // ranks[lo] <= k < ranks[hi]
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; int64(m.ranks[mid]) <= k {
			lo = mid
		} else {
			hi = mid
		}
	}
	left := int(k - int64(m.ranks[lo]))
	for w := lo * wordsPerRank; ; w++ {
		n := bits.OnesCount64(m.words[w])
		if left < n {
			return int64(w)*64 + int64(selectWord(m.words[w], left))
		}
		left -= n
	}
}

// selectWord is the position of the k-th set bit of w.
func selectWord(w uint64, k int) int {
	for ; k > 0; k-- {
		w &= w - 1
	}
	return bits.TrailingZeros64(w)
}

// Next is the first block at or behind b whose bit is v, or Blocks.
func (m *Map) Next(b int64, v bool) int64 {
	for n := m.Blocks(); b < n; {
		w := m.words[b/64]
		if !v {
			w = ^w
		}
		if w >>= b % 64; w != 0 {
			return min(b+int64(bits.TrailingZeros64(w)), n)
		}
		b = (b/64 + 1) * 64
	}
	return m.Blocks()
}

// mapVersion begins the encoding of a Map.
const mapVersion = 1

// MarshalBinary encodes the map for the state directory: version byte, size as
// little-endian 64 bits, then the runs of set blocks as pairs of uvarints (gap,
// length). It takes what the runs take: a few bytes each.
func (m *Map) MarshalBinary() ([]byte, error) {
	p := binary.LittleEndian.AppendUint64([]byte{mapVersion}, uint64(m.size))
	for b, n := int64(0), m.Blocks(); ; {
		from := m.Next(b, true)
		if from == n {
			return p, nil
		}
		to := m.Next(from, false)
		p = binary.AppendUvarint(p, uint64(from-b))
		p = binary.AppendUvarint(p, uint64(to-from))
		b = to
	}
}

// UnmarshalMap decodes what MarshalBinary wrote.
func UnmarshalMap(p []byte) (*Map, error) {
	if len(p) < 9 || p[0] != mapVersion {
		return nil, disk.Errorf(disk.Malformed, "decode allocation map: not a map of version %d", mapVersion)
	}
	size := int64(binary.LittleEndian.Uint64(p[1:]))
	if size < 0 || size > MaxSize {
		return nil, disk.Errorf(disk.Malformed, "decode allocation map: size %d", size)
	}
	m := newMap(size)
	b, n := int64(0), m.Blocks()
	for p = p[9:]; len(p) > 0; {
		var run [2]int64
		for i := range run {
			v, w := binary.Uvarint(p)
			if w <= 0 || v > uint64(n-b) {
				return nil, disk.Errorf(disk.Malformed, "decode allocation map: run behind block %d", b)
			}
			run[i], p = int64(v), p[w:]
			b += run[i]
		}
		m.set(b-run[1], b)
	}
	m.count()
	return m, nil
}

// Extent is the run of the map that begins at off, as disk.Image's Extent.
func (m *Map) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, m.size)
	if err != nil {
		return disk.Extent{}, err
	}
	b := off / BlockSize
	data := m.Get(b)
	end := min(m.Next(b, !data)*BlockSize, off+n)
	return disk.Extent{Off: off, Len: end - off, Zero: !data}, nil
}

// Frozen returns img with its extents taken from m, for ever. A layout of it is
// the same on every machine that holds the same map. Reads go to img.
func Frozen(img disk.Image, m *Map) disk.Image { return &frozen{Image: img, m: m} }

type frozen struct {
	disk.Image
	m *Map
}

func (f *frozen) Size() int64 { return f.m.size }

func (f *frozen) Extent(off, n int64) (disk.Extent, error) { return f.m.Extent(off, n) }

// Verify is that of the image.
func (f *frozen) Verify(ctx context.Context) error { return disk.Verify(ctx, f.Image) }

// Allocated is the mapped blocks in bytes, at most the size.
func (f *frozen) Allocated() int64 { return f.m.Bytes() }

// Bytes is the number of bytes in set blocks; a partial last block counts only
// what is there.
func (m *Map) Bytes() int64 {
	n := m.Allocated() * BlockSize
	if last := m.Blocks() - 1; last >= 0 && m.Get(last) {
		n -= m.Blocks()*BlockSize - m.size
	}
	return n
}
