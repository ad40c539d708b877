package fs

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
	"chromogenic/pipeline"
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
		name := Encode(f.Entry.ID) + "." + f.format.Exts[0]
		links = append(links, fuse.DirEntry{Mode: syscall.S_IFLNK, Name: name, Ino: n.inode(name, f.Name)})
	}
	return n.listDir(links), 0, 0
}

// disksNode is <name>.disks: each disk of a machine on its own, named
// <n>-<device>.<fmt>.
type disksNode struct {
	fixedDir
	kind  *kindNode
	ref   pipeline.Ref
	disks []disk.Disk
}

var (
	_ gofuse.NodeLookuper       = (*disksNode)(nil)
	_ gofuse.NodeOpendirHandler = (*disksNode)(nil)
)

// lookupDisks finds the directory of an image's disks.
func (k *kindNode) lookupDisks(ctx context.Context, name, stem string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	ctx, cancel := patient(ctx)
	defer cancel()
	n, err := k.find(ctx, stem)
	if err != nil {
		return nil, k.fail("lookup", name, err)
	}
	if n == nil {
		return nil, syscall.ENOENT
	}
	ref := pipeline.Ref{Site: k.site, Entry: n.Entry, Format: "raw"}
	m, err := k.t.p.Machine(ctx, ref)
	if err != nil {
		return nil, k.fail("lookup", name, err)
	}
	node := &disksNode{fixedDir{k.sub(name)}, k, ref, m.Disks}
	return k.attach(ctx, node, join(node.path, n.Entry.ID+"/"+n.Entry.Version), out), 0
}

// stem is the name of disk i without its extension, counted from 1.
func (n *disksNode) stem(i int) string {
	device := n.disks[i].Device
	if device == "" {
		device = "disk"
	}
	return cut(fmt.Sprintf("%d-%s", i+1, Encode(device)), maxStem)
}

// Lookup finds a disk by its number; what follows it is for people.
func (n *disksNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	stem, f, ok := Parse(name)
	number, _, _ := strings.Cut(stem, "-")
	i, err := strconv.Atoi(number)
	if !ok || err != nil || i < 1 || i > len(n.disks) || stem != n.stem(i-1) {
		return nil, syscall.ENOENT
	}
	ref := n.ref
	ref.Format, ref.Disk = f.Name, i-1
	return n.kind.image(ctx, &n.dirNode, name, ref, out)
}

// OpendirHandle lists the disks in the listed formats that hold one disk and take
// this one.
func (n *disksNode) OpendirHandle(ctx context.Context, _ uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	ctx, cancel := patient(ctx)
	defer cancel()
	var files []fuse.DirEntry
	for i := range n.disks {
		for _, f := range n.t.rows() {
			if f.Name == "ova" {
				continue
			}
			ref := n.ref
			ref.Format, ref.Disk = f.Name, i
			show, err := n.kind.shows(ctx, ref, f, true) // the image was opened when it was looked up
			if err != nil {
				return nil, 0, n.fail("readdir", "", err)
			}
			if show {
				files = append(files, fuse.DirEntry{Mode: syscall.S_IFREG, Name: n.stem(i) + "." + f.Exts[0], Ino: n.kind.inode(ref, true)})
			}
		}
	}
	n.t.solve(n.path)
	return n.listDir(files), 0, 0
}
