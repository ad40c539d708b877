package bundle

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5"
	"crypto/sha1"
	"encoding/binary"
	"fmt"

	"golang.org/x/sync/errgroup"

	"chromogenic/disk"
	"chromogenic/providers/internal/crypt"
)

// A Spec says what to bundle. The same disk under the same spec gives the same
// parts, byte by byte, from one build of the program: a bundle that was cut off goes
// on where the parts differ. Another version of the compressor may give others.
type Spec struct {
	Name   string       // what parts and tar member begin with: a plain file name
	Secret crypt.Secret // what the parts are encrypted with; kept for as long as the bundle may go on
	Index  bool         // makes an index, with which the bundle is read at random
}

// A Written is a part that is ready.
type Written struct {
	Part
	Index int
	Size  int64          // bytes
	MD5   [md5.Size]byte // as stores of objects give it
	Done  int64          // bytes of the disk that are wholly in this part and those before it
}

// A Sink takes the parts in order, one at a time; meanwhile the next ones are made.
// The body is valid until it returns. A part whose name, size and digests are those
// of an object that is there already need not be sent again.
type Sink func(ctx context.Context, w Written, body []byte) error

// Memory of a Bundle: parts that are made while one is in the sink, and chunks.
const (
	partBuffers = 3 // 30 MiB
	maxWorkers  = 8 // 2 chunks each in, 2 out, and the tables of a compressor: 5 MiB
)

// Bundle makes the parts of a bundle and hands them to sink. It returns the manifest
// as far as it follows from the disk: name, type (Machine), digest, sizes, cipher and
// parts. The caller fills in the rest, seals it, and stores what Encode makes of it
// behind all parts; until then there is no bundle. With Spec.Index the second result is
// the index, to be stored before the manifest under the name of the bundle with
// IndexSuffix.
//
// The gzip stream is one member, as that of gzip(1) is, but it begins anew for every
// MiB of the disk, as `pigz --independent` does: any gunzip reads it, and with the
// index any MiB. Zeros, holes of the disk above all, are compressed once.
//
// It compresses on all processors up to 8, and takes 80 MiB of memory at most (44
// MiB with two processors), however large the disk, and for an index 36 bytes for each
// MiB of the disk. Errors are those of img and sink, or Invalid for a spec that cannot
// be. When ctx ends, it returns as soon as img and sink do.
func Bundle(ctx context.Context, img disk.Image, spec Spec, sink Sink) (*Manifest, []byte, error) {
	m, index, err := bundle(ctx, img, spec, sink)
	if err != nil {
		return nil, nil, fmt.Errorf("bundle %q: %w", spec.Name, err)
	}
	return m, index, nil
}

func bundle(ctx context.Context, img disk.Image, spec Spec, sink Sink) (*Manifest, []byte, error) {
	if err := plainName(spec.Name); err != nil {
		return nil, nil, disk.Errorf(disk.Invalid, "name %w", err)
	}
	if size := img.Size(); size < 1 || size > maxSize {
		return nil, nil, disk.Errorf(disk.TooLarge, "disk of %d bytes, want 1 to %d", size, int64(maxSize))
	}
	head, err := tarHeader(spec.Name, img.Size())
	if err != nil {
		return nil, nil, disk.Errorf(disk.Invalid, "write tar header: %w", err)
	}
	tool := crypt.AES128CBC{}
	mode, err := tool.Encrypt(spec.Secret)
	if err != nil {
		return nil, nil, err
	}
	m := &Manifest{Version: Version, Name: spec.Name, Type: Machine, Size: img.Size(), Algorithm: tool.Algorithm()}
	group, ctx := errgroup.WithContext(ctx)
	c, err := newCompressor(img, head, spec.Index)
	if err != nil {
		return nil, nil, err
	}
	p := newPartWriter(m, mode, sink)
	group.Go(func() error { return c.read(ctx) })
	for range c.workers {
		group.Go(func() error { return c.work(ctx) })
	}
	var index *indexWriter
	if spec.Index {
		index = newIndexWriter(m.Size)
	}
	group.Go(func() error { return join(ctx, c, p, index) })
	group.Go(func() error { return p.deliver(ctx) })
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	c.tar.Sum(m.Digest[:0])
	if index == nil {
		return m, nil, nil
	}
	return m, index.finish(m, spec.Secret), nil
}

// gzipHeader is that of a stream of unknown name and time: RFC 1952, 2.3. The last
// byte says that it was made on Unix.
func gzipHeader() []byte { return []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3} }

// deflateEnd is a last block that is empty: RFC 1951, 3.2.3, with fixed codes.
func deflateEnd() []byte { return []byte{3, 0} }

// join is the stage behind the compressors: it puts their chunks in order.
func join(ctx context.Context, c *compressor, p *partWriter, index *indexWriter) error {
	defer p.end()
	if err := p.write(ctx, gzipHeader()); err != nil {
		return err
	}
	for {
		k, err := c.next(ctx)
		if err != nil {
			return err
		}
		if k == nil {
			break
		}
		if index != nil && k.disk {
			index.add(p.bytes, k)
		}
		if err := p.write(ctx, k.packed); err != nil {
			return err
		}
		p.disk = k.end
		c.release(k)
	}
	tail := deflateEnd()
	tail = binary.LittleEndian.AppendUint32(tail, c.crc.Sum32())
	tail = binary.LittleEndian.AppendUint32(tail, uint32(c.length)) // modulo 2^32
	if err := p.write(ctx, tail); err != nil {
		return err
	}
	return p.finish(ctx)
}

// A partWriter encrypts a stream and cuts it into parts.
type partWriter struct {
	m    *Manifest
	mode cipher.BlockMode
	sink Sink

	full chan filled
	free chan []byte

	part  []byte // that is being filled; its first bytes are encrypted
	plain int    // where those begin that are not
	bytes int64  // of the stream
	disk  int64  // bytes of the disk that are in it
}

// A filled is a part on its way to the sink.
type filled struct {
	body []byte
	disk int64
}

func newPartWriter(m *Manifest, mode cipher.BlockMode, sink Sink) *partWriter {
	p := &partWriter{m: m, mode: mode, sink: sink, full: make(chan filled, partBuffers), free: make(chan []byte, partBuffers)}
	for range partBuffers {
		p.free <- nil // allocated when it is first used
	}
	return p
}

// write adds to the stream.
func (p *partWriter) write(ctx context.Context, q []byte) error {
	p.bytes += int64(len(q))
	for len(q) > 0 {
		if p.part == nil {
			select {
			case b := <-p.free:
				if b == nil {
					b = make([]byte, 0, PartSize)
				}
				p.part, p.plain = b[:0], 0
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		n := min(len(q), PartSize-len(p.part))
		p.part = append(p.part, q[:n]...)
		q = q[n:]
		whole := len(p.part) / aes.BlockSize * aes.BlockSize
		p.mode.CryptBlocks(p.part[p.plain:whole], p.part[p.plain:whole])
		p.plain = whole
		if len(p.part) == PartSize {
			if err := p.send(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish pads the stream (PKCS#7, RFC 5652, 6.3) and sends the last part.
func (p *partWriter) finish(ctx context.Context) error {
	n := aes.BlockSize - int(p.bytes%aes.BlockSize)
	pad := make([]byte, n)
	for i := range pad {
		pad[i] = byte(n)
	}
	if err := p.write(ctx, pad); err != nil || p.part == nil {
		return err
	}
	return p.send(ctx)
}

func (p *partWriter) send(ctx context.Context) error {
	select {
	case p.full <- filled{p.part, p.disk}:
		p.part = nil
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end says that no part follows.
func (p *partWriter) end() { close(p.full) }

// deliver is the last stage: it hands the parts to the sink.
func (p *partWriter) deliver(ctx context.Context) error {
	for f := range p.full {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		i := len(p.m.Parts)
		if i == maxParts {
			return disk.Errorf(disk.TooLarge, "more than %d parts", maxParts)
		}
		w := Written{
			Part:  Part{Name: partName(p.m.Name, i), SHA1: sha1.Sum(f.body)},
			Index: i, Size: int64(len(f.body)), MD5: md5.Sum(f.body), Done: f.disk,
		}
		if err := p.sink(ctx, w, f.body); err != nil {
			return fmt.Errorf("write part %q: %w", w.Name, err)
		}
		p.m.Parts = append(p.m.Parts, w.Part)
		p.m.BundledSize += w.Size
		p.free <- f.body // has room for all there are
	}
	return nil
}

// partName is that of euca2ools: two digits, and more where there are more parts.
// Readers go by the manifest.
func partName(name string, i int) string { return fmt.Sprintf("%s.part.%02d", name, i) }
