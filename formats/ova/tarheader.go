package ova

import (
	"encoding/binary"
	"fmt"
)

// Offsets and widths of the fields of a tar header: POSIX.1-1988, "Extended tar
// format" of pax(1).
const (
	sumOff, sumLen   = 148, 8
	sizeOff, sizeLen = 124, 12
)

// maxOctalSize is the first size that 11 octal digits do not hold: 8 GiB.
const maxOctalSize = 1 << 33

// tarHeader is the header of a regular file that belongs to root and was never
// changed. Up to 8 GiB it is plain ustar; above, the size is binary, as GNU tar
// and star write it, and the magic is GNU's.
func tarHeader(name string, size int64) []byte {
	h := make([]byte, tarBlock)
	copy(h, name)
	copy(h[100:], "0000644\x00") // mode
	copy(h[108:], "0000000\x00") // uid
	copy(h[116:], "0000000\x00") // gid
	copy(h[136:], "00000000000\x00")
	h[156] = '0' // regular file
	if size < maxOctalSize {
		copy(h[sizeOff:], fmt.Sprintf("%011o\x00", size))
		copy(h[257:], "ustar\x0000")
	} else {
		h[sizeOff] = 0x80
		binary.BigEndian.PutUint64(h[sizeOff+sizeLen-8:], uint64(size))
		copy(h[257:], "ustar  \x00")
	}
	copy(h[329:], "0000000\x000000000\x00") // device numbers
	copy(h[sumOff:], fmt.Sprintf("%06o\x00 ", checksum(h)))
	return h
}

// checksum is the sum of all bytes of a header, those of the checksum itself as
// blanks.
func checksum(h []byte) int64 {
	sum := int64(sumLen * ' ')
	for i, b := range h {
		if i < sumOff || i >= sumOff+sumLen {
			sum += int64(b)
		}
	}
	return sum
}

// validChecksum tells whether a header has its checksum in it.
func validChecksum(h []byte) bool {
	var sum int64
	digits := 0
	for _, b := range h[sumOff : sumOff+sumLen] {
		switch {
		case b >= '0' && b <= '7':
			sum = sum<<3 | int64(b-'0')
			digits++
		case b != ' ' && b != 0:
			return false
		}
	}
	return digits > 0 && sum == checksum(h)
}
