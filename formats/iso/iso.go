// Package iso is the image of an optical disc: its bytes are the disk, and it is never
// made of anything else.
package iso

import (
	"bytes"
	"encoding/binary"

	"chromogenic/disk"
)

// Open takes the bytes as one disk.
func Open(img disk.Image) (*disk.Machine, error) {
	return &disk.Machine{Disks: []disk.Disk{{Image: img}}}, nil
}

// The primary volume descriptor (ECMA-119, 6.2.1 and 8.4): behind 16 sectors of 2048
// bytes, which belong to the system.
const (
	sector      = 2048
	descriptors = 16 * sector
)

// Size is that of the volume, in bytes, as its descriptor tells; 0 where there is none,
// as of a disc that has UDF alone. An image may be larger.
func Size(img disk.Image) (int64, error) {
	// The primary one comes first as a rule; anything may come before it but the last.
	for at := int64(descriptors); at < descriptors+64*sector && at+sector <= img.Size(); at += sector {
		d := make([]byte, sector)
		if err := disk.ReadFull(img, d, at); err != nil {
			return 0, err
		}
		switch {
		case !bytes.Equal(d[1:6], []byte("CD001")) || d[0] == 255:
			return 0, nil
		case d[0] == 1:
			// Space size at 80, in blocks of the size at 128: each little-endian first.
			blocks, block := int64(binary.LittleEndian.Uint32(d[80:])), int64(binary.LittleEndian.Uint16(d[128:]))
			return blocks * block, nil
		}
	}
	return 0, nil
}
