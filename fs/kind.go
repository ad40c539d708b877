package fs

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// kindNode is a view of a provider: images/, instances/ and the like.
type kindNode struct {
	bytesDir
	site   string
	view   view
	folder *folder // nil for instances
}

var (
	_ gofuse.NodeLookuper       = (*kindNode)(nil)
	_ gofuse.NodeOpendirHandler = (*kindNode)(nil)
	_ gofuse.NodeSetattrer      = (*kindNode)(nil)
	_ gofuse.NodeFsyncer        = (*kindNode)(nil)
	_ gofuse.NodeCreater        = (*kindNode)(nil)
	_ gofuse.NodeMkdirer        = (*kindNode)(nil)
	_ gofuse.NodeUnlinker       = (*kindNode)(nil)
	_ gofuse.NodeRmdirer        = (*kindNode)(nil)
	_ gofuse.NodeRenamer        = (*kindNode)(nil)
	_ gofuse.NodeSymlinker      = (*kindNode)(nil)
	_ gofuse.NodeLinker         = (*kindNode)(nil)
	_ gofuse.NodeMknoder        = (*kindNode)(nil)
)

// byIDName is the directory that resolves and is not listed.
const byIDName = "by-id"

// Lookup finds, in this order: dot-names, the directories of ids and of the disks of a
// machine, what is being written, and an image by its shown name or its id.
func (k *kindNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	if strings.HasPrefix(name, ".") {
		return k.lookupHidden(ctx, &k.dirNode, name, name, out)
	}
	if name == byIDName {
		return k.attach(ctx, &byIDNode{fixedDir{k.sub(name)}, k}, join(k.path, name), out), 0
	}
	if stem, ok := disksStem(name); ok {
		return k.lookupDisks(ctx, name, stem, out)
	}
	stem, f, ok := k.parse(name)
	if !ok {
		return nil, syscall.ENOENT // no provider need be asked: nothing has such a name
	}
	if k.folder != nil {
		if g := k.folder.unfinished(publicKey(Decode(stem), f), callerProcess(ctx)); g != nil {
			return g.attach(ctx, &k.dirNode, out), 0
		}
	}
	n, err := k.find(ctx, stem)
	if err != nil {
		return nil, k.fail("lookup", name, err)
	}
	if n == nil && f.Name == JSONName {
		return k.lookupJSON(ctx, name, stem, nil, out)
	}
	if n == nil && roleOf(f) != "" {
		return k.lookupCompanion(ctx, name, stem, nil, f, out)
	}
	if n == nil {
		return nil, syscall.ENOENT
	}
	if k.folder != nil { // by its id, or by the name that it has among others of its name
		if g := k.folder.unfinished(publicKey(trueName(n.Entry), f), callerProcess(ctx)); g != nil {
			return g.attach(ctx, &k.dirNode, out), 0
		}
	}
	if f.Name == JSONName {
		return k.lookupJSON(ctx, name, stem, n, out)
	}
	if roleOf(f) != "" {
		return k.lookupCompanion(ctx, name, stem, n, f, out)
	}
	if f.Alone && n.Entry.Format != f.Name {
		return nil, syscall.ENOENT // a disk has no such file
	}
	return k.image(ctx, &k.dirNode, name, pipeline.Ref{Site: k.site, Entry: n.Entry, Format: f.Name}, out)
}

// lookupHidden finds a dot-name in a directory, by its key: a file or directory for
// unfinished copies.
func (k *kindNode) lookupHidden(ctx context.Context, at *dirNode, key, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	if k.folder == nil {
		return nil, syscall.ENOENT
	}
	g, dir := k.folder.hidden(key)
	switch {
	case g != nil:
		return g.attach(ctx, at, out), 0
	case dir:
		return at.attach(ctx, &dotDir{dirNode: at.sub(name), kind: k, name: key}, join(at.path, name), out), 0
	}
	return nil, syscall.ENOENT
}

// index is the present listing by the names of files.
func (k *kindNode) index(ctx context.Context) (*Index, error) {
	return k.t.index(ctx, k.site, k.view.kind, false)
}

// find gives the entry of a stem, or nil.
func (k *kindNode) find(ctx context.Context, stem string) (*Named, error) {
	x, err := k.index(ctx)
	if err != nil {
		return nil, err
	}
	if n, ok := x.Find(stem); ok {
		return &n, nil
	}
	return nil, nil
}

// image attaches the node of an image in a format to the directory at. One that
// cannot be read is not there, and its errno says why.
func (k *kindNode) image(ctx context.Context, at *dirNode, name string, ref pipeline.Ref, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	ctx, cancel := patient(pipeline.Impatient(ctx, lookupStall))
	defer cancel()
	ref, err := k.cleaned(ref)
	if err != nil {
		return nil, at.fail("lookup", name, err)
	}
	st, err := k.t.p.Stat(ctx, ref)
	if err == nil && ref.Entry.Reason != "" {
		err = disk.Errorf(disk.Busy, "read image %q: %s", ref.Entry.Name, ref.Entry.Reason)
	}
	if err != nil {
		return nil, at.fail("lookup", name, err)
	}
	part := at != &k.dirNode
	f := &imageFile{kind: k, path: join(at.path, name), ref: ref, part: part}
	f.stat.Store(&st)
	f.attr(&out.Attr)
	out.SetEntryTimeout(k.t.nameTime())
	out.SetAttrTimeout(attrTime)
	n := at.NewInode(ctx, f, gofuse.StableAttr{Mode: syscall.S_IFREG, Ino: k.inode(&ref, part)})
	if there, ok := n.Operations().(*imageFile); ok {
		there.stat.Store(&st) // of an image that is being written the size may be another by now
	}
	return n, 0
}

// cleaned makes a ref one of the cleaned image, where the view is of these. A disc and
// what is beside an image are no guests.
func (k *kindNode) cleaned(ref pipeline.Ref) (pipeline.Ref, error) {
	f, _ := formats.ByName(ref.Format)
	switch {
	case !k.view.cleans || f.Alone || ref.Entry.Kind == providers.Companions:
		return ref, nil
	case ref.Disk > 0 || ref.Entry.Kind == providers.Disks:
		err := disk.Errorf(disk.Unsupported, "clean disk %d of %q: only a boot disk can be cleaned", ref.Disk, ref.Entry.Name)
		return ref, disk.Hint(err, "images/ shows it as it is")
	}
	return k.t.p.Cleaned(ref), nil
}

// inode is the number of the file of a ref, or of the part of .disks/ that has
// the same bytes.
func (k *kindNode) inode(ref *pipeline.Ref, part bool) uint64 {
	e := &ref.Entry
	what := []string{k.site, k.view.name, e.ID, e.Version, ref.Format, strconv.Itoa(ref.Disk)}
	if part {
		what = append(what, "part")
	}
	if ref.Format == JSONName || e.Kind == providers.Companions {
		what = append(what, e.Name) // it says so; or has no other name in common
	}
	return inode(what...)
}

// OpendirHandle lists everything or fails: what is missing in a directory, a
// backup deletes.
func (k *kindNode) OpendirHandle(ctx context.Context, _ uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	listed, err := k.files(ctx)
	if err != nil {
		return nil, 0, k.fail("readdir", "", err)
	}
	k.t.solve(k.path)
	files := make([]fuse.DirEntry, 0, len(listed))
	for _, f := range listed {
		files = append(files, fuse.DirEntry{Mode: syscall.S_IFREG, Name: f.name(), Ino: f.ino})
	}
	dirs, err := k.sets(ctx)
	if err != nil {
		return nil, 0, k.fail("readdir", "", err)
	}
	if k.folder != nil {
		for _, d := range k.folder.list("", k.path) {
			if !slices.ContainsFunc(dirs, func(e fuse.DirEntry) bool { return e.Name == d.Name }) {
				dirs = append(dirs, d)
			}
		}
	}
	return k.listDir(append(files, dirs...)), 0, 0
}

// Setattr accepts mode, owner and times of a directory of images, which rsync
// and cp -a set, and keeps none of them.
func (k *kindNode) Setattr(_ context.Context, _ gofuse.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if err := k.writable(); err != nil {
		return k.fail("setattr", "", err)
	}
	k.t.dirAttr(&out.Attr)
	return 0
}
