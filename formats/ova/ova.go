// Package ova reads and lays out OVF packages (DMTF DSP0243): a descriptor in
// XML, the disks it names, and maybe a manifest of their digests. A package is
// one tar file, the OVA, or files side by side.
//
// The reader takes what VMware, VirtualBox, oVirt and open-vmdk write and what
// people make by hand with tar: OVF 0.9 to 2.x, members in any order, long names
// and sizes in any dialect of tar. Disks are VMDK or qcow2 inside. It opens no
// file that is not a member, or beside the descriptor under a plain name.
//
// Opening reads the headers of the tar, the descriptor and the manifest, and
// checks the descriptor's digest. The digests of the disks cost a read of
// everything: each disk is a disk.Verifier for that.
//
// The writer makes the descriptor, one streamOptimized VMDK for each disk, and
// nothing else; its formulas are in layout.go.
package ova

import (
	"archive/tar"
	"bytes"
	"path"
	"strings"

	"chromogenic/disk"
)

// What a package may at most hold. A descriptor has some 10 KiB, with all of a
// VirtualBox machine inside 40 KiB, and a manifest has a line for each file.
const (
	maxDescriptor = 4 << 20 // bytes
	maxManifest   = 1 << 20 // bytes
	maxMembers    = 4096    // of the tar file, all types
	maxDisks      = 256
	maxChunks     = 4096 // of one file
)

// tarBlock is the unit of a tar file, in bytes.
const tarBlock = 512

// Probe tells whether head, the beginning of a file, is a tar header with a true
// checksum. A tar file without magic (V7) must name a descriptor there. Whether
// the archive holds a descriptor at all, only Open can tell.
func Probe(head []byte) bool {
	if len(head) < tarBlock {
		return false
	}
	head = head[:tarBlock]
	if string(head[257:262]) == "ustar" { // of ustar, PAX and GNU alike
		return validChecksum(head)
	}
	h, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil && isDescriptor(h.Name)
}

// ProbeOVF tells whether head is the beginning of an OVF descriptor: XML whose
// first element is an Envelope of a namespace of OVF.
func ProbeOVF(head []byte) bool {
	head = bytes.TrimLeft(toUTF8(head), " \t\r\n")
	if len(head) == 0 || head[0] != '<' {
		return false
	}
	for _, open := range []string{"<Envelope", ":Envelope"} {
		if i := bytes.Index(head, []byte(open)); i >= 0 {
			tail := head[i:]
			return bytes.Contains(tail, []byte("/ovf")) || bytes.Contains(tail, []byte("xmlns:ovf"))
		}
	}
	return false
}

// isDescriptor tells whether a member of that name is a descriptor. The files
// that macOS leaves beside each file ("._web.ovf") are not.
func isDescriptor(name string) bool { return hasExt(name, ".ovf") }

func hasExt(name, ext string) bool {
	return strings.EqualFold(path.Ext(name), ext) && !strings.HasPrefix(path.Base(name), ".")
}

// Open reads an OVA: the machine of its first descriptor. It fails with
// Malformed for an archive that is damaged, cut off, or lacks a file that the
// descriptor or the manifest names; with Unsupported for what it cannot read.
func Open(img disk.Image) (*disk.Machine, error) {
	a, err := readArchive(img)
	if err != nil {
		return nil, err
	}
	ovf, ok := a.first(isDescriptor)
	if !ok {
		return nil, disk.Hint(disk.Errorf(disk.Unsupported, "open ova: the archive has no .ovf descriptor"),
			"this is a tar file; unpack it and give the disk image inside")
	}
	p := &pack{dir: dirOf(ovf.name), name: path.Base(ovf.name), resolve: a.open}
	if p.digests, err = a.manifests(p.dir); err != nil {
		return nil, err
	}
	descriptor, err := a.text(ovf, maxDescriptor)
	if err != nil {
		return nil, err
	}
	if err := p.checkNames(); err != nil {
		return nil, err
	}
	return p.open(descriptor)
}

// OpenOVF reads a descriptor whose files lie beside it, where resolve opens them.
// Name is the descriptor's own, "web.ovf": the manifest web.mf is honoured where
// there is one. Without a name none can be found.
func OpenOVF(img disk.Image, name string, resolve disk.Resolver) (*disk.Machine, error) {
	if resolve == nil {
		return nil, disk.Hint(disk.Errorf(disk.Unsupported, "open ovf: the files beside it cannot be reached"),
			"pack the descriptor and its files into an .ova with tar")
	}
	p := &pack{resolve: resolve}
	if name != "" {
		p.name = name
		mf, err := resolve(strings.TrimSuffix(p.name, path.Ext(p.name)) + ".mf")
		switch {
		case err == nil:
			defer mf.Close()
			text, err := readSmall(mf, "the manifest", maxManifest)
			if err != nil {
				return nil, err
			}
			if p.digests, err = parseManifest(text); err != nil {
				return nil, err
			}
		case disk.KindOf(err) != disk.NotFound:
			return nil, err
		}
	}
	descriptor, err := readSmall(img, "the descriptor", maxDescriptor)
	if err != nil {
		return nil, err
	}
	return p.open(descriptor)
}

// readSmall reads all of img, of at most limit bytes.
func readSmall(img disk.Image, name string, limit int64) ([]byte, error) {
	if img.Size() > limit {
		return nil, disk.Errorf(disk.Malformed, "read %q: %d bytes, more than %d", name, img.Size(), limit)
	}
	text := make([]byte, img.Size())
	return text, disk.ReadFull(img, text, 0)
}

// dirOf is the folder of a member with its slash, or empty.
func dirOf(name string) string { return name[:strings.LastIndexByte(name, '/')+1] }
