package disk

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

const (
	// copyBlock is the most that is read at once, in bytes.
	copyBlock = 1 << 20
	// copyBuffers is how many blocks may be between the reader and the writer.
	copyBuffers = 4
	// zeroBlock is the granularity in which zeros among the data are found.
	zeroBlock = 64 << 10
)

// CopyOptions say how Copy works. The zero value copies all data as it is.
type CopyOptions struct {
	Progress  func(done int64) // called with the bytes of the source that are done, holes included; never twice at once
	SkipZeros bool             // leaves out aligned 64 KiB runs of zeros among the data too
}

// Copy writes the data of src to dst, each byte at its own offset. It skips the
// holes, so dst must read as zero there: the caller makes it new and truncates
// it to the size of src first. SkipZeros asks for the same of all of dst.
//
// Reading runs ahead of writing, by 4 MiB at most. When ctx ends, Copy returns
// at once; a read that is under way then ends on its own, and nothing is
// written any more.
func Copy(ctx context.Context, dst io.WriterAt, src Image, o CopyOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := copier{src: src, out: make(chan copied), free: make(chan []byte, copyBuffers)}
	for range copyBuffers {
		c.free <- nil // allocated when it is first used
	}
	go c.read(ctx)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case b, ok := <-c.out:
			switch {
			case !ok:
				return context.Cause(ctx)
			case b.err != nil:
				return b.err
			case ctx.Err() != nil:
				return context.Cause(ctx)
			}
			if err := o.write(dst, b); err != nil {
				return err
			}
			if o.Progress != nil {
				o.Progress(b.end)
			}
			if b.p != nil {
				c.free <- b.p
			}
		}
	}
}

// write writes one block.
func (o CopyOptions) write(dst io.WriterAt, b copied) error {
	for off, p := b.off, b.p; len(p) > 0; {
		n := int64(len(p))
		skip := false
		if o.SkipZeros {
			skip, n = zeroRun(p, off)
		}
		if !skip {
			if _, err := dst.WriteAt(p[:n], off); err != nil {
				return fmt.Errorf("write copy at offset %d: %w", off, err)
			}
		}
		p, off = p[n:], off+n
	}
	return nil
}

// zeroRun tells whether p, which lies at off, begins with zeros, and how far
// the run of aligned pieces goes that are like the first.
func zeroRun(p []byte, off int64) (zero bool, n int64) {
	var zeros [zeroBlock]byte
	for n < int64(len(p)) {
		q := p[n:min(int64(len(p)), n+zeroBlock-(off+n)%zeroBlock)]
		z := bytes.Equal(q, zeros[:len(q)])
		if n > 0 && z != zero {
			break
		}
		zero = z
		n += int64(len(q))
	}
	return zero, n
}

// A copied is a block on its way to the writer.
type copied struct {
	p        []byte // nil for a hole
	off, end int64
	err      error
}

// A copier is the reading half of a Copy.
type copier struct {
	src  Image
	out  chan copied
	free chan []byte
}

// read sends all of the source in order, and closes out.
func (c *copier) read(ctx context.Context) {
	defer close(c.out)
	for e, err := range Extents(c.src) {
		if err != nil {
			c.send(ctx, copied{err: fmt.Errorf("copy image: %w", err)})
			return
		}
		if e.Zero {
			if !c.send(ctx, copied{end: e.End()}) {
				return
			}
			continue
		}
		for off := e.Off; off < e.End(); {
			n := min(e.End()-off, copyBlock-off%copyBlock)
			if !c.readBlock(ctx, off, n) {
				return
			}
			off += n
		}
	}
}

// readBlock reads n bytes at off and sends them; false means stop.
func (c *copier) readBlock(ctx context.Context, off, n int64) bool {
	var p []byte
	select {
	case p = <-c.free:
	case <-ctx.Done():
		return false
	}
	if p == nil {
		p = make([]byte, copyBlock)
	}
	p = p[:n]
	if err := ReadFull(c.src, p, off); err != nil {
		c.send(ctx, copied{err: fmt.Errorf("copy image: %w", err)})
		return false
	}
	return c.send(ctx, copied{p: p, off: off, end: off + n})
}

func (c *copier) send(ctx context.Context, b copied) bool {
	select {
	case c.out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}
