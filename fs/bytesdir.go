package fs

import (
	"context"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
)

// A bytesDir is a directory of images, or of the disks of one: each is bytes under one
// name, and nothing else can be made there.
type bytesDir struct{ dirNode }

// Fsync does nothing: a name is durable once its commit has returned.
func (d *bytesDir) Fsync(context.Context, gofuse.FileHandle, uint32) syscall.Errno { return 0 }

// Symlink is refused.
func (d *bytesDir) Symlink(_ context.Context, _, name string, _ *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	return nil, d.fail("symlink", name, errNoLinks())
}

// Link is refused.
func (d *bytesDir) Link(_ context.Context, _ gofuse.InodeEmbedder, name string, _ *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	return nil, d.fail("link", name, errNoLinks())
}

// Mknod is refused.
func (d *bytesDir) Mknod(_ context.Context, name string, _, _ uint32, _ *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	return nil, d.fail("mknod", name, errNoLinks())
}

func errNoLinks() error {
	return disk.Errorf(disk.Policy, "only regular files can be made here")
}
