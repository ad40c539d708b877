package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// A decompressor fills dst, one cluster, from src, which ends with a sector and
// so may have bytes of no meaning behind the data. Data for less or for more
// than dst is an error. It is safe for concurrent use.
type decompressor func(dst, src []byte) error

var errTooLong = errors.New("data is longer than a cluster")

// newDecompressor makes the decompressor of a compression_type that was checked.
func newDecompressor(compression byte) (decompressor, error) {
	if compression == compressionZstd {
		return newZstd()
	}
	return newInflater(), nil
}

// inflater is a reader of raw deflate that is used again and again, since making
// one takes 40 KiB.
type inflater struct {
	src    bytes.Reader
	stream io.ReadCloser
}

// newInflater decompresses raw deflate, which the spec calls zlib.
func newInflater() decompressor {
	pool := sync.Pool{New: func() any {
		f := &inflater{}
		f.stream = flate.NewReader(&f.src)
		return f
	}}
	return func(dst, src []byte) error {
		f := pool.Get().(*inflater)
		defer pool.Put(f)
		f.src.Reset(src)
		if err := f.stream.(flate.Resetter).Reset(&f.src, nil); err != nil {
			return err
		}
		if n, err := io.ReadFull(f.stream, dst); err != nil {
			return fmt.Errorf("got %d of %d bytes: %w", n, len(dst), noEOF(err))
		}
		// The mark of the end may be cut off; all the bytes are there.
		var more [1]byte
		switch n, err := f.stream.Read(more[:]); {
		case n > 0:
			return errTooLong
		case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return err
		}
		return nil
	}
}

// noEOF makes a plain end of the data unexpected.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// newZstd decompresses zstd frames: usually one, but as many as fill the cluster
// are read, as QEMU does.
func newZstd() (decompressor, error) {
	// DecodeAll takes the window from dst and allocates none; the cap of dst
	// bounds it whatever a frame claims.
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return func(dst, src []byte) error {
		out := dst[:0:len(dst)]
		for len(out) < len(dst) {
			n, err := frameLen(src)
			if err != nil {
				return fmt.Errorf("got %d of %d bytes: %w", len(out), len(dst), err)
			}
			out, err = d.DecodeAll(src[:n], out)
			if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
				return errTooLong
			}
			if err != nil {
				return err
			}
			src = src[n:]
		}
		return nil
	}, nil
}

// frameLen is the length of the zstd frame that begins p, whose end is known from
// its blocks only (RFC 8878, sections 3.1.1 and 3.1.2). DecodeAll wants no bytes
// behind it.
func frameLen(p []byte) (int, error) {
	var h zstd.Header
	if err := h.Decode(p); err != nil {
		return 0, noEOF(err)
	}
	n := int64(h.HeaderSize)
	if h.Skippable {
		n += int64(h.SkippableSize)
	}
	for last := h.Skippable; !last; {
		if n+3 > int64(len(p)) {
			return 0, io.ErrUnexpectedEOF
		}
		b := binary.LittleEndian.Uint32([]byte{p[n], p[n+1], p[n+2], 0})
		last = b&1 != 0
		n += 3
		if b>>1&3 == 1 { // RLE: one byte, repeated
			n++
		} else {
			n += int64(b >> 3)
		}
	}
	if h.HasCheckSum {
		n += 4
	}
	if n > int64(len(p)) {
		return 0, io.ErrUnexpectedEOF
	}
	return int(n), nil
}
