package bundle

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"

	"chromogenic/disk"
)

const (
	gzipHeaderLen = 10       // RFC 1952, 2.3.1: without any of the optional fields
	deflateWindow = 32 << 10 // RFC 1951, 2: how far back a copy may reach
	maxMerges     = 16       // how often a chunk may go on behind what seemed its end
	smallChunk    = 16 << 10 // bytes of the disk for which another goroutine is not worth it
	maxSmall      = 8        // such chunks in a stream; two are in those that Bundle makes
)

// flushed is how the blocks of a chunk end: an empty stored block, without its first
// bits (RFC 1951, 3.2.4). It may be found elsewhere, too.
func flushed() []byte { return []byte{0, 0, 0xff, 0xff} }

// inflaters is how many chunks are being inflated, or are it and wait for those before
// them: enough that no processor is without one.
func inflaters() int { return min(runtime.GOMAXPROCS(0), maxWorkers) + 2 }

// gunzip is the stage that decompresses.
//
// A stream that begins anew every now and then, as those of Bundle and of `pigz
// --independent` do, is inflated in parallel. Where it does so is only guessed, from
// the bytes in front of such a place: whether it was one is seen at its end, and what
// was no chunk is inflated again with what follows, or with all that follows. So
// every stream is read, and one of another program, from its first chunk on, like
// gunzip(1) does.
//
// Out is closed behind the last byte of a stream that is whole, and never otherwise.
func gunzip(ctx context.Context, in, out *conveyor) error {
	g := gunzipper{ctx: ctx, src: bufio.NewReaderSize(&conveyed{ctx: ctx, c: in}, cipherPiece), out: out}
	head, err := g.src.Peek(gzipHeaderLen)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case !bytes.HasPrefix(head, gzipHeader()[:3]):
		err = disk.Errorf(disk.Denied, "decrypt parts: what comes out is not compressed by gzip")
		return disk.Hint(err, "the key in the manifest is not the one that the parts were encrypted with: manifest and parts may be of two bundles")
	case len(head) < gzipHeaderLen || head[3] != 0: // a name, or other optional fields
		return g.end(g.members())
	}
	if _, err := g.src.Discard(gzipHeaderLen); err != nil {
		return err
	}
	err = g.parallel()
	for _, k := range g.queue {
		<-k.done
	}
	if err == nil {
		err = g.serial()
	}
	return g.end(err)
}

type gunzipper struct {
	ctx context.Context
	src *bufio.Reader
	out *conveyor

	queue  []*inflated // chunks that are being inflated, in order
	read   []byte      // of the stream
	taken  int         // bytes of it that are in chunks
	idle   []*inflated
	crc    uint32
	length uint32 // modulo 2^32
	window []byte // the last bytes that were sent
}

// An inflated is what seems to be a chunk.
type inflated struct {
	packed []byte
	plain  []byte // a buffer of the conveyor
	n      int    // bytes of it
	ok     bool   // it is one
	done   chan struct{}
	src    bytes.Reader
	zr     io.ReadCloser
}

// inflate finds out whether packed is a chunk. With an end put behind it, it must end
// there.
func (k *inflated) inflate() {
	whole := append(k.packed, deflateEnd()...)
	k.packed = whole[:len(k.packed)] // with the room that it was given
	k.src.Reset(whole)
	var err error
	if k.zr == nil {
		k.zr = flate.NewReader(&k.src)
	} else if err = k.zr.(flate.Resetter).Reset(&k.src, nil); err != nil {
		return // it is not ok
	}
	k.n, err = io.ReadFull(k.zr, k.plain)
	if err == nil {
		var more [1]byte
		if n, end := k.zr.Read(more[:]); n == 0 {
			err = end
		}
	} else if errors.Is(err, io.ErrUnexpectedEOF) {
		_, err = k.zr.Read(k.plain[k.n:]) // is it the end, or is it cut off?
	}
	k.ok = err == io.EOF && k.src.Len() == 0
}

// end says that the stream was whole, or gives a kind to what is wrong with it.
func (g *gunzipper) end(err error) error {
	switch {
	case err == nil:
		g.out.close()
	case disk.KindOf(err) == disk.Other:
		return malformed("inflate: %w", err)
	}
	return err
}

// parallel inflates chunks for as long as there are any. What is left of the stream is
// in the queue, in what is read and not taken, and in src, in this order.
func (g *gunzipper) parallel() error {
	small := 0
	for {
		for len(g.queue) < inflaters() {
			packed, err := g.chunk()
			if err != nil {
				return err
			}
			if packed == nil {
				break
			}
			if err := g.begin(packed); err != nil {
				return err
			}
		}
		if len(g.queue) == 0 {
			return nil
		}
		k := g.queue[0]
		<-k.done
		for merges := 0; !k.ok; merges++ {
			more, err := g.following()
			k.packed = append(k.packed, more...)
			if err != nil || more == nil || merges == maxMerges || len(k.packed) > maxPacked {
				return err
			}
			k.inflate()
		}
		g.queue = g.queue[1:]
		if err := g.send(k.plain[:k.n]); err != nil {
			return err
		}
		if k.n < smallChunk {
			small++
		}
		g.idle = append(g.idle, k)
		if small > maxSmall {
			return nil
		}
	}
}

// chunk is the next piece of the stream that may be a chunk, or nil. It is valid until
// the next call.
func (g *gunzipper) chunk() ([]byte, error) {
	looked := 0 // bytes that are no end
	for {
		rest := g.read[g.taken:]
		if i := bytes.Index(rest[looked:], flushed()); i >= 0 {
			end := looked + i + len(flushed())
			g.taken += end
			return rest[:end], nil
		}
		looked = max(0, len(rest)-len(flushed())+1)
		if len(rest) > maxPacked {
			return nil, nil
		}
		if _, err := g.src.Peek(1); errors.Is(err, io.EOF) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		p, err := g.src.Peek(g.src.Buffered())
		if err != nil {
			return nil, err
		}
		g.read = append(g.read[:copy(g.read, rest)], p...)
		g.taken = 0
		if _, err := g.src.Discard(len(p)); err != nil {
			return nil, err
		}
	}
}

// following is the chunk behind the first of the queue, which is taken out of it, or
// is found in the stream. It is valid as that of chunk is.
func (g *gunzipper) following() ([]byte, error) {
	if len(g.queue) == 1 {
		return g.chunk()
	}
	k := g.queue[1]
	<-k.done
	g.queue = append(g.queue[:1], g.queue[2:]...)
	g.out.free <- k.plain
	g.idle = append(g.idle, k)
	return k.packed, nil
}

// begin inflates a chunk.
func (g *gunzipper) begin(packed []byte) error {
	plain, err := g.out.buffer(g.ctx)
	if err != nil {
		return err
	}
	k := &inflated{}
	if n := len(g.idle); n > 0 {
		k, g.idle = g.idle[n-1], g.idle[:n-1]
	}
	k.packed, k.plain, k.ok, k.done = append(k.packed[:0], packed...), plain, false, make(chan struct{})
	g.queue = append(g.queue, k)
	go func() {
		defer close(k.done)
		k.inflate()
	}()
	return nil
}

// send passes on what is inflated.
func (g *gunzipper) send(p []byte) error {
	g.crc = crc32.Update(g.crc, crc32.IEEETable, p)
	g.length += uint32(len(p))
	if len(p) >= deflateWindow {
		g.window = append(g.window[:0], p[len(p)-deflateWindow:]...)
	} else {
		g.window = append(g.window, p...)
		g.window = append(g.window[:0], g.window[max(0, len(g.window)-deflateWindow):]...)
	}
	return g.out.send(g.ctx, p)
}

// serial inflates the rest of the member, and the members behind it.
func (g *gunzipper) serial() error {
	var left []io.Reader
	for _, k := range g.queue {
		left = append(left, bytes.NewReader(k.packed))
		g.out.free <- k.plain
	}
	g.src = bufio.NewReaderSize(io.MultiReader(append(left, bytes.NewReader(g.read[g.taken:]), g.src)...), cipherPiece)
	g.queue, g.idle = nil, nil
	if err := g.pump(flate.NewReaderDict(g.src, g.window)); err != nil {
		return err
	}
	var tail [8]byte
	if _, err := io.ReadFull(g.src, tail[:]); err != nil {
		return noEOF(err)
	}
	if binary.LittleEndian.Uint32(tail[:]) != g.crc || binary.LittleEndian.Uint32(tail[4:]) != g.length {
		return gzip.ErrChecksum
	}
	if _, err := g.src.Peek(1); errors.Is(err, io.EOF) {
		return nil
	}
	return g.members()
}

// members inflates whole members up to the end: several are one stream (RFC 1952,
// 2.2).
func (g *gunzipper) members() error {
	zr, err := gzip.NewReader(g.src)
	if err != nil {
		return noEOF(err)
	}
	return g.pump(zr)
}

// pump sends all that r gives.
func (g *gunzipper) pump(r io.Reader) error {
	for {
		p, err := g.out.buffer(g.ctx)
		if err != nil {
			return err
		}
		n, err := io.ReadFull(r, p)
		if n == 0 {
			g.out.free <- p
		} else if err := g.send(p[:n]); err != nil {
			return err
		}
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			// ReadFull says so of an end within p, and the reader of one that is cut off.
			if _, err = r.Read(make([]byte, 1)); err != io.EOF {
				return noEOF(err)
			}
			return nil
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// noEOF is err, which is not to be taken for an end.
func noEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
