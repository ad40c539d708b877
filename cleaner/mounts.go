package cleaner

import (
	iofs "io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// own tells whether something lies on a filesystem of the guest: a folder of the host
// that is mounted below the root is not the guest's, whatever its name. The subvolumes
// of a btrfs have devices of their own without being mounted.
func (g *Guest) own(dir *os.Root, name string, info iofs.FileInfo) bool {
	device := deviceOf(info)
	if g.devices[device] {
		return true
	}
	if !info.IsDir() {
		return false
	}
	if id, ok := mountOf(dir, name); ok && g.mounts[id] {
		g.devices[device] = true
		return true
	}
	return false
}

// ownAt is own for a path without symlinks.
func (g *Guest) ownAt(n node) bool {
	return g.devices[deviceOf(n.info)] || g.own(g.root, inRoot(n.path), n.info)
}

// adopt takes the filesystem of a folder for one of the guest's.
func (g *Guest) adopt(p string, info iofs.FileInfo) {
	g.devices[deviceOf(info)] = true
	if id, ok := mountOf(g.root, inRoot(p)); ok {
		g.mounts[id] = true
	}
}

// mountOf is the number of the mount that a folder is in, statx(2); kernels of before
// 5.8 do not tell.
func mountOf(dir *os.Root, name string) (uint64, bool) {
	f, err := openQuiet(dir, name)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	var stx unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stx); err != nil {
		return 0, false
	}
	return stx.Mnt_id, stx.Mask&unix.STATX_MNT_ID != 0
}

const (
	// subvolumeInode is that of the root of each, BTRFS_FIRST_FREE_OBJECTID.
	subvolumeInode = 256
	// snapDestroy is BTRFS_IOC_SNAP_DESTROY, linux/btrfs.h.
	snapDestroy = 0x5000940f
)

// volume is struct btrfs_ioctl_vol_args of linux/btrfs.h.
type volume struct {
	fd   int64
	name [4088]byte
}

// destroySubvolume removes a subvolume of a btrfs as a whole, with a read-only snapshot,
// in which no file can be removed. It tells whether it did: what is no subvolume, or
// has others in it, is removed as any folder is.
func destroySubvolume(dir *os.Root, name string, info iofs.FileInfo) bool {
	if statOf(info).Ino != subvolumeInode || len(name) >= len(volume{}.name) {
		return false
	}
	parent, err := openQuiet(dir, ".")
	if err != nil {
		return false
	}
	defer parent.Close()
	var arg volume
	copy(arg.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, parent.Fd(), snapDestroy, uintptr(unsafe.Pointer(&arg)))
	return errno == 0
}
