package fs

import (
	"context"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// dotDir is a directory of unfinished copies in images/, or in the disks of a machine
// there: the .~tmp~ and --partial-dir of rsync. It holds files and no directories.
type dotDir struct {
	dirNode
	kind *kindNode
	name string // its key in the folder
}

var (
	_ gofuse.NodeLookuper       = (*dotDir)(nil)
	_ gofuse.NodeOpendirHandler = (*dotDir)(nil)
	_ gofuse.NodeSetattrer      = (*dotDir)(nil)
	_ gofuse.NodeFsyncer        = (*dotDir)(nil)
	_ gofuse.NodeCreater        = (*dotDir)(nil)
	_ gofuse.NodeMkdirer        = (*dotDir)(nil)
	_ gofuse.NodeUnlinker       = (*dotDir)(nil)
	_ gofuse.NodeRmdirer        = (*dotDir)(nil)
	_ gofuse.NodeRenamer        = (*dotDir)(nil)
)

// key is that of a name in the directory.
func (d *dotDir) key(name string) string { return d.name + "/" + name }

// Lookup finds a file.
func (d *dotDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	if g, _ := d.kind.folder.hidden(d.key(name)); g != nil {
		return g.attach(ctx, &d.dirNode, out), 0
	}
	return nil, syscall.ENOENT
}

// OpendirHandle lists the files.
func (d *dotDir) OpendirHandle(context.Context, uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	return d.listDir(d.kind.folder.list(d.name, d.kind.path)), 0, 0
}

// Setattr accepts everything and keeps nothing.
func (d *dotDir) Setattr(_ context.Context, _ gofuse.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	d.t.dirAttr(&out.Attr)
	return 0
}

// Fsync has nothing to do.
func (d *dotDir) Fsync(context.Context, gofuse.FileHandle, uint32) syscall.Errno { return 0 }

// Create begins a file of any name.
func (d *dotDir) Create(ctx context.Context, name string, flags, _ uint32, out *fuse.EntryOut) (*gofuse.Inode, gofuse.FileHandle, uint32, syscall.Errno) {
	err := d.kind.writable()
	g := newStaged(d.kind.folder, d.key(name), join(d.path, name), callerProcess(ctx))
	if err == nil {
		err = d.kind.begin(ctx, g, meant(g.key))
	}
	if err != nil {
		return nil, nil, 0, d.fail("create", name, err)
	}
	return g.attach(ctx, &d.dirNode, out), g.open(flags), fuse.FOPEN_DIRECT_IO, 0
}

// Mkdir is refused.
func (d *dotDir) Mkdir(_ context.Context, name string, _ uint32, _ *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	return nil, d.fail("mkdir", name, errFixed())
}

// Rmdir finds no directory.
func (d *dotDir) Rmdir(context.Context, string) syscall.Errno { return syscall.ENOENT }

// Unlink drops a file.
func (d *dotDir) Unlink(_ context.Context, name string) syscall.Errno {
	if err := d.kind.folder.unlink(d.key(name)); err != nil {
		return d.fail("unlink", name, err)
	}
	return 0
}

// Rename publishes a file, or moves it.
func (d *dotDir) Rename(ctx context.Context, name string, to gofuse.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	return d.kind.rename(ctx, &d.dirNode, d.key(name), name, to, newName, flags)
}
