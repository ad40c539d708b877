package ova

import (
	"crypto/sha256"
	"fmt"

	"chromogenic/disk"
	"chromogenic/formats/layout"
	"chromogenic/formats/vmdk"
)

// The names of the members. They are the same in every OVA, so that no size
// depends on a name.
const descriptorName = "machine.ovf"

func diskName(i int) string { return fmt.Sprintf("disk%d.vmdk", i+1) }

// Layout makes an OVA of all disks of the machine:
//
//	tar header, machine.ovf    12 KiB and 1 KiB for each disk, whatever it says
//	tar header, disk1.vmdk     streamOptimized, as vmdk.Layout makes it
//	…                          the other disks
//	1024 zero bytes            the end of the archive
//
// The descriptor is the first member, as VMware demands, and there is no
// manifest: its digests would cost a read of all disks before the first byte,
// and every importer goes without.
//
// The bytes are a function of the disks, the machine's Meta and o alone. A disk
// of no bytes is Invalid; one that does not fit in a VMDK is TooLarge.
func Layout(m *disk.Machine, o layout.Options) (*layout.File, error) {
	if len(m.Disks) == 0 {
		return nil, disk.Errorf(disk.Invalid, "lay out ova: the machine has no disk")
	}
	if len(m.Disks) > maxWritten {
		return nil, disk.Errorf(disk.Invalid, "lay out ova: %d disks, more than %d", len(m.Disks), maxWritten)
	}
	parts := make([]part, len(m.Disks))
	for i, d := range m.Disks {
		var err error
		if parts[i], err = layOutDisk(d, i, o); err != nil {
			return nil, fmt.Errorf("lay out ova: disk %d: %w", i+1, err)
		}
	}
	descriptor, err := describe(m, o.Name, parts)
	if err != nil {
		return nil, err
	}
	b := layout.New(tarBlock)
	b.Data("tar header", tarHeader(descriptorName, int64(len(descriptor))))
	b.Data(descriptorName, descriptor)
	for i, p := range parts {
		b.Data("tar header", tarHeader(diskName(i), p.file.Size()))
		b.Image(diskName(i), p.file)
	}
	b.Zero("end of archive", 2*tarBlock)
	return b.File(), nil
}

// A part is a disk as the descriptor sees it.
type part struct {
	file      *layout.File
	capacity  int64 // bytes, whole sectors
	populated int64 // bytes of the disk that are stored
}

// layOutDisk lays out one disk. The seed of each but the first is its own, for
// no two VMDKs may have one content id.
func layOutDisk(d disk.Disk, i int, o layout.Options) (part, error) {
	size := d.Size()
	if size < 1 {
		return part{}, disk.Errorf(disk.Invalid, "it has no bytes")
	}
	m, err := layout.MapOf(d)
	if err != nil {
		return part{}, err
	}
	seed := o.Seed
	if i > 0 {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s disk %d", o.Seed, i+1))
		seed = sum[:]
	}
	d.Image = layout.Frozen(d.Image, m) // the map is made once
	one := &disk.Machine{Disks: []disk.Disk{d}}
	f, err := vmdk.Layout(one, layout.Options{Seed: seed, Name: diskName(i)})
	if err != nil {
		return part{}, err
	}
	return part{
		file:      f,
		capacity:  (size + disk.SectorSize - 1) / disk.SectorSize * disk.SectorSize,
		populated: m.Allocated() * layout.BlockSize,
	}, nil
}
