package disk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"runtime"
)

const (
	// digestChunk is the leaf of the tree digest, in bytes.
	digestChunk = 4 << 20
	// digestRead is how much of a chunk is read at once, in bytes.
	digestRead = 1 << 20
)

// DigestAlgorithm names the tree digest (see Sum) where digests of several
// algorithms meet.
const DigestAlgorithm = "tree"

// Sum is the tree digest of img, in hex: SHA-256 over the SHA-256s (32 bytes
// each) of the 4 MiB chunks of the image, which is padded with zeros to a
// multiple of SectorSize, followed by the padded size as 8 big-endian bytes.
// Holes count as zeros, so that all containers of a disk have one digest, and
// cost hardly anything.
//
// Chunks are hashed on all processors, with 1 MiB of memory for each. Progress,
// which may be nil, is called with the bytes that are done. When ctx ends, Sum
// returns at once.
func Sum(ctx context.Context, img Image, progress func(done int64)) (string, error) {
	begin := func(int64) *chunkHash { return newChunkHash() }
	return sumTree(ctx, newDigestTree(img), begin, progress)
}

// FlatSum is the plain SHA-256 of all bytes of img, in hex.
func FlatSum(ctx context.Context, img Image) (string, error) {
	h := sha256.New()
	buf := make([]byte, digestRead)
	for e, err := range Extents(img) {
		if err != nil {
			return "", fmt.Errorf("digest image: %w", err)
		}
		if e.Zero {
			clear(buf)
		}
		for off := e.Off; off < e.End(); {
			if err := context.Cause(ctx); err != nil {
				return "", err
			}
			p := buf[:min(digestRead, e.End()-off)]
			if !e.Zero {
				if err := ReadFull(img, p, off); err != nil {
					return "", fmt.Errorf("digest image: %w", err)
				}
			}
			h.Write(p)
			off += int64(len(p))
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// A digestTree is the shape of the digest of one image.
type digestTree struct {
	img    Image
	padded int64 // size in bytes, a multiple of SectorSize
	zero   [sha256.Size]byte
}

func newDigestTree(img Image) *digestTree {
	padded := (img.Size() + SectorSize - 1) / SectorSize * SectorSize
	return &digestTree{img: img, padded: padded, zero: sha256.Sum256(make([]byte, digestChunk))}
}

func (t *digestTree) chunks() int64 { return (t.padded + digestChunk - 1) / digestChunk }

// length is that of chunk c with its padding, in bytes.
func (t *digestTree) length(c int64) int64 { return min(digestChunk, t.padded-c*digestChunk) }

// A chunkHash is the digest of a chunk whose first bytes are hashed.
type chunkHash struct {
	hash.Hash
	done int64 // bytes
}

func newChunkHash() *chunkHash { return &chunkHash{Hash: sha256.New()} }

// add hashes the bytes that follow.
func (h *chunkHash) add(p []byte) {
	h.Write(p)
	h.done += int64(len(p))
}

// addZeros hashes n zeros.
func (h *chunkHash) addZeros(n int64) {
	if n == 0 {
		return
	}
	zeros := make([]byte, min(n, 4<<10))
	for n > 0 {
		p := zeros[:min(n, int64(len(zeros)))]
		h.add(p)
		n -= int64(len(p))
	}
}

func (h *chunkHash) sum() (s [sha256.Size]byte) {
	h.Sum(s[:0])
	return s
}

// finish hashes what h lacks of chunk c. Buf is room to read into.
func (t *digestTree) finish(ctx context.Context, c int64, h *chunkHash, buf []byte) error {
	for n := t.length(c); h.done < n; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		off := c*digestChunk + h.done
		if off >= t.img.Size() {
			h.addZeros(n - h.done)
			break
		}
		e, err := t.img.Extent(off, min(n-h.done, t.img.Size()-off))
		if err != nil {
			return fmt.Errorf("digest image: %w", err)
		}
		if e.Zero {
			h.addZeros(e.Len)
			continue
		}
		p := buf[:min(e.Len, int64(len(buf)))]
		if err := ReadFull(t.img, p, off); err != nil {
			return fmt.Errorf("digest image: %w", err)
		}
		h.add(p)
	}
	return nil
}

// A chunkRun is the digests of chunks that follow each other: of a single one,
// which is being hashed, or of many that are holes.
type chunkRun struct {
	last   int64 // chunk
	count  int64
	result chan chunkResult // nil for holes
}

type chunkResult struct {
	sum [sha256.Size]byte
	err error
}

// sumTree finishes the digest. For a chunk that is no hole, begin gives what is
// hashed of it already, maybe all.
func sumTree(ctx context.Context, t *digestTree, begin func(c int64) *chunkHash, progress func(int64)) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := runtime.GOMAXPROCS(0)
	// The runs come out in order; those in the channel are being hashed.
	runs := make(chan chunkRun, workers)
	go t.dispatch(ctx, begin, runs, workers)
	root := sha256.New()
	for next := int64(0); next < t.chunks(); {
		var run chunkRun
		r := chunkResult{sum: t.zero}
		select {
		case run = <-runs:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
		if run.result != nil {
			select {
			case r = <-run.result:
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
		}
		if r.err != nil {
			return "", r.err
		}
		for range run.count {
			root.Write(r.sum[:])
		}
		next = run.last + 1
		if progress != nil {
			progress(min(next*digestChunk, t.img.Size()))
		}
	}
	root.Write(binary.BigEndian.AppendUint64(nil, uint64(t.padded)))
	return hex.EncodeToString(root.Sum(nil)), nil
}

// dispatch sends the runs of all chunks in order and hashes those that are not
// holes, each in a goroutine that waits for one of the buffers.
func (t *digestTree) dispatch(ctx context.Context, begin func(int64) *chunkHash, runs chan<- chunkRun, workers int) {
	buffers := make(chan []byte, workers)
	for range workers {
		buffers <- make([]byte, digestRead)
	}
	for c := int64(0); c < t.chunks(); {
		run := chunkRun{count: t.holes(c)}
		var buf []byte
		if run.count == 0 {
			select {
			case buf = <-buffers:
			case <-ctx.Done():
				return
			}
			run.count, run.result = 1, make(chan chunkResult, 1)
			go func(c int64) {
				h := begin(c)
				err := t.finish(ctx, c, h, buf)
				buffers <- buf
				run.result <- chunkResult{h.sum(), err}
			}(c)
		}
		run.last = c + run.count - 1
		select {
		case runs <- run:
		case <-ctx.Done():
			return
		}
		c = run.last + 1
	}
}

// holes is the number of whole 4 MiB chunks from c on that are holes. An image
// that cannot tell has none; the error shows when the chunk is read.
func (t *digestTree) holes(c int64) int64 {
	off := c * digestChunk
	// One chunk first: to find the end of a run of data may take long.
	e, err := t.img.Extent(off, digestChunk)
	if err != nil || !e.Zero || e.Len < digestChunk {
		return 0
	}
	if e, err = t.img.Extent(off, t.img.Size()-off); err != nil || !e.Zero {
		return 1
	}
	return e.Len / digestChunk
}
