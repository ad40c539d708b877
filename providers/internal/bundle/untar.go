package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

const (
	maxExtended = 4 << 20  // bytes of an extended header
	maxTail     = 16 << 20 // zeros behind the member; the largest record of a tar in use is 1 MiB
	// spoolBlock is the granularity in which zeros of the disk are left out, in bytes:
	// that of the maps of data which all else works with.
	spoolBlock = 64 << 10
)

// A source gives the tar stream, piece by piece.
type source interface {
	// next is up to n bytes, which are valid until the next call. Its end is io.EOF.
	next(n int64) ([]byte, error)
}

// untar takes the only member out of a tar stream and writes it to a spool. It is
// strict where bytes could be missing or too many: the member must have size bytes,
// and zeros alone follow it. What is read has bounds of its own, whatever the stream
// claims.
func untar(src source, size int64, spool io.WriterAt) error {
	u := untarrer{src: src, size: size, spool: spool}
	if err := u.headers(); err != nil {
		return err
	}
	if err := u.content(); err != nil {
		return err
	}
	return u.tail()
}

type untarrer struct {
	src   source
	size  int64 // of the disk
	spool io.WriterAt

	name   string
	runs   sparseMap
	stored int64 // bytes of the member that are still to come, without its padding
	pad    int64
}

// read fills p; an end within it is an error.
func (u *untarrer) read(p []byte) error {
	for len(p) > 0 {
		q, err := u.src.next(int64(len(p)))
		if errors.Is(err, io.EOF) {
			return malformed("read tar: the stream ends too early: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
		p = p[copy(p, q):]
	}
	return nil
}

// skip passes over n bytes.
func (u *untarrer) skip(n int64) error {
	var p [tarBlock]byte
	for ; n > 0; n -= min(n, tarBlock) {
		if err := u.read(p[:min(n, tarBlock)]); err != nil {
			return err
		}
	}
	return nil
}

// headers reads up to the data of the member.
func (u *untarrer) headers() error {
	h := make([]byte, tarBlock)
	pax := paxHeader{size: -1, realSize: -1}
	for range 8 { // an extended header of each kind, and the member: four
		if err := u.read(h); err != nil {
			return err
		}
		if !validSum(h) {
			return malformed("read tar: no header at its beginning")
		}
		n, err := tarNumber(h[sizeOff : sizeOff+numberLen])
		if err != nil {
			return fmt.Errorf("read tar: size: %w", err)
		}
		switch kind := h[typeOff]; kind {
		case 'x', 'g', 'L', 'K':
			text, err := u.extended(n)
			if err != nil {
				return err
			}
			if kind == 'x' {
				if pax, err = parsePAX(text); err != nil {
					return fmt.Errorf("read tar: %w", err)
				}
			}
		case '0', 0, '7', 'S':
			u.name = tarName(h)
			if err := u.member(h, n, pax); err != nil {
				return fmt.Errorf("read tar member %q: %w", u.name, err)
			}
			return nil
		default:
			return malformed("read tar: member %q of type %q is no file", tarName(h), kind)
		}
	}
	return malformed("read tar: too many extended headers")
}

// extended reads what belongs to a header.
func (u *untarrer) extended(n int64) ([]byte, error) {
	if n > maxExtended {
		return nil, malformed("read tar: extended header of %d bytes", n)
	}
	p := make([]byte, n)
	if err := u.read(p); err != nil {
		return nil, err
	}
	return p, u.skip(padding(n))
}

// padding is what fills the last block of n bytes.
func padding(n int64) int64 { return -n & (tarBlock - 1) }

// member finds out where the data of the member belongs.
func (u *untarrer) member(h []byte, n int64, pax paxHeader) (err error) {
	if pax.size >= 0 {
		n = pax.size
	}
	u.stored, u.pad = n, padding(n)
	size := n
	switch {
	case h[typeOff] == 'S':
		if size, err = tarNumber(h[realSizeOff : realSizeOff+numberLen]); err != nil {
			return err
		}
	case pax.sparse:
		if size = pax.realSize; size < 0 {
			return malformed("sparse, and of no size")
		}
	}
	if size != u.size {
		return malformed("it has %d bytes, but the manifest says %d", size, u.size)
	}
	switch {
	case h[typeOff] == 'S':
		err = u.gnuMap(h)
	case pax.inData:
		err = u.dataMap()
	case pax.sparse:
		err = u.pairs(pax.pairs)
	default:
		u.runs = sparseMap{{0, size}}
	}
	if err == nil && u.runs.stored() != u.stored {
		return malformed("%d bytes are stored, but its map has %d", u.stored, u.runs.stored())
	}
	return err
}

// gnuMap reads the map of a member of type S, which goes on in blocks behind the
// header. They do not count as stored.
func (u *untarrer) gnuMap(h []byte) error {
	if err := u.runs.addEntries(h[sparseOff:sparseOff+sparseCount*sparseEntry], u.size); err != nil {
		return err
	}
	more := h[sparseMore] != 0
	p := make([]byte, tarBlock)
	for blocks := 0; more; blocks++ {
		if blocks > maxRuns/furtherCount {
			return malformed("sparse map: more than %d runs", maxRuns)
		}
		if err := u.read(p); err != nil {
			return err
		}
		if err := u.runs.addEntries(p[:furtherCount*sparseEntry], u.size); err != nil {
			return err
		}
		more = p[furtherMore] != 0
	}
	return nil
}

// dataMap reads a map of version 1.0: a count and as many pairs, each number on a
// line of its own, padded to a block. It is stored with the data.
func (u *untarrer) dataMap() error {
	var block [tarBlock]byte
	var rest []byte
	next := func() (int64, error) {
		var line []byte
		for {
			if len(rest) == 0 {
				if u.stored < tarBlock {
					return 0, malformed("sparse map: cut off")
				}
				u.stored -= tarBlock
				if err := u.read(block[:]); err != nil {
					return 0, err
				}
				rest = block[:]
			}
			i := bytes.IndexByte(rest, '\n')
			if i >= 0 {
				line = append(line, rest[:i]...)
				rest = rest[i+1:]
				break
			}
			line, rest = append(line, rest...), nil
			if len(line) > 20 {
				break
			}
		}
		n, err := strconv.ParseUint(string(line), 10, 63)
		if err != nil {
			return 0, malformed("sparse map: %.20q is no number", line)
		}
		return int64(n), nil
	}
	count, err := next()
	if count > maxRuns {
		return malformed("sparse map: %d runs", count)
	}
	for ; err == nil && count > 0; count-- {
		var off, n int64
		if off, err = next(); err == nil {
			n, err = next()
		}
		if err == nil {
			err = u.runs.add(off, n, u.size)
		}
	}
	return err
}

// pairs is the map of versions 0.0 and 0.1.
func (u *untarrer) pairs(p []int64) error {
	if len(p)%2 != 0 {
		return malformed("sparse map: a run has no length")
	}
	for ; len(p) > 0; p = p[2:] {
		if err := u.runs.add(p[0], p[1], u.size); err != nil {
			return err
		}
	}
	return nil
}

// content writes the data to its places.
func (u *untarrer) content() error {
	for _, r := range u.runs {
		for r.n > 0 {
			p, err := u.src.next(r.n)
			if errors.Is(err, io.EOF) {
				return malformed("read tar member %q at offset %d: the stream ends too early: %w", u.name, r.off, io.ErrUnexpectedEOF)
			}
			if err != nil {
				return err
			}
			if err := writeData(u.spool, p, r.off); err != nil {
				return fmt.Errorf("write disk: %w", err)
			}
			r.off += int64(len(p))
			r.n -= int64(len(p))
		}
	}
	return u.skip(u.pad)
}

// writeData writes p, which lies at off, without the aligned blocks that are zero.
func writeData(w io.WriterAt, p []byte, off int64) error {
	for len(p) > 0 {
		n, zero := 0, false
		for n < len(p) {
			b := p[n:min(len(p), n+int(spoolBlock-(off+int64(n))%spoolBlock))]
			z := isZero(b)
			if n > 0 && z != zero {
				break
			}
			zero = z
			n += len(b)
		}
		if !zero {
			if _, err := w.WriteAt(p[:n], off); err != nil {
				return fmt.Errorf("at offset %d: %w", off, err)
			}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// isZero tells whether p is all zeros: its first is one, and each is like the next.
func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}

// tail reads what follows the member: zeros, at least one block.
func (u *untarrer) tail() error {
	var sum int64
	for {
		p, err := u.src.next(tarBlock)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if !isZero(p) {
			return u.another(p, sum)
		}
		if sum += int64(len(p)); sum > maxTail {
			return malformed("read tar: more than %d bytes behind member %q", maxTail, u.name)
		}
	}
	if sum < tarBlock {
		return malformed("read tar: cut off behind member %q: %w", u.name, io.ErrUnexpectedEOF)
	}
	return nil
}

// another is the error about bytes behind the member; p is the first of them, and
// sum tells how many came before.
func (u *untarrer) another(p []byte, sum int64) error {
	var h [tarBlock]byte
	n := copy(h[:], p)
	if sum%tarBlock == 0 && u.read(h[n:]) == nil && validSum(h[:]) {
		return malformed("read tar: a second member %q is behind %q", tarName(h[:]), u.name)
	}
	return malformed("read tar: bytes behind member %q are not zero", u.name)
}
