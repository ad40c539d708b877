package fs

import (
	"context"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// A writer is a staged file opened by a program, for reading or writing.
type writer struct {
	g        *staged
	writable bool
}

var (
	_ gofuse.NodeGetattrer     = (*staged)(nil)
	_ gofuse.NodeSetattrer     = (*staged)(nil)
	_ gofuse.NodeOpener        = (*staged)(nil)
	_ gofuse.NodeStatfser      = (*staged)(nil)
	_ gofuse.NodeGetxattrer    = (*staged)(nil)
	_ gofuse.NodeListxattrer   = (*staged)(nil)
	_ gofuse.NodeSetxattrer    = (*staged)(nil)
	_ gofuse.NodeRemovexattrer = (*staged)(nil)
	_ gofuse.FileReader        = (*writer)(nil)
	_ gofuse.FileWriter        = (*writer)(nil)
	_ gofuse.FileFlusher       = (*writer)(nil)
	_ gofuse.FileReleaser      = (*writer)(nil)
	_ gofuse.FileFsyncer       = (*writer)(nil)
	_ gofuse.FileAllocater     = (*writer)(nil)
)

// open makes a handle. What is not DIRECT_IO would fill the kernel's page cache
// with bytes that may never be an image.
func (g *staged) open(flags uint32) *writer {
	if flags&syscall.O_ACCMODE == syscall.O_RDWR {
		g.spool.Relax() // who can read what he writes may write it twice
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opens++
	g.opened = true
	return &writer{g: g, writable: flags&syscall.O_ACCMODE != syscall.O_RDONLY}
}

// Open opens the file once more. One that has ended is not its name's any longer,
// so the kernel looks that up again.
func (g *staged) Open(ctx context.Context, flags uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	if g.is(published) || g.is(dropped) {
		return nil, 0, syscall.ESTALE
	}
	w := g.open(flags)
	if flags&syscall.O_TRUNC != 0 {
		if err := w.change(ctx, func() error { return g.spool.Truncate(0) }); err != nil {
			g.release()
			return nil, 0, g.fail("open", err)
		}
	}
	return w, fuse.FOPEN_DIRECT_IO, 0
}

// Getattr shows the file as it is now, and lets the kernel keep nothing.
func (g *staged) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	g.attr(&out.Attr)
	return 0
}

// Statfs is that of every node.
func (g *staged) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno { return statfs(out) }

// Setattr sets the size and the modification time, before the commit or after
// it, and accepts mode and owner.
func (g *staged) Setattr(ctx context.Context, f gofuse.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok && int64(size) != g.spool.Size() {
		w, isWriter := f.(*writer)
		if !isWriter {
			w = &writer{g: g, writable: true}
		}
		if err := w.change(ctx, func() error { return g.spool.Truncate(int64(size)) }); err != nil {
			return g.fail("setattr", err)
		}
	}
	if when, ok := in.GetMTime(); ok {
		if err := g.folder.t.carryOut(ctx, func() error { return g.setMtime(ctx, when) }); err != nil {
			return g.fail("setattr", err)
		}
	}
	g.attr(&out.Attr)
	return 0
}

// setMtime keeps the time for the commit, or gives it to the image that the
// commit has made, or that the file still is.
func (g *staged) setMtime(ctx context.Context, when time.Time) error {
	g.mu.Lock()
	g.mtime, g.timed = when, true
	image := g.image
	is := g.state == published || g.state == writing && !g.dirty
	g.mu.Unlock()
	if is && g.format != nil && g.format.Name == JSONName {
		return g.folder.setMetaTime(ctx, g.name, when)
	}
	if image == nil || !is {
		return nil
	}
	now, err := g.folder.t.p.SetMtime(context.WithoutCancel(ctx), g.ref(*image), when)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.image = &now; g.replaces != nil && g.replaces.ID == now.ID {
		g.replaces = &now
	}
	return nil
}

// change runs one change of the content, which may go on when it has returned with
// an error: see letGo.
func (w *writer) change(ctx context.Context, do func() error) error {
	return w.alter(ctx, func() error { return w.g.folder.t.letGo(ctx, do) })
}

// alter notes a change of the content and its writer. After one that fails the file
// cannot become an image: many a program closes it as if nothing had happened.
func (w *writer) alter(ctx context.Context, do func() error) error {
	if !w.writable {
		return errReader()
	}
	g := w.g
	g.content.RLock()
	defer g.content.RUnlock()
	if err := g.cut(); err != nil {
		return err
	}
	err := do()
	g.mu.Lock()
	defer g.mu.Unlock()
	if tid := callerThread(ctx); tid != g.thread {
		g.thread = tid
		g.writers[callerProcess(ctx)] = true
	}
	g.dirty, g.unflushed = true, true
	if err != nil && (g.state == writing || g.state == published || g.state == failed) {
		g.state, g.err = spoiled, err
	}
	return err
}

// cut tells why nothing will become of the file, whatever is written to it.
func (g *staged) cut() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == spoiled {
		return g.err
	}
	return nil
}

func errReader() error {
	return disk.Errorf(disk.Policy, "write file: it is open for reading only")
}

// Read reads what was written.
func (w *writer) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	r, err := w.g.folder.t.read(ctx, w.g.spool, len(dest), off)
	if err != nil {
		return nil, w.g.fail("read", err)
	}
	return r, 0
}

// Write spools.
func (w *writer) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	n := len(data)
	err := w.alter(ctx, func() error {
		if !w.g.qemu && w.g.spool.WriteKnown(data, off) {
			return nil
		}
		p := buffer(len(data))
		copy(*p, data)
		err := w.g.folder.t.letGo(ctx, func() (err error) {
			if n, err = w.g.spool.WriteAt(*p, off); err != nil {
				return err
			}
			return w.g.roomLeft(ctx, n)
		})
		if err == nil {
			buffers.Put(p) // that of a write which goes on alone is its own
		}
		return err
	})
	if err != nil {
		return 0, w.g.fail("write", err)
	}
	w.g.startHead(off, n)
	return uint32(n), 0
}

// Allocate punches holes and extends; room is not set aside, for nobody knows yet
// how much the image takes.
func (w *writer) Allocate(ctx context.Context, off, n uint64, mode uint32) syscall.Errno {
	keep := mode&unix.FALLOC_FL_KEEP_SIZE != 0
	zero := false
	switch mode &^ unix.FALLOC_FL_KEEP_SIZE {
	case 0:
	case unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE:
		zero = true
	default:
		return syscall.ENOTSUP
	}
	const most = 1 << 62
	if off > most || n > most-off {
		return syscall.EFBIG
	}
	end := int64(off + n)
	err := w.change(ctx, func() error {
		if !keep && end > w.g.spool.Size() {
			if err := w.g.spool.Truncate(end); err != nil {
				return err
			}
		}
		if zero {
			return w.g.spool.Discard(int64(off), int64(n))
		}
		return nil
	})
	if err != nil {
		return w.g.fail("fallocate", err)
	}
	return 0
}

// Fsync makes the spool durable. It publishes nothing.
func (w *writer) Fsync(ctx context.Context, _ uint32) syscall.Errno {
	err := w.g.cut()
	if err == nil {
		err = w.g.folder.t.letGo(ctx, w.g.spool.Sync)
	}
	if err != nil {
		return w.g.fail("fsync", err)
	}
	return 0
}

// Flush is close(2), and the place where an image is made: its result is the
// program's exit status.
func (w *writer) Flush(ctx context.Context) syscall.Errno {
	if !w.writable {
		return 0
	}
	if err := w.g.flush(ctx); err != nil {
		return w.g.fail("close", err)
	}
	return 0
}

// Release gives the handle back. It reports nothing, for nobody waits for it.
func (w *writer) Release(context.Context) syscall.Errno {
	w.g.release()
	return 0
}
