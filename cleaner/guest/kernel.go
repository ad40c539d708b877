package guest

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// A kernelMounter mounts block devices with the drivers of the kernel that it runs
// on: that of user-mode-linux, or the host's.
type kernelMounter struct {
	device func(v volumeOf) (string, error)
}

// mountFlags: what a guest has as device, or as program of another's rights, is
// neither here. Times of access are not ours to change.
const mountFlags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOATIME

func (k kernelMounter) mount(v volumeOf, dir, subvol string, readOnly bool) error {
	device, err := k.device(v)
	if err != nil {
		return err
	}
	flags := uintptr(mountFlags)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	var options []string
	switch v.Type {
	case "ext2", "ext3", "ext4":
		// The superblock may ask for a panic.
		options = append(options, "errors=remount-ro")
	case "xfs":
		options = append(options, "nouuid")
	case "btrfs":
		if id, ok := strings.CutPrefix(subvol, "id="); ok {
			options = append(options, "subvolid="+id)
		} else if subvol != "" {
			options = append(options, "subvol="+subvol)
		}
	}
	if err := unix.Mount(device, dir, v.Type, flags, strings.Join(options, ",")); err != nil {
		if err == unix.ENODEV {
			return fmt.Errorf("mount: the kernel has no driver for %s: %w", v.Type, err)
		}
		return fmt.Errorf("mount: %w", err)
	}
	return nil
}

func (kernelMounter) unmount(dir string) error { return unix.Unmount(dir, 0) }
