package fs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
	"chromogenic/pipeline"
)

// A tree is what all nodes of one mount share.
type tree struct {
	*journal
	p       *pipeline.Pipeline
	o       Options
	formats []string // listed
	owner   fuse.Owner
	umask   uint32
	mounted time.Time

	ctx context.Context // ends with the mount: cancels what nobody waits for

	unfinished atomic.Uint64 // counts the files that programs have begun to write
	jobs       workload
	sprees     sprees // of programs that remove images

	foldersMu sync.Mutex
	folders   []*folder // those that take images, from when they were looked at first

	indexMu sync.Mutex
	indexes map[string]indexed // by site and kind
}

func newTree(ctx context.Context, o Options) *tree {
	t := &tree{p: o.Pipeline, o: o, formats: o.Formats, owner: ownerOf(o), umask: umaskOf(o), ctx: ctx, mounted: time.Now(), indexes: map[string]indexed{}}
	if len(t.formats) == 0 {
		t.formats = []string{"raw", "qcow2", "vmdk", "ova", JSONName}
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t.journal = &journal{log: log}
	return t
}

// folder is the one of a site in a view; nil for a view that takes no images.
func (t *tree) folder(site string, v view) *folder {
	if !v.images() {
		return nil
	}
	t.foldersMu.Lock()
	defer t.foldersMu.Unlock()
	for _, f := range t.folders {
		if f.site == site && f.view.name == v.name {
			return f
		}
	}
	f := &folder{t: t, site: site, view: v, files: map[string]*staged{}, dirs: map[string]*madeDir{}}
	t.folders = append(t.folders, f)
	return f
}

// allFolders are those of all sites that somebody has looked at.
func (t *tree) allFolders() []*folder {
	t.foldersMu.Lock()
	defer t.foldersMu.Unlock()
	return slices.Clone(t.folders)
}

// attrTime is how long the kernel may keep a name or the attributes of a node:
// what changes outside shows after it.
const attrTime = time.Second

// nameTime is how long the kernel may keep the name of an image: not at all where one
// that is removed takes others along.
func (t *tree) nameTime() time.Duration {
	if t.o.AllowDelete {
		return 0
	}
	return attrTime
}

// inode is the number of a node: 63 bits of a hash of what it is, so that it is
// the same on every mount.
// 0 and 1 are taken.
func inode(what ...string) uint64 {
	sum := sha256.Sum256([]byte(strings.Join(what, "\x00")))
	return max(binary.BigEndian.Uint64(sum[:])>>1, 2)
}

// dirAttr is the attributes of a directory. Its time is constant, for nothing in
// a cloud knows a better one that stays the same.
func (t *tree) dirAttr(out *fuse.Attr) {
	*out = fuse.Attr{Ino: out.Ino, Mode: syscall.S_IFDIR | t.mode(0o777), Nlink: 2, Owner: t.owner, Blksize: blockSize}
}

// mode is what is left of the permissions m.
func (t *tree) mode(m uint32) uint32 { return m &^ t.umask }

// umaskOf are the permissions that no file has. The owner may do all, others nothing,
// unless the mount lets them in: then they may read.
func umaskOf(o Options) uint32 {
	switch {
	case o.Umask != nil:
		return *o.Umask
	case o.AllowOther:
		return 0o022
	}
	return 0o027
}

// ownerOf is who owns all files.
func ownerOf(o Options) fuse.Owner {
	owner := fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	if o.UID != nil {
		owner.Uid = *o.UID
	}
	if o.GID != nil {
		owner.Gid = *o.GID
	}
	return owner
}

// blockSize is what statfs(2) counts in, and stat(2) advises for what is no image, in bytes.
const blockSize = 4096

// dirNode is what all directories share: their attributes, statfs, and the error
// xattr.
type dirNode struct {
	gofuse.Inode
	fixedXattrs
	t    *tree
	path string // below the mountpoint, empty for the root
}

var (
	_ gofuse.NodeGetattrer     = (*dirNode)(nil)
	_ gofuse.NodeStatfser      = (*dirNode)(nil)
	_ gofuse.NodeGetxattrer    = (*dirNode)(nil)
	_ gofuse.NodeListxattrer   = (*dirNode)(nil)
	_ gofuse.NodeSetxattrer    = (*dirNode)(nil)
	_ gofuse.NodeRemovexattrer = (*dirNode)(nil)
)

// Getattr never asks a provider.
func (d *dirNode) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	d.t.dirAttr(&out.Attr)
	out.SetTimeout(attrTime)
	return 0
}

// Statfs answers 1 PiB, all of it free, from memory: no program may think that a
// cloud is full, and none asks one for it.
func (d *dirNode) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno { return statfs(out) }

func statfs(out *fuse.StatfsOut) syscall.Errno {
	const blocks = 1 << 50 / blockSize
	*out = fuse.StatfsOut{
		Blocks: blocks, Bfree: blocks, Bavail: blocks, Bsize: blockSize, Frsize: blockSize,
		Files: 1 << 32, Ffree: 1 << 32, NameLen: maxName,
	}
	return 0
}

// fail records a failure at a name in the directory.
func (d *dirNode) fail(op, name string, err error) syscall.Errno {
	return d.t.fail(op, join(d.path, name), err)
}

// join is a path below the mountpoint.
func join(dir, name string) string {
	switch {
	case dir == "":
		return name
	case name == "":
		return dir
	}
	return dir + "/" + name
}

// attach gives the node of a directory in out.
func (d *dirNode) attach(ctx context.Context, node gofuse.InodeEmbedder, path string, out *fuse.EntryOut) *gofuse.Inode {
	d.t.dirAttr(&out.Attr)
	out.SetEntryTimeout(attrTime)
	out.SetAttrTimeout(attrTime)
	return d.NewInode(ctx, node, gofuse.StableAttr{Mode: syscall.S_IFDIR, Ino: inode("directory", path)})
}

// sub is the dirNode of a directory in d.
func (d *dirNode) sub(name string) dirNode { return dirNode{t: d.t, path: join(d.path, name)} }

// listDir is a directory of the listed entries, with the two that readdir(3)
// expects.
func (d *dirNode) listDir(entries []fuse.DirEntry) gofuse.FileHandle {
	up := d.StableAttr().Ino
	if _, parent := d.Parent(); parent != nil {
		up = parent.StableAttr().Ino
	}
	return gofuse.NewListDirStream(append([]fuse.DirEntry{
		{Mode: syscall.S_IFDIR, Name: ".", Ino: d.StableAttr().Ino},
		{Mode: syscall.S_IFDIR, Name: "..", Ino: up},
	}, entries...))
}

// subdirs are the entries of directories named so.
func (d *dirNode) subdirs(names ...string) []fuse.DirEntry {
	var out []fuse.DirEntry
	for _, name := range names {
		out = append(out, fuse.DirEntry{Mode: syscall.S_IFDIR, Name: name, Ino: inode("directory", join(d.path, name))})
	}
	return out
}

// errFixed refuses to change the names of a directory that has a fixed content.
func errFixed() error {
	err := disk.Errorf(disk.Policy, "the directories of the mount are fixed")
	return disk.Hint(err, "images are written into PROVIDER/images/")
}

// fixedDir refuses every change of names, with a reason.
type fixedDir struct{ dirNode }

var (
	_ gofuse.NodeCreater   = (*fixedDir)(nil)
	_ gofuse.NodeMkdirer   = (*fixedDir)(nil)
	_ gofuse.NodeUnlinker  = (*fixedDir)(nil)
	_ gofuse.NodeRmdirer   = (*fixedDir)(nil)
	_ gofuse.NodeRenamer   = (*fixedDir)(nil)
	_ gofuse.NodeSetattrer = (*fixedDir)(nil)
)

func (d *fixedDir) Create(_ context.Context, name string, _, _ uint32, _ *fuse.EntryOut) (*gofuse.Inode, gofuse.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, d.refuse("create", name)
}

func (d *fixedDir) Mkdir(_ context.Context, name string, _ uint32, _ *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	return nil, d.refuse("mkdir", name)
}

func (d *fixedDir) Unlink(_ context.Context, name string) syscall.Errno {
	return d.refuse("unlink", name)
}

func (d *fixedDir) Rmdir(_ context.Context, name string) syscall.Errno {
	return d.refuse("rmdir", name)
}

func (d *fixedDir) Rename(_ context.Context, name string, _ gofuse.InodeEmbedder, _ string, _ uint32) syscall.Errno {
	return d.refuse("rename", name)
}

func (d *fixedDir) Setattr(context.Context, gofuse.FileHandle, *fuse.SetAttrIn, *fuse.AttrOut) syscall.Errno {
	return d.refuse("setattr", "")
}

func (d *fixedDir) refuse(op, name string) syscall.Errno {
	if d.t.o.ReadOnly {
		return d.fail(op, name, errReadOnly())
	}
	return d.fail(op, name, errFixed())
}

func errReadOnly() error {
	return disk.Hint(disk.Errorf(disk.ReadOnly, "the mount is read-only"), "mount it without ro to write")
}

// rootNode lists the providers.
type rootNode struct{ fixedDir }

var (
	_ gofuse.NodeLookuper       = (*rootNode)(nil)
	_ gofuse.NodeOpendirHandler = (*rootNode)(nil)
)

// Lookup finds a provider, or the control directory.
func (r *rootNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	if name == controlName {
		return r.attach(ctx, &controlDir{fixedDir{r.sub(name)}}, name, out), 0
	}
	if _, ok := r.t.p.Provider(name); !ok {
		return nil, syscall.ENOENT
	}
	return r.attach(ctx, &providerNode{fixedDir{r.sub(name)}}, name, out), 0
}

// OpendirHandle lists the providers in the order of the configuration.
func (r *rootNode) OpendirHandle(context.Context, uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	return r.listDir(r.subdirs(r.t.p.SiteNames()...)), 0, 0
}
