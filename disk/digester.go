package disk

import (
	"context"
	"crypto/sha256"
	"sync"
)

// maxPartial is how many chunks a Digester keeps half hashed. Readers are few
// and go forwards, so more are the traces of random reads.
const maxPartial = 64

// A Digester is an image that hashes what is read through it, so that a copy
// and the tree digest of its source cost one pass. A chunk counts as hashed when
// it is read from its start to its end in order, in pieces of any size; holes
// need not be read. Other reads are as correct, and their chunks are read again
// by Sum.
//
// It is safe for concurrent use and remembers 32 bytes for each chunk.
type Digester struct {
	Image
	tree *digestTree

	mu      sync.Mutex
	sums    map[int64][sha256.Size]byte // of the chunks that are done
	partial map[int64]*partialChunk
}

// A partialChunk is a chunk that is being read.
type partialChunk struct {
	mu   sync.Mutex
	hash *chunkHash // nil once it is done or taken by Sum
}

// NewDigester returns img with its reads hashed. It owns img as far as Close
// goes.
func NewDigester(img Image) *Digester {
	return &Digester{
		Image: img, tree: newDigestTree(img),
		sums: map[int64][sha256.Size]byte{}, partial: map[int64]*partialChunk{},
	}
}

var (
	_ Allocator = (*Digester)(nil)
	_ Verifier  = (*Digester)(nil)
)

// Allocated is that of the image; where it cannot tell, its size.
func (d *Digester) Allocated() int64 {
	n, err := Allocated(d.Image)
	if err != nil {
		return d.Size()
	}
	return n
}

// Verify is that of the image; it reads past the hashing.
func (d *Digester) Verify(ctx context.Context) error { return Verify(ctx, d.Image) }

// ReadAt reads the image.
func (d *Digester) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Image.ReadAt(p, off)
	for q := p[:max(n, 0)]; len(q) > 0; {
		c, in := off/digestChunk, off%digestChunk
		here := min(int64(len(q)), digestChunk-in)
		d.feed(c, in, q[:here])
		q, off = q[here:], off+here
	}
	return n, err
}

// Sum is the tree digest, as the function Sum gives it. It reads the chunks
// that were not read before. A second call may read some of them again.
func (d *Digester) Sum(ctx context.Context) (string, error) {
	return sumTree(ctx, d.tree, d.take, nil)
}

// take is what is known of chunk c.
func (d *Digester) take(c int64) *chunkHash {
	d.mu.Lock()
	part := d.partial[c]
	sum, done := d.sums[c]
	d.mu.Unlock()
	if done {
		return &chunkHash{Hash: fixedHash{sum}, done: d.tree.length(c)}
	}
	if part == nil {
		return newChunkHash()
	}
	part.mu.Lock()
	defer part.mu.Unlock()
	h := part.hash
	part.hash = nil
	if h == nil {
		return newChunkHash()
	}
	return h
}

// feed hashes p, which lies at in of chunk c, if all before it is hashed.
func (d *Digester) feed(c, in int64, p []byte) {
	part := d.open(c, in)
	if part == nil {
		return
	}
	part.mu.Lock()
	defer part.mu.Unlock()
	h := part.hash
	if h == nil || in > h.done && !d.hole(c, h.done, in) {
		return
	}
	h.addZeros(max(in-h.done, 0))
	if end := in + int64(len(p)); end > h.done {
		h.add(p[h.done-in:])
	}
	n := d.tree.length(c)
	if h.done < n && d.hole(c, h.done, n) {
		h.addZeros(n - h.done)
	}
	if h.done == n {
		part.hash = nil
		d.mu.Lock()
		defer d.mu.Unlock()
		d.sums[c] = h.sum()
		delete(d.partial, c)
	}
}

// open is the state of chunk c, made new where a read at in can be its first;
// nil where the read is of no use.
func (d *Digester) open(c, in int64) *partialChunk {
	d.mu.Lock()
	part := d.partial[c]
	_, done := d.sums[c]
	d.mu.Unlock()
	if done || part != nil {
		return part
	}
	if in > 0 && !d.hole(c, 0, in) {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if part := d.partial[c]; part != nil {
		return part
	}
	if len(d.partial) >= maxPartial {
		for other := range d.partial { // any; its chunk is read again by Sum
			delete(d.partial, other)
			break
		}
	}
	part = &partialChunk{hash: newChunkHash()}
	d.partial[c] = part
	return part
}

// hole tells whether [from, to) of chunk c is a hole or padding.
func (d *Digester) hole(c, from, to int64) bool {
	base := c * digestChunk
	if base+from >= d.Size() {
		return true
	}
	n := min(to, d.Size()-base) - from
	e, err := d.Extent(base+from, n)
	return err == nil && e.Zero && e.Len == n
}

// A fixedHash has its sum from the start.
type fixedHash struct{ sum256 [sha256.Size]byte }

func (f fixedHash) Write(p []byte) (int, error) { return len(p), nil }
func (f fixedHash) Sum(b []byte) []byte         { return append(b, f.sum256[:]...) }
func (f fixedHash) Reset()                      {}
func (f fixedHash) Size() int                   { return sha256.Size }
func (f fixedHash) BlockSize() int              { return sha256.BlockSize }
