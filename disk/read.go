package disk

import (
	"errors"
	"fmt"
	"io"
)

// ReadFull fills p with the bytes of img at off. What lies at the image's size
// and beyond reads as zero, as the padding of a container does. A short read
// within the size is an error: no byte is ever made up.
func ReadFull(img Image, p []byte, off int64) error {
	want := int64(len(p))
	if left := img.Size() - off; want > left {
		want = max(left, 0)
		clear(p[want:])
	}
	if want == 0 {
		return nil
	}
	n, err := img.ReadAt(p[:want], off)
	if int64(n) == want {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = Errorf(Malformed, "got %d of %d bytes: %w", n, want, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read image at offset %d: %w", off, err)
}
