package bundle

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
)

const (
	tarBlock = 512
	// tarRecord is what a tar stream is padded to: 20 blocks, tar(1) --blocking-factor.
	tarRecord = 20 * tarBlock
)

// tarHeader is what stands before the disk in a stream that we make: the header of
// a file of root that was never changed, in the format of GNU tar, in which a size
// may be above 8 GiB.
func tarHeader(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatGNU,
	})
	return b.Bytes(), err
}

// tarTail is how many zeros stand behind the disk: the padding of its last block,
// two blocks that end the archive, and the padding of the last record.
func tarTail(header, size int64) int64 {
	end := header + size
	whole := (end+tarBlock-1)/tarBlock*tarBlock + 2*tarBlock
	return (whole+tarRecord-1)/tarRecord*tarRecord - end
}

// Offsets and lengths of the fields of a tar header: POSIX.1-1988, "ustar", and the
// GNU tar manual, "Basic Tar Format" (struct oldgnu_header, struct sparse).
const (
	nameLen            = 100
	sizeOff, numberLen = 124, 12
	sumOff, sumLen     = 148, 8
	typeOff            = 156
	sparseOff          = 386 // of the map of a sparse member, in its header
	sparseCount        = 4   // entries there
	sparseMore         = 482 // not 0 where a further block of the map follows
	realSizeOff        = 483
	furtherCount       = 21  // entries of a further block
	furtherMore        = 504 // as sparseMore
	sparseEntry        = 2 * numberLen
)

// validSum tells whether the checksum of a header is right: the sum of its bytes,
// where those of the sum itself count as blanks. Some old programs sum signed bytes.
func validSum(h []byte) bool {
	want, err := tarNumber(h[sumOff : sumOff+sumLen])
	if err != nil {
		return false
	}
	var sum, signed int64
	for i, b := range h {
		if i >= sumOff && i < sumOff+sumLen {
			b = ' '
		}
		sum += int64(b)
		signed += int64(int8(b))
	}
	return want == sum || want == signed
}

// tarNumber reads a number: octal digits among blanks and NULs, or binary where the
// first bit is set (GNU tar, for what has more than 11 digits).
func tarNumber(p []byte) (int64, error) {
	if p[0]&0x80 != 0 {
		var n uint64
		for i, b := range p {
			if i == 0 {
				b &= 0x7f
			}
			if n>>55 != 0 {
				return 0, malformed("a number is negative, or too large")
			}
			n = n<<8 | uint64(b)
		}
		return int64(n), nil
	}
	text := strings.Trim(string(p), " \x00")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 8, 63)
	if err != nil {
		return 0, malformed("%q is no number", text)
	}
	return int64(n), nil
}

// tarName is the name of a member, for messages.
func tarName(h []byte) string {
	name, _, _ := bytes.Cut(h[:nameLen], []byte{0})
	return string(name)
}

// A run is a part of a sparse member that is stored.
type run struct {
	off, n int64 // bytes of the file
}

// maxRuns is how many runs a member may have: 16 MiB of memory. They are 8 GiB of a
// disk that has data in every second block of 4 KiB, and EC2 takes 10 GiB.
const maxRuns = 1 << 20

// A sparse map is the runs of a member in order.
type sparseMap []run

// add takes up the next run. Runs ascend, do not touch what is behind size, and may
// be empty: GNU tar marks the end of the file with one.
func (s *sparseMap) add(off, n, size int64) error {
	end := int64(0)
	if l := len(*s); l > 0 {
		last := (*s)[l-1]
		end = last.off + last.n
	}
	switch {
	case off < end || n < 0:
		return malformed("sparse map: run at %d of %d bytes is not behind %d", off, n, end)
	case n > size || off > size-n:
		return malformed("sparse map: run at %d of %d bytes is behind the end at %d", off, n, size)
	case len(*s) == maxRuns:
		return malformed("sparse map: more than %d runs", maxRuns)
	case n > 0:
		*s = append(*s, run{off, n})
	}
	return nil
}

// stored is how many bytes all runs have.
func (s sparseMap) stored() int64 {
	var sum int64
	for _, r := range s {
		sum += r.n
	}
	return sum
}

// addEntries takes up entries of the GNU format; they end at the first without an
// offset.
func (s *sparseMap) addEntries(p []byte, size int64) error {
	for ; len(p) >= sparseEntry && p[0] != 0; p = p[sparseEntry:] {
		off, err := tarNumber(p[:numberLen])
		if err != nil {
			return fmt.Errorf("sparse map: %w", err)
		}
		n, err := tarNumber(p[numberLen:sparseEntry])
		if err != nil {
			return fmt.Errorf("sparse map: %w", err)
		}
		if err := s.add(off, n, size); err != nil {
			return err
		}
	}
	return nil
}

// A paxHeader is what the records of an extended header say that concerns us: the
// GNU tar manual, "PAX Format, Versions 0.0, 0.1 and 1.0".
type paxHeader struct {
	size     int64 // of the member; -1 for not said
	realSize int64 // of the file; -1 for not said
	inData   bool  // the map stands before the data: version 1.0
	pairs    []int64
	sparse   bool
}

// parsePAX reads records: a length in decimal, which counts itself, a blank, a key,
// "=", a value and a line feed.
func parsePAX(p []byte) (paxHeader, error) {
	h := paxHeader{size: -1, realSize: -1}
	for len(p) > 0 {
		digits, _, ok := bytes.Cut(p[:min(len(p), 12)], []byte(" "))
		n, err := strconv.Atoi(string(digits))
		if !ok || err != nil || n <= len(digits)+1 || n > len(p) || p[n-1] != '\n' {
			return h, malformed("extended header: record %.20q has no length", p)
		}
		key, value, ok := strings.Cut(string(p[len(digits)+1:n-1]), "=")
		if !ok {
			return h, malformed("extended header: record %.20q has no value", p)
		}
		if err := h.record(key, value); err != nil {
			return h, fmt.Errorf("extended header: %s: %w", key, err)
		}
		p = p[n:]
	}
	return h, nil
}

func (h *paxHeader) record(key, value string) (err error) {
	switch key {
	case "size":
		h.size, err = number("size", value, math.MaxInt64)
	case "GNU.sparse.realsize", "GNU.sparse.size":
		h.sparse = true
		h.realSize, err = number("size", value, maxSize)
	case "GNU.sparse.major":
		h.sparse = true
		h.inData = value == "1"
		if value != "0" && value != "1" {
			return malformed("version %q is not known", value)
		}
	case "GNU.sparse.offset", "GNU.sparse.numbytes": // by turns: version 0.0
		var n int64
		if n, err = number("number", value, maxSize); err == nil {
			h.pairs = append(h.pairs, n)
		}
	case "GNU.sparse.map": // version 0.1
		h.sparse, h.pairs = true, nil
		for text := range strings.SplitSeq(value, ",") {
			n, err := number("number", text, maxSize)
			if err != nil {
				return err
			}
			h.pairs = append(h.pairs, n)
		}
	}
	if len(h.pairs) > 2*maxRuns {
		return malformed("more than %d runs", maxRuns)
	}
	return err
}
