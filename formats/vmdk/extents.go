package vmdk

import (
	"bytes"
	"fmt"
	"sync/atomic"

	"chromogenic/disk"
)

// openExtents opens a disk whose data lies in files beside its descriptor img,
// one behind the other in the order of the text.
func openExtents(img disk.Image, d *descriptor, resolve disk.Resolver) (*disk.Machine, error) {
	if len(d.extents) == 0 {
		return nil, disk.Errorf(disk.Malformed, "open vmdk: the descriptor lists no extents")
	}
	o := opener{descriptor: img, resolve: resolve, files: map[string]disk.Image{}}
	var total int64
	for _, e := range d.extents {
		if total += e.sectors; total > maxVirtual/sector {
			o.close()
			return nil, disk.Errorf(disk.TooLarge, "open vmdk: extents of more than %d bytes in all", int64(maxVirtual))
		}
		if err := o.open(e); err != nil {
			o.close()
			return nil, err
		}
	}
	return machineOf(disk.Concat(o.parts...), d.bus(), nil)
}

// opener collects the extents of one disk.
type opener struct {
	descriptor disk.Image
	resolve    disk.Resolver
	files      map[string]disk.Image // flat ones; several lines may name parts of one
	parts      []disk.Image
}

func (o *opener) close() {
	for _, p := range o.parts {
		p.Close()
	}
	for _, f := range o.files {
		f.Close()
	}
}

// open appends the image of one extent.
func (o *opener) open(e extent) error {
	switch e.kind {
	case extentZero:
		o.parts = append(o.parts, &zeros{size: e.sectors * sector})
		return nil
	case extentSESparse:
		return errSESparse()
	case extentFlat, extentVMFS:
		return o.openFlat(e)
	case extentSparse, extentCOWD:
		return o.openSparse(e)
	}
	return disk.Errorf(disk.Unsupported, "open vmdk: extent of kind %.40q", e.kind)
}

func (o *opener) openFlat(e extent) error {
	f, err := o.file(e.name)
	if err != nil {
		return err
	}
	off, n := e.offsetSectors*sector, e.sectors*sector
	if off+n > f.Size() {
		return errTruncated(fmt.Sprintf("flat extent %q", e.name), off, n, f.Size())
	}
	o.parts = append(o.parts, owner{disk.Section(f, off, n), f})
	return nil
}

func (o *opener) openSparse(e extent) error {
	if _, used := o.files[e.name]; used {
		return disk.Errorf(disk.Malformed, "open vmdk: extent %q is listed twice", e.name)
	}
	f, err := o.file(e.name)
	if err != nil {
		return err
	}
	s, err := openSparseExtent(f, e.sectors)
	if err != nil {
		return fmt.Errorf("extent %q: %w", e.name, err)
	}
	o.parts = append(o.parts, owner{s, f})
	return nil
}

// openSparseExtent opens a sparse file that is one extent of a disk.
func openSparseExtent(f disk.Image, sectors int64) (*sparse, error) {
	magic := make([]byte, 4)
	if err := disk.ReadFull(f, magic, 0); err != nil {
		return nil, err
	}
	switch string(magic) {
	case magicHosted:
		h, err := readHeader(f)
		if err != nil {
			return nil, err
		}
		text, err := readEmbedded(f, h)
		if err != nil {
			return nil, err
		}
		if len(text) > 0 {
			// Only to refuse what says that it is not all there is.
			if _, err := parseDescriptor(text); err != nil {
				return nil, err
			}
		}
		return openSparse(f, h.geometry(), sectors, text)
	case magicCOWD:
		g, err := readCOWD(f)
		if err != nil {
			return nil, err
		}
		return openSparse(f, g, sectors, nil)
	}
	return nil, disk.Errorf(disk.Malformed, "open vmdk: not a sparse extent")
}

// file opens the file of an extent by its name, once.
func (o *opener) file(name string) (disk.Image, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if f, ok := o.files[name]; ok {
		return f, nil
	}
	if o.resolve == nil {
		return nil, disk.Hint(disk.Errorf(disk.Unsupported, "open vmdk: the disk lies in other files: %q", name),
			"its extents must lie beside its descriptor, in a local folder")
	}
	f, err := o.resolve(name)
	if err != nil {
		if disk.KindOf(err) == disk.NotFound {
			// The image is there, a part of it is not: not the same to a caller.
			err = disk.Errorf(disk.Unsupported, "%w", err)
		}
		return nil, disk.Hint(fmt.Errorf("open vmdk extent %q: %w", name, err), "put the extent beside the descriptor")
	}
	o.files[name] = f
	return f, o.notItself(name, f)
}

// notItself refuses the descriptor as an extent of itself: its text would be
// read as the content of the disk.
func (o *opener) notItself(name string, f disk.Image) error {
	n := o.descriptor.Size()
	if f.Size() != n || n > maxDescriptor {
		return nil
	}
	a, b := make([]byte, n), make([]byte, n)
	if err := disk.ReadFull(f, a, 0); err != nil {
		return err
	}
	if err := disk.ReadFull(o.descriptor, b, 0); err != nil {
		return err
	}
	if bytes.Equal(a, b) {
		return disk.Errorf(disk.Malformed, "open vmdk: extent %q is the descriptor itself", name)
	}
	return nil
}

// owner is an image that closes the file it is made of. Several may share the
// file, whose second Close does nothing.
type owner struct {
	disk.Image
	file disk.Image
}

func (o owner) Close() error {
	o.Image.Close() // of a section or a sparse extent: it cannot fail
	return o.file.Close()
}

// zeros is an extent of kind ZERO.
type zeros struct {
	size   int64
	closed atomic.Bool
}

func (z *zeros) Size() int64 { return z.size }

func (z *zeros) Close() error {
	z.closed.Store(true)
	return nil
}

func (z *zeros) ReadAt(p []byte, off int64) (int, error) {
	if z.closed.Load() {
		return 0, disk.ErrClosed
	}
	q, err := disk.ClipRead(p, off, z.size)
	clear(q)
	return len(q), err
}

func (z *zeros) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, z.size)
	return disk.Extent{Off: off, Len: n, Zero: true}, err
}
