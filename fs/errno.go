package fs

import (
	"syscall"

	"chromogenic/disk"
)

// errnoOf is the one table from what went wrong to what a program is told. Every
// errno of the mount that explains a failure of ours comes from here.
func errnoOf(k disk.Kind) syscall.Errno {
	switch k {
	case disk.NotFound:
		return syscall.ENOENT
	case disk.Unreachable:
		return syscall.EHOSTUNREACH
	case disk.Denied:
		return syscall.EACCES
	case disk.Policy:
		return syscall.EPERM
	case disk.ReadOnly:
		return syscall.EROFS
	case disk.Exists:
		return syscall.EEXIST
	case disk.Busy:
		return syscall.EBUSY
	case disk.Quota:
		return syscall.EDQUOT
	case disk.NoSpace:
		return syscall.ENOSPC
	case disk.TooLarge:
		return syscall.EFBIG
	case disk.Unsupported:
		return syscall.ENOTSUP
	case disk.Malformed:
		return syscall.EBADMSG
	case disk.Stale:
		return syscall.ESTALE
	case disk.Timeout:
		return syscall.ETIMEDOUT
	case disk.Cancelled:
		return syscall.ECANCELED
	case disk.Interrupted:
		return syscall.EINTR
	case disk.Invalid:
		return syscall.EINVAL
	}
	return syscall.EIO
}

// Errno is what a program is told of err; 0 for nil.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	return errnoOf(disk.KindOf(err))
}
