package disk_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"chromogenic/disk"
)

// What the kernel and the standard library say is classified, however deep it lies.
func TestKindOfErrno(t *testing.T) {
	for err, want := range map[error]disk.Kind{
		syscall.ENOSPC: disk.NoSpace, syscall.EDQUOT: disk.Quota, syscall.EROFS: disk.ReadOnly, syscall.EFBIG: disk.TooLarge,
		syscall.ESTALE: disk.Stale, syscall.ENOENT: disk.NotFound, syscall.EEXIST: disk.Exists, syscall.EACCES: disk.Denied,
		syscall.ENOTCONN: disk.Unreachable, syscall.ECONNABORTED: disk.Unreachable, syscall.EHOSTDOWN: disk.Unreachable,
		syscall.ENODEV: disk.Unreachable, syscall.ETIMEDOUT: disk.Timeout, syscall.EIO: disk.Other,
		context.Canceled: disk.Cancelled, context.DeadlineExceeded: disk.Timeout,
	} {
		deep := fmt.Errorf("do: %w", &fs.PathError{Op: "read", Path: "x", Err: err})
		for _, err := range []error{err, deep, os.NewSyscallError("read", err)} {
			if got := disk.KindOf(err); got != want {
				t.Errorf("%v is %v, want %v", err, got, want)
			}
		}
	}
}
