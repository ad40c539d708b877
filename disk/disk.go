// Package disk holds the one noun of chromogenic: an Image, anything that has
// bytes and knows which of them are holes. A virtual disk, a container file, a
// ranged GET and a copy-on-write overlay are all Images, so each can be laid
// out, cached, nested, served and copied by the same code.
//
// The package is the lowest floor. It imports the standard library only, and in
// cache.go alone otter and x/sync.
package disk

import (
	"io"
)

// SectorSize is the unit, in bytes, to which every virtual disk is padded when
// it is laid out in a container.
const SectorSize = 512

// An Image is a disk, or a file, seen as bytes. It is immutable once opened and
// safe for concurrent use.
//
// ReadAt takes no context: a fetch that one reader gave up on finishes into the
// cache, for the next. Close makes blocked and later ReadAts return ErrClosed; a
// second Close does nothing.
// As io.ReaderAt asks, a read that is cut off by the end returns io.EOF with
// the bytes before it.
type Image interface {
	io.ReaderAt
	io.Closer

	// Size is the length in bytes.
	Size() int64

	// Extent describes the run that begins at off, clipped to n bytes and to
	// the end of the image. It looks at metadata only and reads no content.
	// Runs are maximal: where Len < n and the end is not reached, the next run
	// has the other Zero. At Size and beyond it returns io.EOF; a negative off
	// or an n < 1 is an error.
	Extent(off, n int64) (Extent, error)
}

// An Extent is a run of bytes that are all holes or all data.
type Extent struct {
	Off, Len int64 // bytes
	// Zero is true only where every byte reads as zero; it may be false there
	// too, for the metadata need not know.
	Zero bool
}

// End is the offset of the first byte behind the run.
func (e Extent) End() int64 { return e.Off + e.Len }

// An Allocator is an Image that knows, without walking its extents, how many
// bytes it takes where it is kept.
type Allocator interface {
	Allocated() int64 // bytes
}

// Allocated is the number of bytes of img that are not holes.
func Allocated(img Image) (int64, error) {
	if d, ok := img.(Disk); ok {
		return Allocated(d.Image)
	}
	if a, ok := img.(Allocator); ok {
		return a.Allocated(), nil
	}
	var sum int64
	for e, err := range Extents(img) {
		if err != nil {
			return 0, err
		}
		if !e.Zero {
			sum += e.Len
		}
	}
	return sum, nil
}

// Extents yields all the runs of img in order, from 0 to its size.
func Extents(img Image) func(yield func(Extent, error) bool) {
	return func(yield func(Extent, error) bool) {
		for off, size := int64(0), img.Size(); off < size; {
			e, err := img.Extent(off, size-off)
			if !yield(e, err) || err != nil {
				return
			}
			off = e.End()
		}
	}
}

// A Machine is what a container, or an image of a cloud, holds: one disk or
// several. The first is the one it boots from.
type Machine struct {
	Meta  Meta
	Disks []Disk
}

// Close closes every disk, and reports the first error.
func (m *Machine) Close() error {
	var first error
	for _, d := range m.Disks {
		if err := d.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// A Disk is one virtual disk of a machine.
type Disk struct {
	Image
	Device string // the name that the source gives it ("vda", "disk2"); empty when it gives none
	Bus    string // "scsi", "ide", "sata", "virtio" or empty
}

// A Resolver opens a file that a container names as a part of itself: an extent
// of a multi-extent VMDK, a disk beside an OVF. The name is always a plain name
// in the same folder; a reader refuses any other before it asks. A nil Resolver
// refuses all.
type Resolver func(name string) (Image, error)

// CheckRange tells whether off and n are a valid argument of Extent for an image
// of size bytes: io.EOF at the end and beyond, an error for a negative offset or
// an empty run; otherwise n clipped to the end.
func CheckRange(off, n, size int64) (int64, error) {
	switch {
	case off < 0 || n < 1:
		return 0, Errorf(Invalid, "find extent: offset %d length %d", off, n)
	case off >= size:
		return 0, io.EOF
	}
	return min(n, size-off), nil
}
