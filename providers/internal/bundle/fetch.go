package bundle

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
)

// A partReader is the first stage of an Unbundle: it fetches the parts, verifies
// and decrypts them.
type partReader struct {
	m        *Manifest
	fetch    Fetch
	mode     cipher.BlockMode
	progress func(done int64)
	out      *conveyor
	behind   context.Context // done when the stages behind have ended

	done  int64  // bytes of parts
	piece []byte // that is being filled
	n     int    // bytes in it
}

// An openPart is a part whose content begins to come.
type openPart struct {
	body io.ReadCloser
	err  error
}

// run reads all parts. When the stages behind have ended it only verifies the part
// that it is in.
func (r *partReader) run(ctx context.Context) error {
	defer r.out.close()
	ctx, cancel := context.WithCancel(ctx)
	opened := make(chan openPart)
	go r.open(ctx, opened)
	defer func() {
		cancel()
		for p := range opened {
			if p.body != nil {
				p.body.Close()
			}
		}
	}()
	for _, part := range r.m.Parts {
		select {
		case <-r.behind.Done():
			return nil
		case p := <-opened:
			err := p.err
			if err == nil {
				err = r.read(ctx, part, p.body)
				p.body.Close()
			}
			if err != nil {
				return partError("read", part.Name, err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if r.done != r.m.BundledSize {
		return malformed("verify parts: they have %d bytes, but the manifest says %d", r.done, r.m.BundledSize)
	}
	return r.last(ctx)
}

// open asks for the parts in order, each while the one before it is read.
func (r *partReader) open(ctx context.Context, opened chan<- openPart) {
	defer close(opened)
	for _, part := range r.m.Parts {
		body, err := r.fetch(ctx, part.Name, 0, -1)
		select {
		case opened <- openPart{body, err}:
		case <-ctx.Done():
			if body != nil {
				body.Close()
			}
			return
		}
		if err != nil {
			return
		}
	}
}

// read passes a part on, and verifies it.
func (r *partReader) read(ctx context.Context, part Part, body io.Reader) error {
	h := sha1.New()
	for {
		if err := r.room(ctx); err != nil {
			return err
		}
		n, err := body.Read(r.piece[r.n:])
		h.Write(r.piece[r.n : r.n+n])
		r.n += n
		if r.done += int64(n); r.done > r.m.BundledSize {
			return malformed("it goes on behind byte %d, where the manifest says that all parts end", r.m.BundledSize)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("at byte %d of the bundle: %w", r.done, err)
		}
	}
	if sum := [sha1.Size]byte(h.Sum(nil)); sum != part.SHA1 {
		return malformed("its SHA-1 is %x, but the manifest says %x", sum, part.SHA1)
	}
	if r.progress != nil {
		r.progress(r.done)
	}
	return nil
}

// room has a piece with room in it. One that is full is sent, but for its last block:
// that may be the last of all, which has the padding.
func (r *partReader) room(ctx context.Context) error {
	if r.n < len(r.piece) {
		return context.Cause(ctx)
	}
	var tail [aes.BlockSize]byte
	if r.piece != nil {
		keep := r.n - copy(tail[:], r.piece[r.n-len(tail):])
		r.mode.CryptBlocks(r.piece[:keep], r.piece[:keep])
		if err := r.send(ctx, r.piece[:keep]); err != nil {
			return err
		}
	}
	p, err := r.out.buffer(r.behind)
	switch {
	case err == nil:
		r.piece = p
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default: // what is read goes nowhere
		r.piece = make([]byte, r.out.size)
	}
	if r.n > 0 {
		r.n = copy(r.piece, tail[:])
	}
	return nil
}

// send passes p on, or throws it away when the stages behind have ended.
func (r *partReader) send(ctx context.Context, p []byte) error {
	if err := r.out.send(r.behind, p); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// last sends what is left when all parts are read. It is whole blocks, for the sum
// of the parts is.
func (r *partReader) last(ctx context.Context) error {
	p := r.piece[:r.n]
	r.mode.CryptBlocks(p, p)
	n, bad := unpad(p)
	if err := r.send(ctx, p[:n]); err != nil {
		return err
	}
	return bad
}

// errPadding is about the end of what is decrypted, when all parts are what they
// should be.
var errPadding = errors.New("decrypt parts: no padding at the end")

// unpad is the length of p, which are whole blocks, without its padding: PKCS#7, RFC
// 5652, 6.3. Without one it is all of p.
func unpad(p []byte) (int, error) {
	n := int(p[len(p)-1])
	if n < 1 || n > aes.BlockSize || !bytes.Equal(p[len(p)-n:], bytes.Repeat([]byte{byte(n)}, n)) {
		return len(p), malformed("%w", errPadding)
	}
	return len(p) - n, nil
}
