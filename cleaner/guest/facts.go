package guest

import (
	"context"
	"os"
)

// Facts say what a disk holds, as far as it could be found out.
type Facts struct {
	Table       string       `json:"table"`              // "gpt", "mbr", or "none" where a filesystem fills the disk
	Filesystems []Filesystem `json:"filesystems"`        // in order of their place on the disk
	Access      string       `json:"access"`             // the backend: "uml", "fuse2fs", "loop"
	Warnings    []string     `json:"warnings,omitempty"` // what could not be done, and why, a sentence each
}

// A Filesystem is one partition, or the whole disk, and what it is to the guest.
type Filesystem struct {
	Number     int    `json:"number"` // of the partition, from 1; 0 is the whole disk
	Offset     int64  `json:"offset"` // bytes from the start of the disk
	Size       int64  `json:"size"`   // bytes
	Type       string `json:"type"`   // "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "swap", "luks", "lvm", "bios-boot", "" unknown
	UUID       string `json:"uuid,omitempty"`
	Label      string `json:"label,omitempty"`
	Mountpoint string `json:"mountpoint,omitempty"` // in the guest: "/", "/boot/efi"; empty: not mounted
	Reason     string `json:"reason,omitempty"`     // why it could not be mounted or cleaned
}

// Work is done on a mounted guest: root is its "/", with its other filesystems in
// their places below. It runs in a process, or a kernel, of its own, and so is told
// all by order and tells all by reply, which are JSON of its own making. An error
// ends the run, and its text is what the caller of Run gets.
type Work func(ctx context.Context, root *os.Root, facts Facts, order []byte) (reply []byte, err error)
