// Package raw is the format without a format: the bytes of the disk.
package raw

import (
	"chromogenic/disk"
	"chromogenic/formats/layout"
)

// Open takes the bytes as one disk.
func Open(img disk.Image) (*disk.Machine, error) {
	return &disk.Machine{Disks: []disk.Disk{{Image: img}}}, nil
}

// Layout is the first disk as it is, its holes included.
func Layout(m *disk.Machine, _ layout.Options) (*layout.File, error) {
	if len(m.Disks) == 0 {
		return nil, disk.Errorf(disk.Invalid, "lay out raw: machine has no disk")
	}
	b := layout.New(1)
	b.Image("disk", m.Disks[0])
	return b.File(), nil
}
