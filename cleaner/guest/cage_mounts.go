package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What a cage sees of the host, to read: programs, their libraries and, where those
// are kept elsewhere, that.
var hostFolders = []string{"/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/nix/store", "/gnu/store"}

// diskDir is where the files of the partitions are, within a cage.
const diskDir = "/disk"

// secludeMounts gives this process a root of its own: an empty tmpfs with the host's
// programs, a few devices, and nothing else. Only the first process of a mount
// namespace may call it.
func secludeMounts(j job) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("seclude mounts: %w", err)
	}
	// Any folder will do to mount the new root on; it is hidden from us alone.
	base := "/tmp"
	if info, err := os.Stat(base); err != nil || !info.IsDir() {
		base = "/usr"
	}
	size := fmt.Sprintf("size=%d,mode=755", j.Memory+scratchRoom)
	if err := unix.Mount("tmpfs", base, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, size); err != nil {
		return fmt.Errorf("seclude mounts: tmpfs: %w", err)
	}
	for _, dir := range []string{"/tmp", "/disk", "/dev", "/proc", "/old", "/work", "/etc"} {
		if err := os.Mkdir(base+dir, 0o755); err != nil {
			return fmt.Errorf("seclude mounts: %w", err)
		}
	}
	if err := os.Chmod(base+"/tmp", 0o1777); err != nil {
		return fmt.Errorf("seclude mounts: %w", err)
	}
	for _, dir := range hostFolders {
		if err := showFolder(base, dir); err != nil {
			return fmt.Errorf("seclude mounts: %s: %w", dir, err)
		}
	}
	files := []string{"/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/fuse"}
	if j.Access == accessLoop {
		files = files[:1]
		if err := unix.Mount("/dev", base+"/dev", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("seclude mounts: /dev: %w", err)
		}
	}
	for _, file := range files {
		if err := showFile(base, file); err != nil {
			return fmt.Errorf("seclude mounts: %s: %w", file, err)
		}
	}
	// Where the host hides a part of its own, this is refused, and done without.
	_ = unix.Mount("proc", base+"/proc", "proc", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "")
	if err := unix.PivotRoot(base, base+"/old"); err != nil {
		return fmt.Errorf("seclude mounts: pivot_root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("seclude mounts: %w", err)
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("seclude mounts: old root: %w", err)
	}
	return os.Remove("/old")
}

// scratchRoom is how much a cage may keep besides the memory of a machine, in bytes:
// the first root of that and what tools write.
const scratchRoom = 256 << 20

// showFolder binds a folder of the host, to be read; a link stays one.
func showFolder(base, dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		to, err := os.Readlink(dir)
		if err != nil {
			return err
		}
		return os.Symlink(to, base+dir)
	}
	if err := os.MkdirAll(base+dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dir, base+dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	// Kernels before 5.12 cannot; who we are has no right to write there then either.
	err = unix.MountSetattr(unix.AT_FDCWD, base+dir, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID})
	if errors.Is(err, unix.ENOSYS) && !isRootOfHost() {
		return nil
	}
	return err
}

// isRootOfHost tells whether user 0 here is user 0 of the host.
func isRootOfHost() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	var inside, outside, n int64
	if err == nil {
		_, err = fmt.Sscan(string(text), &inside, &outside, &n)
	}
	return err != nil || outside == 0
}

func showFile(base, file string) error {
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.WriteFile(filepath.Join(base, file), nil, 0o600); err != nil {
		return err
	}
	return unix.Mount(file, base+file, "", unix.MS_BIND, "")
}

// mountDisk mounts a FUSE at diskDir and returns the device on which it is answered.
// Those of other users of this namespace may open what is there, for programs run
// without the rights of its first process.
func mountDisk() (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mount disk: open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,max_read=%d", fd, 1<<20)
	if err := unix.Mount("disk", diskDir, "fuse.chromogenic", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, options); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mount disk: %w", err)
	}
	return os.NewFile(uintptr(fd), "/dev/fuse"), nil
}
