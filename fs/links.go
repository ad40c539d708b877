package fs

import (
	"context"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// byIDNode is images/by-id: a symlink for each id, to the file of that name.
type byIDNode struct {
	fixedDir
	kind *kindNode
}

var (
	_ gofuse.NodeLookuper       = (*byIDNode)(nil)
	_ gofuse.NodeOpendirHandler = (*byIDNode)(nil)
)

// Lookup finds <id>.<fmt>.
func (n *byIDNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	stem, f, ok := n.kind.parse(name)
	if !ok {
		return nil, syscall.ENOENT
	}
	x, err := n.kind.index(ctx)
	if err != nil {
		return nil, n.fail("lookup", name, err)
	}
	e, ok := x.ID(stem)
	if !ok {
		return nil, syscall.ENOENT
	}
	l := &gofuse.MemSymlink{Data: []byte("../" + e.Name + "." + f.Exts[0])}
	l.Attr = fuse.Attr{Mode: syscall.S_IFLNK | 0o777, Nlink: 1, Size: uint64(len(l.Data)), Owner: n.t.owner}
	out.Attr = l.Attr
	out.SetEntryTimeout(attrTime)
	out.SetAttrTimeout(attrTime)
	return n.NewInode(ctx, l, gofuse.StableAttr{Mode: syscall.S_IFLNK, Ino: n.inode(name, e.Name)}), 0
}

func (n *byIDNode) inode(name, target string) uint64 { return inode("link", n.path, name, target) }

// OpendirHandle lists the links of all files that the directory above lists.
func (n *byIDNode) OpendirHandle(ctx context.Context, _ uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	files, err := n.kind.files(ctx)
	if err != nil {
		return nil, 0, n.fail("readdir", "", err)
	}
	n.t.solve(n.path)
	var links []fuse.DirEntry
	for _, f := range files {
		name := Encode(f.of.Entry.ID) + "." + f.ext
		links = append(links, fuse.DirEntry{Mode: syscall.S_IFLNK, Name: name, Ino: n.inode(name, f.of.Name)})
	}
	return n.listDir(links), 0, 0
}
