// Package vmdk reads and writes VMware's virtual disks.
//
// It reads hosted sparse extents (monolithicSparse, streamOptimized), the
// extents of ESX (COWD), flat ones, and disks of several of them. It writes one
// kind: streamOptimized, whose grains are stored deflate blocks, so that every
// offset is known before a byte of the disk is read.
//
// The format is that of VMware's technical note "Virtual Disk Format 5.0",
// which comments cite as VDF by section. Where the note is silent the behaviour
// of qemu (block/vmdk.c), open-vmdk (vmdk/sparse.c), VirtualBox (VMDK.cpp) and
// libvmdk's documentation is followed, and named.
package vmdk

import (
	"bytes"

	"chromogenic/disk"
)

// MaxSize is the largest virtual disk, in bytes, that is laid out: 2 TiB, the
// limit of hosted products. Grain tables hold 32-bit sector numbers, so the file
// ends at 2 TiB too, and a disk that is full ends a little earlier: see Layout.
const MaxSize = 2 << 40

// maxVirtual bounds the disks that are read. ESXi's own limit is 62 TiB.
const maxVirtual = 64 << 40

const (
	magicHosted = "KDMV"                             // VDF, Hosted Sparse Extents; open-vmdk SPARSE_MAGICNUMBER
	magicCOWD   = "COWD"                             // VDF, ESXi Host Sparse Extents
	magicSE     = "\xbe\xba\xfe\xca\x00\x00\x00\x00" // qemu SESPARSE_CONST_HEADER_MAGIC
	beside      = "open the descriptor (the small .vmdk text file) and keep its extents beside it"
)

// Probe tells from the beginning of a file whether it is a VMDK: a sparse
// extent, or the text of a descriptor.
func Probe(head []byte) bool {
	return bytes.HasPrefix(head, []byte(magicHosted)) ||
		bytes.HasPrefix(head, []byte(magicCOWD)) ||
		isDescriptor(head)
}

// Open reads a VMDK as a machine of one disk. It walks all tables, so a file
// that is cut off is refused here; it reads no grain but the last compressed
// one's header. Extents in files of their own are opened by resolve, belong to the
// machine, and are closed with it; img stays the caller's.
func Open(img disk.Image, resolve disk.Resolver) (*disk.Machine, error) {
	head := make([]byte, min(int64(probeSize), img.Size()))
	if err := disk.ReadFull(img, head, 0); err != nil {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte(magicHosted)):
		return openHosted(img, resolve)
	case bytes.HasPrefix(head, []byte(magicCOWD)):
		return nil, disk.Hint(disk.Errorf(disk.Unsupported, "open vmdk: an ESX sparse extent without its descriptor"), beside)
	case bytes.HasPrefix(head, []byte(magicSE)):
		return nil, errSESparse()
	case isDescriptor(head):
		return openDescriptorFile(img, resolve)
	}
	return nil, disk.Errorf(disk.Malformed, "open vmdk: neither a sparse extent nor a descriptor")
}

func errSESparse() error {
	return disk.Hint(disk.Errorf(disk.Unsupported, "open vmdk: seSparse extents are not read"),
		"convert the disk with vmkfstools -i SRC -d thin DST")
}

// openHosted opens a hosted sparse extent that is a disk of its own.
func openHosted(img disk.Image, resolve disk.Resolver) (*disk.Machine, error) {
	h, err := readHeader(img)
	if err != nil {
		return nil, err
	}
	text, err := readEmbedded(img, h)
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		// Nothing in such a file tells a whole disk from one extent of several
		// (qemu and VMware make those with an empty descriptor or none), except
		// that a stream is never split (VDF, Stream-Optimized Compressed).
		if !h.stream() {
			return nil, disk.Hint(disk.Errorf(disk.Unsupported, "open vmdk: a sparse extent without a descriptor"), beside)
		}
		s, err := openSparse(img, h.geometry(), 0, nil)
		return machineOf(s, "", err)
	}
	d, err := parseDescriptor(text)
	if err != nil {
		return nil, err
	}
	if h.capacitySectors == 0 {
		// The data is elsewhere: qemu vmdk_open_vmdk4, "header.capacity == 0".
		return openExtents(img, d, resolve)
	}
	var nominal int64
	switch {
	case len(d.extents) > 1:
		return nil, disk.Errorf(disk.Unsupported, "open vmdk: the embedded descriptor lists %d extents, not one", len(d.extents))
	case len(d.extents) == 1 && d.extents[0].kind != extentSparse:
		return nil, disk.Errorf(disk.Malformed, "open vmdk: the embedded descriptor of a sparse extent says %q", d.extents[0].kind)
	case len(d.extents) == 1:
		nominal = d.extents[0].sectors
	}
	s, err := openSparse(img, h.geometry(), nominal, text)
	return machineOf(s, d.bus(), err)
}

// machineOf wraps the one disk of a VMDK.
func machineOf(img disk.Image, bus string, err error) (*disk.Machine, error) {
	if err != nil {
		return nil, err
	}
	return &disk.Machine{Disks: []disk.Disk{{Image: img, Bus: bus}}}, nil
}
