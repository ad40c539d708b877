package bundle

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"

	"chromogenic/disk"
	"chromogenic/providers/internal/crypt"
)

// maxFetch is how many bytes of the parts are asked for at once.
const maxFetch = 8 << 20

// Open opens a bundle that has an index, to be read at random: no part is read
// before its bytes are wanted, and nothing is spooled. IndexSize tells how long the
// index must be. One that is not of this bundle is Malformed.
//
// A read fetches, decrypts and inflates the MiBs of the disk that it touches, and
// compares each with its SHA-256 in the index; the index itself is authenticated
// with the key of the bundle. What does not fit is Malformed and never given out. The
// last MiB is kept for the next read. A read takes 10 MiB of memory at most besides
// its own, and the open image 44 bytes for each MiB of the disk.
//
// When ctx ends, reads fail with its cause, as they do with disk.ErrClosed after
// Close.
func Open(ctx context.Context, m *Manifest, s crypt.Secret, index []byte, fetch Fetch) (disk.Image, error) {
	tool, err := crypt.Find(m.Algorithm)
	if err != nil {
		return nil, fmt.Errorf("open bundle %q: %w", m.Name, err)
	}
	if err := checkParts(m); err != nil {
		return nil, fmt.Errorf("open bundle %q: %w", m.Name, err)
	}
	x, err := parseIndex(index, m, s)
	if err != nil {
		err = fmt.Errorf("open bundle %q: read index: %w", m.Name, err)
		return nil, disk.Hint(err, "remove the object that ends in %s: without it the bundle is read as a whole", IndexSuffix)
	}
	img := &image{m: m, secret: s, tool: tool, index: x, fetch: fetch, kept: -1}
	img.ctx, img.cancel = context.WithCancelCause(ctx)
	return img, nil
}

// An image is the disk of a bundle, read at random.
type image struct {
	m      *Manifest
	secret crypt.Secret
	tool   crypt.Tool
	index  *index
	fetch  Fetch
	ctx    context.Context
	cancel context.CancelCauseFunc

	inflaters sync.Pool // of io.ReadCloser

	mu    sync.Mutex
	kept  int64  // a chunk, -1 for none
	chunk []byte // its content, which does not change
}

func (d *image) Size() int64 { return d.m.Size }

func (d *image) Close() error {
	d.cancel(disk.ErrClosed)
	return nil
}

func (d *image) Extent(off, n int64) (disk.Extent, error) {
	if err := context.Cause(d.ctx); err != nil {
		return disk.Extent{}, err
	}
	n, err := disk.CheckRange(off, n, d.m.Size)
	if err != nil {
		return disk.Extent{}, err
	}
	i := off / chunkSize
	e := disk.Extent{Off: off, Zero: d.index.zero(i)}
	for i++; i*chunkSize < off+n && d.index.zero(i) == e.Zero; i++ {
	}
	e.Len = min(n, i*chunkSize-off)
	return e, nil
}

func (d *image) ReadAt(p []byte, off int64) (int, error) {
	if err := context.Cause(d.ctx); err != nil {
		return 0, err
	}
	q, eof := disk.ClipRead(p, off, d.m.Size)
	for done := 0; done < len(q); {
		at := off + int64(done)
		n, err := d.read(q[done:], at)
		if err != nil {
			if cause := context.Cause(d.ctx); cause != nil {
				err = cause
			} else {
				err = fmt.Errorf("read bundle %q at offset %d of the disk: %w", d.m.Name, at, err)
			}
			return done, err
		}
		done += n
	}
	return len(q), eof
}

// read reads the zeros, or the data, that p begins with, as much as is good to ask
// for at once.
func (d *image) read(p []byte, off int64) (int, error) {
	first := off / chunkSize
	end := chunks(off + int64(len(p))) // of the chunks that p touches
	last := first + 1
	if d.index.zero(first) {
		for last < end && d.index.zero(last) {
			last++
		}
		n := min(int64(len(p)), last*chunkSize-off)
		clear(p[:n])
		return int(n), nil
	}
	d.mu.Lock()
	kept, chunk := d.kept, d.chunk
	d.mu.Unlock()
	if kept == first {
		return copy(p, chunk[off-first*chunkSize:]), nil
	}
	for last < end && last != kept && !d.index.zero(last) && d.index.offs[last+1]-d.index.offs[first] <= maxFetch {
		last++
	}
	packed, err := d.sealed(d.index.offs[first], d.index.offs[last])
	if err != nil {
		return 0, err
	}
	done := 0
	for i := first; i < last; i++ {
		n := d.index.offs[i+1] - d.index.offs[i]
		from := max(0, off-i*chunkSize)
		c := p[done:]
		size := d.chunkLen(i)
		whole := from == 0 && int64(len(c)) >= size
		if whole {
			c = c[:size]
		} else {
			c = make([]byte, size)
		}
		if err := d.inflate(i, c, packed[:n]); err != nil {
			return 0, err
		}
		packed = packed[n:]
		if whole {
			done += len(c)
			continue
		}
		done += copy(p[done:], c[from:])
		d.mu.Lock()
		d.kept, d.chunk = i, c
		d.mu.Unlock()
	}
	return done, nil
}

// chunkLen is how many bytes of the disk chunk i has.
func (d *image) chunkLen(i int64) int64 { return min(chunkSize, d.m.Size-i*chunkSize) }

// sealed reads a range of the gzip stream: it fetches and decrypts the blocks of the
// cipher that it touches, and the one before, which decides the first.
func (d *image) sealed(from, to int64) ([]byte, error) {
	begin := from / aes.BlockSize * aes.BlockSize
	end := min((to+aes.BlockSize-1)/aes.BlockSize*aes.BlockSize, d.m.BundledSize)
	var before []byte
	at := begin
	if begin > 0 {
		at -= aes.BlockSize
	}
	p := make([]byte, end-at)
	for q := p; len(q) > 0; {
		i, off := at/PartSize, at%PartSize
		n := min(int64(len(q)), PartSize-off)
		part := d.m.Parts[i].Name
		if err := d.fetchFull(part, q[:n], off); err != nil {
			return nil, partError("read", part, err)
		}
		q, at = q[n:], at+n
	}
	if begin > 0 {
		before, p = p[:aes.BlockSize], p[aes.BlockSize:]
	}
	mode, err := d.tool.Decrypt(d.secret, before)
	if err != nil {
		return nil, err
	}
	mode.CryptBlocks(p, p)
	return p[from-begin : to-begin], nil
}

func (d *image) fetchFull(part string, p []byte, off int64) error {
	body, err := d.fetch(d.ctx, part, off, int64(len(p)))
	if err != nil {
		return err
	}
	defer body.Close()
	r := &ending{Reader: body}
	if n, err := io.ReadFull(r, p); err != nil {
		if r.err == io.EOF {
			return damaged(malformed("it gives %d of %d bytes at offset %d: %w", n, len(p), off, io.ErrUnexpectedEOF))
		}
		return r.err
	}
	return nil
}

// An ending knows how its reader has ended: one that was cut off and a short part look
// the same to io.ReadFull.
type ending struct {
	io.Reader
	err error
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err != nil {
		e.err = err
	}
	return n, err
}

// inflate fills c with chunk i, verified.
func (d *image) inflate(i int64, c, packed []byte) error {
	src := bytes.NewReader(packed)
	zr, _ := d.inflaters.Get().(io.ReadCloser)
	if zr == nil {
		zr = flate.NewReader(src)
	} else if err := zr.(flate.Resetter).Reset(src, nil); err != nil {
		return err
	}
	defer d.inflaters.Put(zr)
	if _, err := io.ReadFull(zr, c); err != nil {
		return damaged(malformed("inflate: %w", err))
	}
	if sha256.Sum256(c) != d.index.digest(i) {
		return damaged(malformed("its SHA-256 is not that of the index"))
	}
	return nil
}
