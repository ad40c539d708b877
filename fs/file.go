package fs

import (
	"context"
	"sync/atomic"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// imageFile is an image in a format: bytes that never change. Another version of
// the image is another node, and so is what is written over it.
type imageFile struct {
	gofuse.Inode
	kind *kindNode
	path string
	ref  pipeline.Ref
	stat atomic.Pointer[pipeline.Stat] // never nil
	part bool                          // one of .disks/
	bad  atomic.Bool                   // what the kernel has of it may be as wrong as what was read last

	props atomic.Pointer[map[string]string] // as they were set through this node; nil for those of the entry
}

var (
	_ gofuse.NodeGetattrer      = (*imageFile)(nil)
	_ gofuse.NodeSetattrer      = (*imageFile)(nil)
	_ gofuse.NodeOpener         = (*imageFile)(nil)
	_ gofuse.NodeCopyFileRanger = (*imageFile)(nil)
	_ gofuse.NodeGetxattrer     = (*imageFile)(nil)
	_ gofuse.NodeListxattrer    = (*imageFile)(nil)
	_ gofuse.NodeSetxattrer     = (*imageFile)(nil)
	_ gofuse.NodeRemovexattrer  = (*imageFile)(nil)
	_ gofuse.NodeStatfser       = (*imageFile)(nil)
	_ gofuse.FileReader         = (*reader)(nil)
	_ gofuse.FileLseeker        = (*reader)(nil)
	_ gofuse.FileReleaser       = (*reader)(nil)
	_ gofuse.NodeFsyncer        = (*imageFile)(nil)
)

// instance tells whether the file is of a live machine, and not of a capture.
func (f *imageFile) instance() bool { return f.ref.Entry.Live() }

// fail records a failure of an operation on the file.
func (f *imageFile) fail(op string, err error) syscall.Errno { return f.kind.t.fail(op, f.path, err) }

// attr is what stat(2) shows: all of it follows from the entry.
func (f *imageFile) attr(out *fuse.Attr) {
	when := f.ref.Updated()
	if when.IsZero() {
		when = f.ref.Entry.Created
	}
	if when.IsZero() || when.Unix() < 0 {
		when = time.Unix(0, 0)
	}
	*out = fuse.Attr{
		Ino: out.Ino, Mode: syscall.S_IFREG | f.kind.t.mode(0o666), Nlink: 1, Owner: f.kind.t.owner,
		Size: uint64(f.stat.Load().Size), Blocks: blocks(f.stat.Load().Allocated), Blksize: readSize,
	}
	if f.instance() {
		// Of a file without holes cp sends all at once, by copy_file_range(2),
		// which alone may capture the machine under the policy on-copy.
		out.Blocks = blocks(f.stat.Load().Size)
	}
	out.SetTimes(&when, &when, &when)
}

// blocks counts n bytes in the unit of st_blocks, which is 512 bytes.
func blocks(n int64) uint64 { return uint64(n+511) / 512 }

// Getattr answers from memory.
func (f *imageFile) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.attr(&out.Attr)
	out.SetTimeout(attrTime)
	return 0
}

// Statfs is that of every node.
func (f *imageFile) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno { return statfs(out) }

// Fsync has nothing to do.
func (f *imageFile) Fsync(context.Context, gofuse.FileHandle, uint32) syscall.Errno { return 0 }

// Open opens a view for reading. Who opens it for writing gets a file of his own:
// ESTALE makes the kernel look the name up again, and Lookup then answers with
// that file, whose first opener this call has reserved it for.
func (f *imageFile) Open(ctx context.Context, flags uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
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
	if f.kind.folder != nil && f.kind.folder.unfinished(f.goal().key(), callerProcess(ctx)) != nil {
		return nil, 0, syscall.ESTALE // the writer looks at what it has written
	}
	if f.outdated(ctx) {
		return nil, 0, syscall.ESTALE // the kernel's name is of an earlier version
	}
	h := &reader{f: f, refuse: f.policy()}
	if f.instance() && f.kind.t.p.SnapshotPolicy(f.ref.Site) == "never" {
		return nil, 0, f.fail("open", h.refuse) // a copy of it is refused too
	}
	v, err := f.kind.t.p.View(ctx, f.ref)
	if err != nil {
		return nil, 0, f.fail("open", err)
	}
	if v.Size() != f.stat.Load().Size {
		v.Close()
		return nil, 0, syscall.ESTALE // what stat(2) has told is no longer so
	}
	h.v = v
	f.kind.t.solve(f.path)
	// Pages outlive the open file. Those of an image that is not settled could be
	// others by the next open, of the same version.
	if f.ref.Format == "raw" && !f.instance() && v.Settled() {
		if f.bad.Swap(false) {
			return h, 0, 0
		}
		return h, fuse.FOPEN_KEEP_CACHE, 0
	}
	return h, fuse.FOPEN_DIRECT_IO, 0
}

// outdated tells whether the listing has the image in another version by now, for
// a program that sets the time of what it has copied makes one, or under another
// id, as a rename gives a folder's image.
func (f *imageFile) outdated(ctx context.Context) bool {
	if f.ref.Entry.Kind == providers.Companions {
		return f.outdatedCompanion(ctx)
	}
	if f.ref.Entry.Kind == providers.Disks {
		w, err := f.kind.waiting(ctx, f.ref.Entry.Name)
		now, ok := w[f.ref.Entry.Waiting.Number]
		return err == nil && (!ok || now.ID != f.ref.Entry.ID || now.Version != f.ref.Entry.Version)
	}
	x, err := f.kind.index(ctx)
	if err != nil {
		return false // what is open may be read on
	}
	n, ok := x.ID(f.ref.Entry.ID)
	return !ok || n.Entry.Version != f.ref.Entry.Version
}

// policy tells why a plain read of a live machine is refused: it would capture
// it, which costs money and time, and grep -r must not.
func (f *imageFile) policy() error {
	if !f.instance() {
		return nil
	}
	switch policy := f.kind.t.p.SnapshotPolicy(f.ref.Site); policy {
	case "auto":
		return nil
	case "never":
		return disk.Errorf(disk.Policy, "read instance %q: its provider is configured with snapshot: never", f.ref.Entry.Name)
	default:
		err := disk.Errorf(disk.Policy, "read instance %q: with snapshot: %s a plain read does not capture a live machine", f.ref.Entry.Name, policy)
		return disk.Hint(err, "chromogenic capture makes a capture of it that can be read; or copy it into an images/ directory of the mount with cp, or configure snapshot: auto")
	}
}

// A reader is a view opened by a program.
type reader struct {
	f      *imageFile
	v      *pipeline.View
	refuse error // of every read
	vain   vain
}

// Read fills dest, short only at the end.
func (r *reader) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if r.refuse != nil {
		return nil, r.f.fail("read", r.refuse)
	}
	began, err := time.Now(), r.vain.again(off)
	var data fuse.ReadResult
	if err == nil {
		data, err = r.f.kind.t.read(ctx, r.v, len(dest), off)
	}
	if err != nil {
		if disk.KindOf(err) != disk.Interrupted {
			r.vain.note(off, len(dest), time.Since(began), err)
		}
		if disk.KindOf(err) == disk.Malformed {
			r.f.bad.Store(true)
		}
		r.f.kind.t.spoil(callerProcess(ctx), err)
		return nil, r.f.fail("read", err)
	}
	return data, 0
}

// Lseek finds data and holes.
func (r *reader) Lseek(_ context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, syscall.EINVAL
	}
	size := r.v.Size()
	for at := int64(off); at >= 0 && at < size; {
		e, err := r.v.Extent(at, size-at)
		if err != nil {
			return 0, r.f.fail("lseek", err)
		}
		if e.Zero == (whence == unix.SEEK_HOLE) {
			return uint64(at), 0
		}
		at = e.End()
		if at == size && whence == unix.SEEK_HOLE {
			return uint64(size), 0
		}
	}
	return 0, syscall.ENXIO
}

// Release closes the view.
func (r *reader) Release(context.Context) syscall.Errno {
	if err := r.v.Close(); err != nil {
		r.f.fail("release", err)
	}
	return 0
}

// maxBind is the most that one COPY_FILE_RANGE takes: its answer has 32 bits.
const maxBind = 1 << 30

// maxBindMoved is the same where bytes are read: the offsets differ, or there is an
// image of the name to compare with.
const maxBindMoved = 16 << 20

// CopyFileRange binds a part of a file that is being written to this one. No
// byte moves; the commit knows where they are.
func (f *imageFile) CopyFileRange(ctx context.Context, from gofuse.FileHandle, fromOff uint64, out *gofuse.Inode, to gofuse.FileHandle, toOff, n, _ uint64) (uint32, syscall.Errno) {
	r, isReader := from.(*reader)
	w, isWriter := to.(*writer)
	if !isReader || !isWriter {
		return 0, syscall.ENOTSUP // the kernel copies by read and write then
	}
	if _, ok := out.Operations().(*staged); !ok {
		return 0, syscall.ENOTSUP
	}
	size := uint64(r.v.Size())
	if fromOff >= size {
		return 0, 0
	}
	n = min(n, size-fromOff, maxBind)
	if w.g.spool.Strict() {
		n = min(n, maxBindMoved)
	}
	if fromOff != toOff {
		n = min(n, maxBindMoved)
		if r.refuse != nil {
			return 0, f.fail("copy_file_range", r.refuse)
		}
	}
	err := w.change(ctx, func() error { return w.g.spool.Bind(r.v, int64(fromOff), int64(toOff), int64(n)) })
	if err != nil {
		return 0, w.g.fail("copy_file_range", err)
	}
	return uint32(n), 0
}

// Setattr accepts mode and owner, keeps a modification time where the provider
// can, and refuses another size: an image is written through open(2).
func (f *imageFile) Setattr(ctx context.Context, _ gofuse.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	asked := *in // which is another request's when this one is let go
	if err := f.kind.t.carryOut(ctx, func() error { return f.setattr(ctx, &asked) }); err != nil {
		return f.fail("setattr", err)
	}
	f.attr(&out.Attr)
	if when, ok := in.GetMTime(); ok {
		out.SetTimes(nil, &when, nil)
	}
	return 0
}

func (f *imageFile) setattr(ctx context.Context, in *fuse.SetAttrIn) error {
	if err := f.kind.writable(); err != nil {
		return err
	}
	if size, ok := in.GetSize(); ok && size != uint64(f.stat.Load().Size) {
		err := disk.Errorf(disk.Policy, "an image is immutable: its size is %d bytes", f.stat.Load().Size)
		return disk.Hint(err, "write a whole image, under another name")
	}
	if when, ok := in.GetMTime(); ok {
		// A signal must not leave half of a copy's attributes unset.
		_, err := f.kind.t.p.SetMtime(context.WithoutCancel(ctx), f.ref, when)
		return err
	}
	return nil
}
