package bundle

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"hash"
	"hash/crc32"
	"runtime"

	"github.com/klauspost/compress/flate"

	"chromogenic/disk"
)

const (
	// chunkSize is how much of the disk is compressed on its own, in bytes: what a read
	// at random costs at the least, against what the compressor forgets.
	chunkSize = 1 << 20
	// deflateLevel is the lowest of this library at which disks are no more than 5 % larger
	// than by zlib's 6, the default of gzip; it takes half of the time of that.
	deflateLevel = 7
)

// A compressor turns a disk into the deflate blocks of a tar stream, in stages: one
// goroutine reads and hashes, workers compress, and next gives their chunks in order.
type compressor struct {
	img     disk.Image
	head    []byte
	hashed  bool // the chunks of the disk, for an index
	workers int

	todo  chan *chunk // to the workers
	order chan *chunk // all of them
	free  chan *chunk
	zeros []byte // a chunk of them
	empty []byte // the same, compressed

	// What the reader has of the tar stream; the others look when it has ended.
	tar    hash.Hash
	crc    hash.Hash32
	length int64
}

// A chunk is a part of the tar stream that is compressed on its own: the header, a
// MiB of the disk, or what follows it.
type chunk struct {
	plain  []byte
	packed []byte
	digest [sha256.Size]byte // of a chunk of the disk, if hashed
	zero   bool              // all of it
	disk   bool              // it is of the disk
	end    int64             // bytes of the disk that are in it and before it
	done   chan struct{}     // gets one when it is compressed

	room []byte       // for plain
	out  bytes.Buffer // for packed
}

func newCompressor(img disk.Image, head []byte, hashed bool) (*compressor, error) {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	chunks := 2*workers + 2 // one is being read, and one written
	c := &compressor{
		img: img, head: head, hashed: hashed, workers: workers,
		todo: make(chan *chunk, chunks), order: make(chan *chunk, chunks), free: make(chan *chunk, chunks),
		zeros: make([]byte, chunkSize), tar: sha1.New(), crc: crc32.NewIEEE(),
	}
	for range chunks {
		c.free <- &chunk{done: make(chan struct{}, 1)}
	}
	w, err := flate.NewWriter(nil, deflateLevel)
	if err != nil {
		return nil, err
	}
	k := &chunk{plain: c.zeros}
	err = k.compress(w)
	c.empty = k.packed
	return c, err
}

// compress fills packed. What is flushed ends with a whole byte and needs nothing of
// what was before it (RFC 1951, 3.2.4: an empty stored block).
func (k *chunk) compress(w *flate.Writer) error {
	k.out.Reset()
	w.Reset(&k.out)
	if _, err := w.Write(k.plain); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	k.packed = k.out.Bytes()
	return nil
}

// read is the first stage.
func (c *compressor) read(ctx context.Context) error {
	if err := c.emit(ctx, func(k *chunk) error { k.plain = c.head; return nil }); err != nil {
		return err
	}
	size, hole := c.img.Size(), int64(0)
	for off := int64(0); off < size; off += chunkSize {
		n := min(chunkSize, size-off)
		err := c.emit(ctx, func(k *chunk) (err error) {
			k.disk, k.end = true, off+n
			if hole, err = c.holeEnd(off, n, hole); err != nil {
				return err
			}
			if off+n <= hole {
				k.plain, k.zero = c.zeros[:n], true
				return nil
			}
			if k.room == nil {
				k.room = make([]byte, chunkSize)
			}
			k.plain = k.room[:n]
			if err := readDisk(c.img, k.plain, off); err != nil {
				return err
			}
			k.zero = isZero(k.plain)
			return nil
		})
		if err != nil {
			return fmt.Errorf("at offset %d of the disk: %w", off, err)
		}
	}
	err := c.emit(ctx, func(k *chunk) error {
		k.plain, k.end = c.zeros[:tarTail(int64(len(c.head)), size)], size
		return nil
	})
	if err != nil {
		return err // and the stages behind never see an end
	}
	close(c.todo)
	close(c.order)
	return nil
}

// holeEnd is where the hole ends that begins at off or before. Last is where one did
// that is known already. Only of one that has all the n bytes the end is looked for.
func (c *compressor) holeEnd(off, n, last int64) (int64, error) {
	if off+n <= last {
		return last, nil
	}
	e, err := c.img.Extent(off, n)
	if err == nil && e.Zero && e.Len == n {
		e, err = c.img.Extent(off, c.img.Size()-off)
	}
	if err != nil || !e.Zero {
		return 0, err
	}
	return e.End(), nil
}

// readDisk reads the data and clears the holes.
func readDisk(img disk.Image, p []byte, off int64) error {
	for len(p) > 0 {
		e, err := img.Extent(off, int64(len(p)))
		if err != nil {
			return err
		}
		q := p[:e.Len]
		if e.Zero {
			clear(q)
		} else if err := disk.ReadFull(img, q, off); err != nil {
			return err
		}
		p, off = p[len(q):], e.End()
	}
	return nil
}

// emit sends the chunk that fill fills.
func (c *compressor) emit(ctx context.Context, fill func(*chunk) error) error {
	var k *chunk
	select {
	case k = <-c.free:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	k.zero, k.disk = false, false
	if err := fill(k); err != nil {
		return err
	}
	c.tar.Write(k.plain)
	c.crc.Write(k.plain)
	c.length += int64(len(k.plain))
	c.order <- k // both have room for all there are
	if k.zero && len(k.plain) == chunkSize {
		k.packed = c.empty
		k.done <- struct{}{}
		return nil
	}
	c.todo <- k
	return nil
}

// work is the second stage, in each of several goroutines.
func (c *compressor) work(ctx context.Context) error {
	w, err := flate.NewWriter(nil, deflateLevel)
	if err != nil {
		return err
	}
	for {
		var k *chunk
		select {
		case k = <-c.todo:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if k == nil {
			return nil
		}
		if err := k.compress(w); err != nil {
			return err
		}
		if c.hashed && k.disk && !k.zero {
			k.digest = sha256.Sum256(k.plain)
		}
		k.done <- struct{}{}
	}
}

// next is the next chunk in order, nil behind the last. It goes back with release.
func (c *compressor) next(ctx context.Context) (*chunk, error) {
	select {
	case k := <-c.order:
		if k == nil {
			return nil, nil
		}
		select {
		case <-k.done:
			return k, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *compressor) release(k *chunk) { c.free <- k }
