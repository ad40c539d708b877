package bundle

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"chromogenic/disk"
	"chromogenic/providers/internal/crypt"
)

// Memory of an Unbundle: 15 MiB of buffers with two processors, 30 MiB with eight or
// more, and up to 16 MiB for the map of a sparse member.
const (
	cipherPiece = 256 << 10 // bytes that are fetched and decrypted at a time
	pieces      = 4         // of each kind on their way from one stage to the next
)

// Unbundle reads a bundle once, in order, and writes the disk to a spool. It
// verifies the SHA-1 of every part, the sum of their lengths, the checksums of gzip,
// the SHA-1 of the tar stream, and that this holds one file of the size of the
// manifest. A spool whose Unbundle failed is worth nothing, whatever was written.
//
// What is damaged is Malformed, a key that is not this bundle's Denied; the errors
// of fetch and spool come back as they are, with their place. When ctx ends, Unbundle
// returns as soon as fetch and spool do. Progress, which may be nil, is called with the
// bytes of the parts that are verified, from one goroutine.
//
// Fetching and decrypting, inflating, and hashing and writing go on beside each
// other. The next part is asked for while one is read.
func Unbundle(ctx context.Context, m *Manifest, s crypt.Secret, fetch Fetch, spool Spool, progress func(done int64)) error {
	if err := unbundle(ctx, m, s, fetch, spool, progress); err != nil {
		return fmt.Errorf("unbundle %q: %w", m.Name, err)
	}
	return nil
}

func unbundle(ctx context.Context, m *Manifest, s crypt.Secret, fetch Fetch, spool Spool, progress func(done int64)) error {
	tool, err := crypt.Find(m.Algorithm)
	if err != nil {
		return err
	}
	mode, err := tool.Decrypt(s, nil)
	if err != nil {
		return err
	}
	if err := spool.Begin(m.Size, m.BundledSize); err != nil {
		return fmt.Errorf("begin spool: %w", err)
	}
	// Two contexts: when the stages behind the parts fail, the part that is being read
	// is still verified, for that it is damaged is the better reason.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	behind, stages := errgroup.WithContext(ctx)
	sealed, plain := newConveyor(cipherPiece, pieces), newConveyor(chunkSize, pieces+inflaters())
	r := &partReader{m: m, fetch: fetch, mode: mode, progress: progress, out: sealed, behind: stages}
	parts := make(chan error, 1)
	go func() { parts <- r.run(ctx) }()
	behind.Go(func() error { return gunzip(stages, sealed, plain) })
	behind.Go(func() error {
		sum, err := extract(stages, plain, m.Size, spool)
		if err == nil && sum != m.Digest {
			err = malformed("verify tar: its SHA-1 is %x, but the manifest says %x", sum, m.Digest)
		}
		return err
	})
	err = behind.Wait()
	if err != nil && !foreign(err) {
		cancel(err)
	}
	cause := <-parts
	switch {
	case cause == nil:
	case disk.KindOf(err) == disk.Denied && errors.Is(cause, errPadding): // it was the wrong key
	case err == nil || foreign(err): // of parts that have ended early it says nothing
		err = cause
	}
	if disk.KindOf(err) == disk.Malformed {
		err = damaged(err)
	}
	return err
}

// foreign tells whether an error is about what the parts hold.
func foreign(err error) bool {
	k := disk.KindOf(err)
	return k == disk.Malformed || k == disk.Denied
}

// extract is the last stage: it hashes the tar stream and takes the disk out of it.
func extract(ctx context.Context, in *conveyor, size int64, spool io.WriterAt) (sum [sha1.Size]byte, err error) {
	h := sha1.New()
	src := &conveyed{ctx: ctx, c: in, taken: func(p []byte) { h.Write(p) }}
	if err := untar(src, size, spool); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

// A conveyor brings pieces from one goroutine to the next, which gives the buffers
// back.
type conveyor struct {
	full chan []byte
	free chan []byte
	size int
}

func newConveyor(size, pieces int) *conveyor {
	c := &conveyor{full: make(chan []byte, pieces+2), free: make(chan []byte, pieces+2), size: size}
	for range pieces + 2 { // one is being filled, and one emptied
		c.free <- nil
	}
	return c
}

// buffer is a piece to be filled.
func (c *conveyor) buffer(ctx context.Context) ([]byte, error) {
	select {
	case p := <-c.free:
		if p == nil {
			p = make([]byte, c.size)
		}
		return p[:c.size], nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *conveyor) send(ctx context.Context, p []byte) error {
	select {
	case c.full <- p:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close ends the stream, after its last piece.
func (c *conveyor) close() { close(c.full) }

// A conveyed is the receiving end of a conveyor: an io.Reader, and a source.
type conveyed struct {
	ctx   context.Context
	c     *conveyor
	taken func(p []byte) // called with every piece, may be nil

	piece, rest []byte
}

// fill has at least one byte in rest, or an error.
func (r *conveyed) fill() error {
	for len(r.rest) == 0 {
		if r.piece != nil {
			r.c.free <- r.piece // has room for all there are
			r.piece = nil
		}
		select {
		case p, ok := <-r.c.full:
			if !ok {
				return io.EOF
			}
			r.piece, r.rest = p, p
			if r.taken != nil {
				r.taken(p)
			}
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		}
	}
	return nil
}

func (r *conveyed) next(n int64) ([]byte, error) {
	if err := r.fill(); err != nil {
		return nil, err
	}
	p := r.rest[:min(n, int64(len(r.rest)))]
	r.rest = r.rest[len(p):]
	return p, nil
}

func (r *conveyed) Read(q []byte) (int, error) {
	p, err := r.next(int64(len(q)))
	return copy(q, p), err
}
