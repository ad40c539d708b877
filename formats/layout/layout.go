// Package layout is the engine that all writers of formats share: a file is a
// table of sections and one read loop. Nothing is written anywhere; each byte
// of the file is copied, computed or zero at the moment it is read, and is the
// same at every read.
//
// A writer has one section for each kind of content (header, tables, clusters),
// with arithmetic over the allocation Map inside it, never one for each run:
//
//	b := layout.New(64 << 10)
//	b.Data("header", header)
//	b.Func("L2 tables", n, fill)
//	b.Mapped("clusters", img, m)
//	f := b.File()
package layout

import (
	"crypto/sha256"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync/atomic"

	"chromogenic/disk"
)

// Options say how a layout is made. The zero value makes an uncompressed file
// whose identifiers derive from no seed.
type Options struct {
	Seed []byte // identifiers inside the file derive from it; in the mount sha256(id, version)
	Name string // for people to read, where the format has a field of fixed size for it
}

// Fill computes the bytes of a section: all of p, from off within the section.
// It is a pure function of off, safe for concurrent use.
type Fill func(p []byte, off int64) error

// A Builder collects the sections of a file in order.
type Builder struct {
	align    int64
	sections []section
	size     int64
}

type section struct {
	name  string
	kind  string // "data", "func", "mapped", "image", "zero": for Dump
	off   int64  // in the file
	size  int64
	fill  Fill       // nil for zero
	image disk.Image // of kind "image": its extents are the section's
	note  string     // for Dump: the digest of constant data
}

// New starts a file whose every section begins at a multiple of align bytes.
// The gaps are zero.
func New(align int64) *Builder { return &Builder{align: align} }

// Offset is where the next section would begin.
func (b *Builder) Offset() int64 {
	return (b.size + b.align - 1) / b.align * b.align
}

// add appends s at the next aligned offset. An empty section leaves no trace.
func (b *Builder) add(s section) {
	if s.size == 0 {
		return
	}
	if pad := b.Offset() - b.size; pad > 0 {
		b.sections = append(b.sections, section{name: "padding", kind: "zero", off: b.size, size: pad})
	}
	s.off = b.Offset()
	b.size = s.off + s.size
	b.sections = append(b.sections, s)
}

// Data adds constant bytes. They must not change afterwards.
func (b *Builder) Data(name string, p []byte) {
	b.add(section{
		name: name, kind: "data", size: int64(len(p)), note: fmt.Sprintf("sha256:%.8x", sha256.Sum256(p)),
		fill: func(q []byte, off int64) error { copy(q, p[off:]); return nil },
	})
}

// Func adds n bytes that fill computes when they are read.
func (b *Builder) Func(name string, n int64, fill Fill) {
	b.add(section{name: name, kind: "func", size: n, fill: fill})
}

// Zero adds n zero bytes.
func (b *Builder) Zero(name string, n int64) {
	b.add(section{name: name, kind: "zero", size: n})
}

// Image adds img as it is, its holes included.
func (b *Builder) Image(name string, img disk.Image) {
	b.add(section{
		name: name, kind: "image", size: img.Size(), image: img,
		fill: func(p []byte, off int64) error { return disk.ReadFull(img, p, off) },
	})
}

// Mapped adds the blocks of img that are set in m, packed in the order of the
// disk. Each is whole: what lies behind the end of the disk is zero.
func (b *Builder) Mapped(name string, img disk.Image, m *Map) {
	b.add(section{
		name: name, kind: "mapped", size: m.Allocated() * BlockSize,
		fill: func(p []byte, off int64) error { return readPacked(p, off, img, m) },
	})
}

// readPacked fills p from the packed blocks of img, one read for each run of
// blocks that are neighbours in img too.
func readPacked(p []byte, off int64, img disk.Image, m *Map) error {
	for len(p) > 0 {
		block, in := m.Select(off/BlockSize), off%BlockSize
		run := m.Next(block, false)*BlockSize - (block*BlockSize + in)
		n := min(run, int64(len(p)))
		if err := disk.ReadFull(img, p[:n], block*BlockSize+in); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// File ends the building. The last section is not padded; add a Zero for that.
func (b *Builder) File() *File {
	return &File{sections: b.sections, size: b.size}
}

// A File is a container as a pure function of what was laid out: an immutable
// disk.Image. Its Close ends its own reads and leaves open the images that it
// was made of, which belong to the caller.
type File struct {
	sections []section
	size     int64
	closed   atomic.Bool
}

var _ disk.Allocator = (*File)(nil)

// Size is the exact length in bytes.
func (f *File) Size() int64 { return f.size }

// Close makes later reads fail.
func (f *File) Close() error {
	f.closed.Store(true)
	return nil
}

// find is the index of the section that holds off, which is within the file.
func (f *File) find(off int64) int {
	return sort.Search(len(f.sections), func(i int) bool { return f.sections[i].off > off }) - 1
}

// ReadAt reads the file as io.ReaderAt does.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if f.closed.Load() {
		return 0, disk.ErrClosed
	}
	if off < 0 {
		return 0, disk.Errorf(disk.Invalid, "read layout: offset %d", off)
	}
	if off >= f.size {
		return 0, io.EOF
	}
	done := 0
	for i := f.find(off); i < len(f.sections) && done < len(p); i++ {
		s := &f.sections[i]
		in := off + int64(done) - s.off
		q := p[done:]
		if int64(len(q)) > s.size-in {
			q = q[:s.size-in]
		}
		if s.fill == nil {
			clear(q)
		} else if err := s.fill(q, in); err != nil {
			return done, fmt.Errorf("read %s at offset %d: %w", s.name, off+int64(done), err)
		}
		done += len(q)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// Extent is that of disk.Image: zero sections and the holes of images are
// Zero, all else is data.
func (f *File) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, f.size)
	if err != nil {
		return disk.Extent{}, err
	}
	e := disk.Extent{Off: off}
	for i := f.find(off); e.Len < n; {
		s := &f.sections[i]
		at := off + e.Len
		part := disk.Extent{Len: min(s.off+s.size-at, n-e.Len), Zero: s.fill == nil}
		if s.image != nil {
			if part, err = s.image.Extent(at-s.off, part.Len); err != nil {
				return disk.Extent{}, fmt.Errorf("find extent of %s: %w", s.name, err)
			}
		}
		if e.Len > 0 && part.Zero != e.Zero {
			break
		}
		e.Zero = part.Zero
		e.Len += part.Len
		if off+e.Len >= s.off+s.size {
			i++
		}
	}
	return e, nil
}

// Allocated is the number of bytes that are not holes.
func (f *File) Allocated() int64 {
	var sum int64
	for i := range f.sections {
		s := &f.sections[i]
		switch {
		case s.image != nil:
			n, err := disk.Allocated(s.image)
			if err != nil {
				n = s.size
			}
			sum += n
		case s.fill != nil:
			sum += s.size
		}
	}
	return sum
}

// Dump is the table of sections as text, one a line: offset, size, kind, name
// and, for constant bytes, their digest.
func (f *File) Dump() string {
	var b strings.Builder
	for _, s := range f.sections {
		fmt.Fprintf(&b, "%14d %14d  %-6s  %s %s\n", s.off, s.size, s.kind, s.name, s.note)
	}
	fmt.Fprintf(&b, "%14d\n", f.size)
	return strings.ReplaceAll(b.String(), " \n", "\n")
}
