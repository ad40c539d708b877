package faultfs

import (
	"context"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// A file is one that is open.
type file struct {
	n     *node
	f     *os.File
	plain *fs.LoopbackFile // of f: the operations without faults
}

var (
	_ fs.FileReader    = (*file)(nil)
	_ fs.FileWriter    = (*file)(nil)
	_ fs.FileGetattrer = (*file)(nil)
	_ fs.FileSetattrer = (*file)(nil)
	_ fs.FileLseeker   = (*file)(nil)
	_ fs.FileFlusher   = (*file)(nil)
	_ fs.FileFsyncer   = (*file)(nil)
	_ fs.FileReleaser  = (*file)(nil)
	_ fs.FileAllocater = (*file)(nil)
)

func (f *file) Read(ctx context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	a := f.n.t.match(Read, f.n.name(), off, off+int64(len(p)))
	if a != nil && a.Effect == Fail {
		if p = a.sound(p, off); len(p) == 0 {
			return nil, a.Errno
		}
	} else if e := f.n.t.strike(ctx, a); e != 0 {
		return nil, e
	}
	p = a.sound(p, off)
	n, err := syscall.Pread(int(f.f.Fd()), p, off)
	if err != nil {
		return nil, fs.ToErrno(err)
	}
	a.flip(p[:n], off)
	return fuse.ReadResultData(p[:n]), 0
}

// sound is the part of p, the bytes at off, that is well before the fault. As on a
// disk with a bad sector, what lies before it can be read; the rest cannot. A nil
// fault leaves all of it.
func (a *active) sound(p []byte, off int64) []byte {
	switch {
	case a == nil:
	case a.Effect == Fail || a.Effect == End:
		return p[:max(0, min(a.From-off, int64(len(p))))]
	case a.Effect == Short:
		return p[:(len(p)+1)/2]
	}
	return p
}

// flip makes a byte of p wrong, which is read or written at off.
func (a *active) flip(p []byte, off int64) {
	if a != nil && a.Effect == Flip && a.From >= off && a.From < off+int64(len(p)) {
		p[a.From-off] ^= 0x10
	}
}

func (f *file) Write(ctx context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	a := f.n.t.match(Write, f.n.name(), off, off+int64(len(p)))
	switch {
	case a == nil:
	case a.Effect == Lose:
		return uint32(len(p)), 0
	case a.Effect == Fail:
		if p = a.sound(p, off); len(p) == 0 {
			return 0, a.Errno
		}
	case a.Effect == Short:
		p = a.sound(p, off)
	default:
		if e := f.n.t.strike(ctx, a); e != 0 {
			return 0, e
		}
		a.flip(p, off)
	}
	n, err := syscall.Pwrite(int(f.f.Fd()), p, off)
	return uint32(max(n, 0)), fs.ToErrno(err)
}

func (f *file) Flush(ctx context.Context) syscall.Errno {
	if e := f.n.strike(ctx, Close, f.n.name()); e != 0 {
		return e
	}
	return f.plain.Flush(ctx)
}

func (f *file) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if e := f.n.strike(ctx, Fsync, f.n.name()); e != 0 {
		return e
	}
	return f.plain.Fsync(ctx, flags)
}

func (f *file) Getattr(ctx context.Context, out *fuse.AttrOut) syscall.Errno {
	return f.plain.Getattr(ctx, out)
}

func (f *file) Setattr(ctx context.Context, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return f.plain.Setattr(ctx, in, out)
}

func (f *file) Lseek(ctx context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	return f.plain.Lseek(ctx, off, whence)
}

func (f *file) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	return f.plain.Allocate(ctx, off, size, mode)
}

func (f *file) Release(ctx context.Context) syscall.Errno { return f.plain.Release(ctx) }
