package fs

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// JSONName is the format, and the extension, of NAME.json: the metadata of an image
// in images/. It stands among the formats that are listed, and holds no disk.
const JSONName = "json"

func jsonFormat() formats.Format { return formats.Format{Name: JSONName, Exts: []string{JSONName}} }

// parseFile is Parse for the files of images/, of which some hold metadata, or a
// companion.
func parseFile(file string) (stem string, f formats.Format, ok bool) {
	if n := len(file) - len("."+JSONName); n > 0 && strings.EqualFold(file[n:], "."+JSONName) {
		return file[:n], jsonFormat(), true
	}
	if stem, role, ok := ParseCompanion(file); ok {
		return stem, companionFormat(role), true
	}
	return Parse(file)
}

// parse is parseFile where the directory is of images.
func (k *kindNode) parse(file string) (stem string, f formats.Format, ok bool) {
	if k.view.images() {
		return parseFile(file)
	}
	return Parse(file)
}

// jsonFile is the metadata of an image, or what waits for an image of its name.
type jsonFile struct {
	gofuse.Inode
	fixedXattrs
	kind  *kindNode
	path  string
	name  string                    // of the image, as it was asked for
	state atomic.Pointer[jsonState] // never nil
}

// A jsonState is what the file says at one time.
type jsonState struct {
	entry *providers.Entry // nil for what waits
	data  []byte
	mtime time.Time
}

var (
	_ gofuse.NodeGetattrer   = (*jsonFile)(nil)
	_ gofuse.NodeSetattrer   = (*jsonFile)(nil)
	_ gofuse.NodeOpener      = (*jsonFile)(nil)
	_ gofuse.NodeStatfser    = (*jsonFile)(nil)
	_ gofuse.NodeFsyncer     = (*jsonFile)(nil)
	_ gofuse.NodeGetxattrer  = (*jsonFile)(nil)
	_ gofuse.NodeListxattrer = (*jsonFile)(nil)
	_ gofuse.FileReader      = (*jsonReader)(nil)
)

// lookupJSON gives the node of the metadata of an image, which is nil for a name
// that none has.
func (k *kindNode) lookupJSON(ctx context.Context, file, stem string, n *Named, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	ctx, cancel := patient(ctx)
	defer cancel()
	f := &jsonFile{kind: k, path: join(k.path, file), name: Decode(stem)}
	st, err := k.json(ctx, f.name, n)
	if err != nil {
		return nil, k.fail("lookup", file, err)
	}
	if st == nil {
		return nil, syscall.ENOENT
	}
	ino := inode(k.site, k.view.name, "held", f.name, string(st.data))
	if n != nil {
		ino = k.inode(&pipeline.Ref{Site: k.site, Entry: n.Entry, Format: JSONName}, false)
	}
	f.state.Store(st)
	node := k.NewInode(ctx, f, gofuse.StableAttr{Mode: syscall.S_IFREG, Ino: ino})
	if there, ok := node.Operations().(*jsonFile); ok {
		there.state.Store(st) // its time may be another by now
	}
	f.attr(&out.Attr)
	out.SetEntryTimeout(f.kind.t.nameTime())
	out.SetAttrTimeout(attrTime)
	return node, 0
}

// json is the metadata of an image, or what waits for one of the name; nil for
// neither.
func (k *kindNode) json(ctx context.Context, name string, n *Named) (*jsonState, error) {
	if n == nil {
		m, ok := k.t.p.HeldMeta(k.site, name)
		if !ok {
			return nil, nil
		}
		return &jsonState{data: providers.Document{Name: name, Metadata: m}.Encode(), mtime: m.MetaTime}, nil
	}
	if n.Entry.Reason != "" {
		if _, err := k.t.p.Stat(ctx, pipeline.Ref{Site: k.site, Entry: n.Entry, Format: "raw"}); err != nil {
			return nil, err
		}
		return nil, disk.Errorf(disk.Busy, "read image %q: %s", n.Entry.Name, n.Entry.Reason)
	}
	data, mtime, err := k.t.p.Document(ctx, k.site, n.Entry)
	return &jsonState{entry: &n.Entry, data: data, mtime: mtime}, err
}

// fail records a failure of an operation on the file.
func (f *jsonFile) fail(op string, err error) syscall.Errno { return f.kind.t.fail(op, f.path, err) }

// attr is what stat(2) shows.
func (f *jsonFile) attr(out *fuse.Attr) {
	st := f.state.Load()
	*out = fuse.Attr{
		Ino: out.Ino, Mode: syscall.S_IFREG | f.kind.t.mode(0o666), Nlink: 1, Owner: f.kind.t.owner,
		Size: uint64(len(st.data)), Blocks: blocks(int64(len(st.data))), Blksize: blockSize,
	}
	when := st.mtime
	if when.IsZero() || when.Unix() < 0 {
		when = time.Unix(0, 0)
	}
	out.SetTimes(&when, &when, &when)
}

// Getattr answers from memory.
func (f *jsonFile) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.attr(&out.Attr)
	out.SetTimeout(attrTime)
	return 0
}

// Statfs is that of every node.
func (f *jsonFile) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno { return statfs(out) }

// Fsync has nothing to do.
func (f *jsonFile) Fsync(context.Context, gofuse.FileHandle, uint32) syscall.Errno { return 0 }

// Open opens the text as it is now. Who opens it for writing gets a file of his own,
// as with an image.
func (f *jsonFile) Open(ctx context.Context, flags uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	ctx, cancel := patient(ctx)
	defer cancel()
	truncate := flags&syscall.O_TRUNC != 0
	switch write := flags&syscall.O_ACCMODE != syscall.O_RDONLY; {
	case write:
		if err := f.reserve(ctx, truncate); err != nil {
			return nil, 0, f.fail("open", err)
		}
		return nil, 0, syscall.ESTALE
	case truncate:
		return nil, 0, f.fail("open", errReader())
	}
	now, err := f.now(ctx)
	if err != nil {
		return nil, 0, f.fail("open", err)
	}
	old := f.state.Load()
	if now == nil || string(now.data) != string(old.data) || f.kind.folder != nil && f.kind.folder.unfinished(f.key(), callerProcess(ctx)) != nil {
		return nil, 0, syscall.ESTALE // the kernel's name is of what was there before
	}
	f.kind.t.solve(f.path)
	return &jsonReader{old.data}, fuse.FOPEN_DIRECT_IO, 0
}

// now is what the name says at present.
func (f *jsonFile) now(ctx context.Context) (*jsonState, error) {
	n, err := f.kind.named(ctx, f.name)
	if err != nil {
		return nil, err
	}
	return f.kind.json(ctx, f.name, n)
}

// named gives the entry of a name as lookup decodes it, or nil.
func (k *kindNode) named(ctx context.Context, name string) (*Named, error) {
	x, err := k.index(ctx)
	if err != nil {
		return nil, err
	}
	return x.named(name), nil
}

func (x *Index) named(name string) *Named {
	n, ok := x.Find(Encode(name))
	if !ok {
		n, ok = x.Find(name) // the shown name of one that shares its true one
	}
	if !ok {
		return nil
	}
	return &n
}

// key is that of the file in the folder of what is being written.
func (f *jsonFile) key() string {
	name := f.name
	if e := f.state.Load().entry; e != nil {
		name = trueName(*e)
	}
	return publicKey(name, jsonFormat())
}

// reserve begins a file over the metadata, as that of an image does.
func (f *jsonFile) reserve(ctx context.Context, truncate bool) error {
	k := f.kind
	if err := k.writable(); err != nil {
		return err
	}
	row, by := jsonFormat(), callerProcess(ctx)
	g := newStaged(k.folder, writerKey(f.key(), by), f.path, by)
	g.name, g.format = f.name, &row
	if k.folder.unfinished(f.key(), by) != nil {
		return nil // opened a second time by its writer
	}
	if err := k.folder.add(g); err != nil || truncate {
		return err
	}
	if _, err := g.spool.WriteAt(f.state.Load().data, 0); err != nil {
		k.folder.remove(g)
		g.spool.Close()
		return err
	}
	return nil
}

// Setattr accepts mode and owner, keeps a modification time where the provider can,
// and refuses another size: the text is written through open(2).
func (f *jsonFile) Setattr(ctx context.Context, _ gofuse.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if err := f.setattr(ctx, in); err != nil {
		return f.fail("setattr", err)
	}
	f.attr(&out.Attr)
	return 0
}

func (f *jsonFile) setattr(ctx context.Context, in *fuse.SetAttrIn) error {
	if err := f.kind.writable(); err != nil {
		return err
	}
	st := *f.state.Load()
	if size, ok := in.GetSize(); ok && size != uint64(len(st.data)) {
		err := disk.Errorf(disk.Policy, "metadata is written as a whole: it has %d bytes", len(st.data))
		return disk.Hint(err, "open the file with O_TRUNC, as shells and cp do, or write another and rename it")
	}
	when, ok := in.GetMTime()
	if !ok {
		return nil
	}
	if err := f.kind.folder.setMetaTime(ctx, f.name, when); err != nil {
		return err
	}
	st.mtime = when
	f.state.Store(&st)
	return nil
}

// setMetaTime gives the metadata of a name, set or waiting, another time.
func (f *folder) setMetaTime(ctx context.Context, name string, when time.Time) error {
	p := f.t.p
	x, err := f.t.index(ctx, f.site, f.view.kind, false)
	if err != nil {
		return err
	}
	n := x.named(name)
	if n == nil {
		m, ok := p.HeldMeta(f.site, name)
		if m.MetaTime = when; !ok {
			return nil
		}
		return p.HoldMeta(f.site, name, m)
	}
	m, err := p.Metadata(ctx, f.site, n.Entry)
	if err != nil {
		return err
	}
	m.MetaTime = when
	_, err = p.SetMeta(context.WithoutCancel(ctx), f.site, n.Entry, m) // a signal must not leave it half done
	return err
}

// attrs is why the file could not be read or written, once that is known.
func (f *jsonFile) attrs() map[string]string {
	m := map[string]string{}
	if reason, ok := f.kind.t.about(f.path, false); ok {
		m[errorAttr] = reason
	}
	return m
}

// Getxattr gives the error attribute.
func (f *jsonFile) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	return getxattr(f.attrs(), name, dest)
}

// Listxattr lists it.
func (f *jsonFile) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	return listxattr(f.attrs(), dest)
}

// A jsonReader is the text as it was when it was opened.
type jsonReader struct{ data []byte }

// Read fills dest, short only at the end.
func (r *jsonReader) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if off >= int64(len(r.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(r.data[off:min(off+int64(len(dest)), int64(len(r.data)))]), 0
}

// setMeta is the commit of metadata: to the image of its name, or to wait for that.
// It is called with the content standing still.
func (g *staged) setMeta(ctx context.Context, name string, mtime time.Time) error {
	size := g.spool.Size()
	if size > providers.MaxDocument {
		return disk.Errorf(disk.TooLarge, "write metadata of %q: %d bytes, at most %d", name, size, providers.MaxDocument)
	}
	text := make([]byte, size)
	if _, err := g.spool.ReadAt(text, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	doc, err := providers.DecodeDocument(text)
	if err != nil {
		return err
	}
	if doc.MetaTime = mtime; mtime.IsZero() {
		doc.MetaTime = time.Now()
	}
	t, site := g.folder.t, g.folder.site
	x, err := t.index(ctx, site, g.folder.view.kind, false)
	if err != nil {
		return err
	}
	// Who may see an image is no part of what a copy brings along.
	doc.Meta.Visibility, doc.Meta.Members = "", nil
	if n := x.named(name); n != nil {
		doc.Meta.Visibility, doc.Meta.Members = n.Entry.Meta.Visibility, n.Entry.Meta.Members
		_, err := t.p.SetMeta(ctx, site, n.Entry, doc.Metadata)
		return err
	}
	return t.p.HoldMeta(site, name, doc.Metadata)
}

// settleTime is how often the mount looks for the images that metadata waits for.
const settleTime = 15 * time.Second

// settleMeta gives waiting metadata to images that have come by other ways, and
// tells of what has waited in vain, data disks too, until the mount ends.
func (t *tree) settleMeta() {
	tick := time.NewTicker(settleTime)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
		}
		for _, h := range t.p.SettleMeta(t.ctx) {
			t.gaveUp(h)
		}
		for _, o := range t.p.OverdueDisks(t.ctx) {
			t.overdue(o)
		}
	}
}

// gaveUp records that no image has come for metadata.
func (t *tree) gaveUp(h pipeline.Held) {
	err := disk.Errorf(disk.NotFound, "set metadata: no image of that name has come since %s", h.Since.UTC().Format(time.RFC3339))
	err = disk.Hint(err, "copy the image, and then the file once more")
	_ = t.fail("close", join(h.Site, "images/"+Encode(h.Name)+"."+JSONName), err)
}
