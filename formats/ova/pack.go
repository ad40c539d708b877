package ova

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"

	"chromogenic/disk"
	"chromogenic/formats/layout"
	"chromogenic/formats/qcow2"
	"chromogenic/formats/vmdk"
)

// probeSize is how much of a file tells its format, in bytes.
const probeSize = 2048

// A pack is the files of a package: the members of an OVA or what lies beside a
// descriptor.
type pack struct {
	name    string        // of the descriptor, without its folder; empty when unknown
	dir     string        // of the descriptor within the archive, with its slash
	resolve disk.Resolver // opens a file by dir and name
	digests manifest      // by name without the folder
}

// A file is one that was opened, as the manifest knows it.
type file struct {
	disk.Image
	name string
}

// open makes the machine that the descriptor describes.
func (p *pack) open(descriptor []byte) (*disk.Machine, error) {
	if err := p.digests.verify(context.Background(), p.name, disk.Bytes(descriptor)); err != nil {
		return nil, err
	}
	e, err := parseEnvelope(descriptor)
	if err != nil {
		return nil, err
	}
	disks, err := e.attached()
	if err != nil {
		return nil, err
	}
	if len(disks) == 0 {
		return nil, disk.Errorf(disk.Unsupported, "open ovf: the machine has no disk")
	}
	m := &disk.Machine{Meta: e.meta()}
	for _, d := range disks {
		opened, err := p.openDisk(e, d)
		if err != nil {
			m.Close()
			return nil, fmt.Errorf("open disk %q: %w", d.id, err)
		}
		m.Disks = append(m.Disks, opened)
	}
	m.Meta.DiskBus = m.Disks[0].Bus
	return m, nil
}

// openDisk opens the file of a disk and what is inside. A disk without a file
// begins empty (DSP0243 9.1).
func (p *pack) openDisk(e *envelope, d virtualDisk) (none disk.Disk, err error) {
	if d.parentRef != "" {
		return none, disk.Hint(disk.Errorf(disk.Unsupported, "the disk holds only what differs from disk %q", d.parentRef),
			"export the machine without snapshots")
	}
	if d.fileRef == "" {
		if d.capacityErr != nil {
			return none, d.capacityErr
		}
		if d.capacity < 1 {
			return none, disk.Errorf(disk.Unsupported, "the disk has neither a file nor a capacity")
		}
		b := layout.New(1)
		b.Zero("empty disk", d.capacity)
		return disk.Disk{Image: b.File(), Device: d.id, Bus: d.bus}, nil
	}
	ref, ok := e.files[d.fileRef]
	if !ok {
		return none, disk.Errorf(disk.Malformed, "no file has the id %q", d.fileRef)
	}
	if c := ref.compression; c != "" && c != "identity" {
		return none, disk.Hint(disk.Errorf(disk.Unsupported, "file %q is compressed with %q", ref.href, c),
			"unpack the package and the disk, and convert that")
	}
	whole, err := p.openFile(ref)
	if err != nil {
		return none, err
	}
	v := &packed{whole: whole, digests: p.digests, files: whole.files}
	inner, err := p.decode(whole, d.format, v)
	if err != nil {
		whole.Close()
		return none, fmt.Errorf("read %q: %w", ref.href, err)
	}
	v.Image = inner.Image
	return disk.Disk{Image: v, Device: d.id, Bus: cmp.Or(d.bus, inner.Bus)}, nil
}

// decode finds the disk in a file by the file's magic. A raw disk has none, and
// one that is taken for raw by mistake would be published in silence.
func (p *pack) decode(img disk.Image, format string, v *packed) (none disk.Disk, err error) {
	head := make([]byte, min(probeSize, img.Size()))
	if err := disk.ReadFull(img, head, 0); err != nil {
		return none, err
	}
	var m *disk.Machine
	switch {
	case vmdk.Probe(head):
		m, err = vmdk.Open(img, func(name string) (disk.Image, error) {
			extent, err := p.openNamed(name)
			if err == nil {
				v.files = append(v.files, file{extent, name})
			}
			return extent, err
		})
	case qcow2.Probe(head):
		m, err = qcow2.Open(img, nil)
		if errors.Is(err, qcow2.ErrNoBacking) { // its own advice is for a disk outside a package
			err = &disk.Error{Kind: disk.KindOf(err), Hint: "export the machine with its disks flattened", Err: err}
		}
	default:
		return none, disk.Hint(disk.Errorf(disk.Unsupported, "neither a VMDK nor a qcow2 disk; the descriptor says %q", cmp.Or(format, "nothing")),
			"unpack the package and convert the disk by its own format")
	}
	if err != nil {
		return none, err
	}
	if len(m.Disks) != 1 {
		m.Close()
		return none, disk.Errorf(disk.Malformed, "%d disks in one file", len(m.Disks))
	}
	return m.Disks[0], nil
}

// A whole is the content of a File of the descriptor, and the files it lies in.
type whole struct {
	disk.Image
	files []file
}

// openFile opens a File. Its href is a plain name or refused, maybe with escapes
// of URIs (ovftool writes %20). One that is cut in chunks (DSP0243 7.1) is there
// as href.000000000, href.000000001 and so on; VMware also writes such names
// without saying so in the descriptor, and others say so of a file that is whole.
func (p *pack) openFile(ref fileRef) (*whole, error) {
	names := []string{strings.TrimPrefix(ref.href, "./")}
	if plain, err := url.PathUnescape(names[0]); err == nil && plain != names[0] {
		names = append(names, plain)
	}
	for _, name := range names {
		if err := checkName(name); err != nil {
			return nil, err
		}
		img, err := p.openNamed(name)
		if err == nil {
			return &whole{img, []file{{img, name}}}, nil
		}
		if disk.KindOf(err) != disk.NotFound {
			return nil, err
		}
		w, err := p.openChunks(name, ref)
		if err == nil || disk.KindOf(err) != disk.NotFound {
			return w, err
		}
	}
	return nil, disk.Errorf(disk.Malformed, "the package lacks the file %q", ref.href)
}

// checkName refuses every name that could lead elsewhere.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\\\x00") || strings.Contains(name, "://") {
		return disk.Hint(disk.Errorf(disk.Malformed, "the file %q is not a plain name in the package", name),
			"only files inside the package are read")
	}
	return nil
}

func (p *pack) openNamed(name string) (disk.Image, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	return p.resolve(p.dir + name)
}

// openChunks opens all chunks of a file. NotFound means that there is not even
// the first.
func (p *pack) openChunks(name string, ref fileRef) (*whole, error) {
	var files []file
	var imgs []disk.Image
	fail := func(err error) (*whole, error) {
		disk.Concat(imgs...).Close()
		return nil, err
	}
	size := int64(0)
	for len(imgs) < maxChunks {
		chunk := fmt.Sprintf("%s.%09d", name, len(imgs))
		img, err := p.openNamed(chunk)
		if disk.KindOf(err) == disk.NotFound && len(imgs) > 0 {
			break
		}
		if err != nil {
			return fail(err)
		}
		if size != int64(len(imgs))*ref.chunkSize { // all but the last are of that size; of 0 there is but one
			img.Close()
			return fail(disk.Errorf(disk.Malformed, "%q begins at byte %d, in chunks of %d", chunk, size, ref.chunkSize))
		}
		imgs = append(imgs, img)
		files = append(files, file{img, chunk})
		size += img.Size()
	}
	if ref.chunkSize > 0 && ref.size >= 0 && size != ref.size {
		return fail(disk.Errorf(disk.Malformed, "the chunks of %q have %d bytes together, not %d", name, size, ref.size))
	}
	// A chunk that is missing must not pass for the end where no size is given.
	if gap, err := p.openNamed(fmt.Sprintf("%s.%09d", name, len(imgs)+1)); err == nil {
		gap.Close()
		return fail(disk.Errorf(disk.Malformed, "chunk %d of %q is missing", len(imgs), name))
	}
	all := disk.Concat(imgs...)
	return &whole{all, append(files, file{all, name})}, nil
}

// checkNames refuses a manifest that lists a file which the package does not
// have: something is lost, be it the file or its name.
func (p *pack) checkNames() error {
	for name := range p.digests {
		img, err := p.resolve(p.dir + name)
		if disk.KindOf(err) == disk.NotFound { // a chunked file may be listed as a whole
			img, err = p.resolve(p.dir + name + ".000000000")
		}
		switch {
		case disk.KindOf(err) == disk.NotFound:
			return disk.Hint(disk.Errorf(disk.Malformed, "read manifest: the package lacks %q", name),
				"the package is incomplete; fetch it again")
		case err != nil:
			return fmt.Errorf("read manifest: %w", err)
		}
		img.Close()
	}
	return nil
}

// packed is a disk of a package with the files that its bytes come from.
type packed struct {
	disk.Image
	whole    *whole // owned
	files    []file
	digests  manifest
	verified atomic.Bool
}

var (
	_ disk.Verifier  = (*packed)(nil)
	_ disk.Allocator = (*packed)(nil)
)

// Verify compares every file of the disk with the manifest, once.
func (v *packed) Verify(ctx context.Context) error {
	if v.verified.Load() {
		return nil
	}
	for _, f := range v.files {
		if err := v.digests.verify(ctx, f.name, f.Image); err != nil {
			return err
		}
	}
	v.verified.Store(true)
	return nil
}

// Allocated is what the disk in the file says, or all of it.
func (v *packed) Allocated() int64 {
	n, err := disk.Allocated(v.Image)
	if err != nil {
		return v.Size()
	}
	return n
}

// Close closes the disk and the files.
func (v *packed) Close() error { return errors.Join(v.Image.Close(), v.whole.Close()) }
