package ova

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"

	"chromogenic/disk"
)

// An archive is the table of contents of a tar file. Content is read through
// sections of the file, at random.
type archive struct {
	img     disk.Image
	members []member
	index   map[string]int // of members, by name
}

// A member is a file of the archive that is none of tar's own.
type member struct {
	name      string // without a leading "./"
	off, size int64  // of its content, in bytes
	regular   bool
	err       error // why the content cannot be read here, or nil
}

// readArchive walks the headers of a tar file (POSIX.1-1988 ustar, POSIX.1-2001
// PAX, GNU, V7), one read for each.
//
// It is strict where bytes could be missing: every member and its padding must
// lie within the file, and an archive that does not end in at least one block of
// zeros is taken for cut off. The second such block may be missing, and what lies
// behind it is ignored, as GNU tar does. A name that occurs twice is refused:
// programs disagree on which one counts.
func readArchive(img disk.Image) (*archive, error) {
	a := &archive{img: img, index: map[string]int{}}
	src := &source{Image: img}
	at := io.NewSectionReader(src, 0, img.Size())
	end := int64(0) // of the last member's padding, as far as that is known
	for r := tar.NewReader(at); ; src.last = 0 {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // names are never paths of the host here
			gzip := end == 0 && isGzip(src)
			switch {
			case src.err != nil:
				return nil, fmt.Errorf("read tar header: %w", src.err)
			case gzip:
				return nil, disk.Hint(disk.Errorf(disk.Unsupported, "read tar: the file is compressed with gzip"), "gunzip it first")
			}
			return nil, disk.Errorf(disk.Malformed, "read tar header behind offset %d: %w", end, err)
		}
		if len(a.members) == maxMembers {
			return nil, disk.Errorf(disk.Malformed, "read tar: more than %d members", maxMembers)
		}
		off, err := at.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := refuse(h); err != nil {
			return nil, err
		}
		m := member{
			name: strings.TrimPrefix(h.Name, "./"), off: off, size: h.Size,
			regular: h.Typeflag == tar.TypeReg || h.Typeflag == '7', // '7' is "contiguous", read as regular
		}
		switch {
		case isSparse(h): // the size is that with the holes; the tar reader checks what is there
			m.regular, end = true, off
			m.err = disk.Hint(disk.Errorf(disk.Unsupported, "read tar: member %q is stored sparse", m.name),
				"pack it again with tar and without --sparse")
		// Written so that no sum overflows: sizes may be near 2^63.
		case m.size > img.Size()-off:
			return nil, disk.Errorf(disk.Malformed, "read tar: member %q of %d bytes at offset %d runs past the end of the file at %d",
				m.name, m.size, off, img.Size())
		default:
			end = off + (m.size+tarBlock-1)/tarBlock*tarBlock
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if _, twice := a.index[m.name]; twice && h.Typeflag != tar.TypeDir {
			return nil, disk.Hint(disk.Errorf(disk.Malformed, "read tar: two members are named %q", m.name),
				"unpack the archive and pack it again")
		}
		a.index[m.name] = len(a.members)
		a.members = append(a.members, m)
	}
	if src.last != tarBlock { // else the tar reader has met a block of zeros
		return nil, disk.Hint(disk.Errorf(disk.Malformed, "read tar: cut off at offset %d, before the end of the archive", img.Size()),
			"the file looks truncated; fetch it again")
	}
	return a, nil
}

// refuse tells why a member makes the whole archive unreadable here.
func refuse(h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		for key := range h.PAXRecords {
			if key == "size" || key == "path" || strings.HasPrefix(key, sparseKeys) {
				return disk.Errorf(disk.Malformed, "read tar: a global header sets the %s of all members", key)
			}
		}
	case 'M': // GNU: continued from another volume
		return disk.Errorf(disk.Unsupported, "read tar: member %q is continued from another volume", h.Name)
	}
	return nil
}

// sparseKeys begin the PAX records of a sparse member.
const sparseKeys = "GNU.sparse."

// isSparse tells whether a member is stored without its holes, by GNU's type or
// by PAX records.
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, sparseKeys) {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// isGzip tells whether a file begins as one of gzip does (RFC 1952).
func isGzip(img disk.Image) bool {
	head := make([]byte, min(2, img.Size()))
	return disk.ReadFull(img, head, 0) == nil && string(head) == "\x1f\x8b"
}

// A source is an image that remembers what the tar reader does not pass on.
type source struct {
	disk.Image
	err  error // why a read failed
	last int   // how many bytes the last read gave
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Image.ReadAt(p, off)
	s.last = n
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// first is the first regular member whose name is wanted.
func (a *archive) first(wanted func(name string) bool) (member, bool) {
	for _, m := range a.members {
		if m.regular && wanted(m.name) {
			return m, true
		}
	}
	return member{}, false
}

// section is the content of a member.
func (a *archive) section(m member) (disk.Image, error) {
	switch {
	case !m.regular:
		return nil, disk.Errorf(disk.Malformed, "open member: %q is not a regular file", m.name)
	case m.err != nil:
		return nil, m.err
	}
	return disk.Section(a.img, m.off, m.size), nil
}

// text is the whole content of a member, of at most limit bytes.
func (a *archive) text(m member, limit int64) ([]byte, error) {
	img, err := a.section(m)
	if err != nil {
		return nil, err
	}
	return readSmall(img, m.name, limit)
}

// open is a disk.Resolver of members.
func (a *archive) open(name string) (disk.Image, error) {
	i, ok := a.index[name]
	if !ok {
		return nil, disk.Errorf(disk.NotFound, "open member: no %q in the archive", name)
	}
	return a.section(a.members[i])
}

// manifests reads all manifests of a folder as one.
func (a *archive) manifests(dir string) (manifest, error) {
	var all manifest
	for _, m := range a.members {
		if !m.regular || !hasExt(m.name, ".mf") || dirOf(m.name) != dir {
			continue
		}
		text, err := a.text(m, maxManifest)
		if err != nil {
			return nil, err
		}
		one, err := parseManifest(text)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", m.name, err)
		}
		if all, err = all.join(one); err != nil {
			return nil, fmt.Errorf("read %q: %w", m.name, err)
		}
	}
	return all, nil
}
