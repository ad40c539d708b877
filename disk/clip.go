package disk

import "io"

// ClipRead is the beginning of every ReadAt: the part of p that an image of
// size bytes can fill from off, with io.EOF where that is not all of it. For a
// negative offset it is empty with an error.
//
//	q, err := disk.ClipRead(p, off, size)
//	if len(q) == 0 {
//		return 0, err
//	}
func ClipRead(p []byte, off, size int64) ([]byte, error) {
	switch {
	case off < 0:
		return nil, Errorf(Invalid, "read image: offset %d", off)
	case len(p) == 0:
		return nil, nil
	case off >= size:
		return nil, io.EOF
	case int64(len(p)) > size-off:
		return p[:size-off], io.EOF
	}
	return p, nil
}
