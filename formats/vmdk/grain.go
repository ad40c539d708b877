package vmdk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"

	"chromogenic/disk"
)

// Lengths of what stands before the data of a compressed grain.
const (
	grainMarkerLen = 12 // VDF, grain marker: sector of the disk, length of the data
	sizedLen       = 4  // open-vmdk SparsePread without SPARSEFLAG_EMBEDDED_LBA: the length
)

// An inflater is what inflating one grain takes.
type inflater struct {
	in  []byte
	src bytes.Reader
	zr  io.ReadCloser
}

// compressedData finds the data of a compressed grain: where it lies in the file
// and its length, of which only the beginning may be needed.
func (s *sparse) compressedData(grain, at int64) (off, n int64, err error) {
	off = at * sector
	left := s.img.Size() - off
	p := make([]byte, min(grainMarkerLen, left))
	if err := disk.ReadFull(s.img, p, off); err != nil {
		return 0, 0, err
	}
	what := fmt.Sprintf("grain of disk offset %d", grain*s.grainSize)
	if len(p) < grainMarkerLen {
		return 0, 0, errTruncated(what, off, grainMarkerLen, s.img.Size())
	}
	limit := 2 * s.grainSize // as qemu's vmdk_read_extent; deflate's worst is far less
	head := int64(grainMarkerLen)
	switch {
	case s.markers:
		if lba := binary.LittleEndian.Uint64(p); lba != uint64(grain*s.grainSize/sector) {
			return 0, 0, disk.Errorf(disk.Malformed, "%s at file offset %d: its marker says disk sector %d", what, off, lba)
		}
		n = int64(binary.LittleEndian.Uint32(p[8:]))
	case sized(p, limit):
		head, n = sizedLen, int64(binary.LittleEndian.Uint32(p))
	default:
		// qemu: the data begins at once, and ends where it ends.
		head, n = 0, min(limit, left)
	}
	if n < 1 || n > limit {
		return 0, 0, disk.Errorf(disk.Malformed, "%s at file offset %d: compressed length %d", what, off, n)
	}
	if head+n > left {
		return 0, 0, errTruncated(what, off, head+n, s.img.Size())
	}
	return off + head, n, nil
}

// sized tells the two readings of a compressed grain without a marker apart: a
// length and then a zlib header, or the zlib header at once. No compressor
// begins a stream such that it is both.
func sized(p []byte, limit int64) bool {
	n := int64(binary.LittleEndian.Uint32(p))
	zlibHeader := binary.BigEndian.Uint16(p[sizedLen:]) // RFC 1950, 2.2: deflate, and a multiple of 31
	return n > 0 && n <= limit && p[sizedLen]&15 == 8 && zlibHeader%31 == 0
}

// inflate reads a compressed grain, whole.
func (s *sparse) inflate(grain, at int64) ([]byte, error) {
	off, n, err := s.compressedData(grain, at)
	if err != nil {
		return nil, err
	}
	f := s.inflaters.Get().(*inflater)
	defer s.inflaters.Put(f)
	if int64(cap(f.in)) < n {
		f.in = make([]byte, max(n, s.grainSize))
	}
	f.in = f.in[:n]
	if err := disk.ReadFull(s.img, f.in, off); err != nil {
		return nil, err
	}
	out := make([]byte, s.grainSize)
	if err := f.inflate(out, s.need(grain)); err != nil {
		return nil, disk.Errorf(disk.Malformed, "inflate grain of disk offset %d at file offset %d: %w", grain*s.grainSize, off, err)
	}
	return out, nil
}

// inflate fills out from the stream in f.in. The stream may end after need bytes
// (of the last grain some writers compress only what is of the disk), and must
// end with out.
func (f *inflater) inflate(out []byte, need int64) error {
	f.src.Reset(f.in)
	var err error
	if f.zr == nil {
		f.zr, err = zlib.NewReader(&f.src)
	} else {
		err = f.zr.(zlib.Resetter).Reset(&f.src, nil)
	}
	if err != nil {
		return err
	}
	n, err := io.ReadFull(f.zr, out)
	switch {
	case err == nil:
		// The checksum is verified where the stream ends.
		if n, err := io.ReadFull(f.zr, make([]byte, 1)); n != 0 {
			return fmt.Errorf("more than %d bytes", len(out))
		} else if !errors.Is(err, io.EOF) {
			return err
		}
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		// Either the stream is complete and shorter, or it is cut off; only the
		// reader knows, and repeats its error.
		if _, end := f.zr.Read(make([]byte, 1)); end != io.EOF {
			return fmt.Errorf("data cut off: %w", io.ErrUnexpectedEOF)
		}
		if int64(n) < need {
			return fmt.Errorf("%d of %d bytes", n, need)
		}
	default:
		return err
	}
	return nil
}
