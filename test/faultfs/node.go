package faultfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A tree is what all nodes share.
type tree struct {
	faults
	folder string // that is shown
	cached bool   // the kernel keeps pages
}

// A node is a file or a folder.
type node struct {
	*fs.LoopbackNode
	t *tree
}

var (
	_ fs.NodeWrapChilder = (*node)(nil)
	_ fs.NodeLookuper    = (*node)(nil)
	_ fs.NodeGetattrer   = (*node)(nil)
	_ fs.NodeSetattrer   = (*node)(nil)
	_ fs.NodeStatxer     = (*node)(nil)
	_ fs.NodeOpener      = (*node)(nil)
	_ fs.NodeCreater     = (*node)(nil)
	_ fs.NodeRenamer     = (*node)(nil)
	_ fs.NodeUnlinker    = (*node)(nil)
	_ fs.NodeReaddirer   = (*node)(nil)
	_ fs.FileFsyncdirer  = (*dir)(nil)
)

// WrapChild makes a node with faults of one that has none.
func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	if plain, ok := ops.(*fs.LoopbackNode); ok {
		return &node{plain, n.t}
	}
	return ops
}

// name is the file's own; that of the root is ".".
func (n *node) name() string { return filepath.Base("./" + n.Path(n.Root())) }

// path is where the file lies in the folder.
func (n *node) path() string { return filepath.Join(n.t.folder, n.Path(n.Root())) }

// strike lets the fault of an operation that has no bytes do its work; 0 means that
// the operation is to go on.
func (n *node) strike(ctx context.Context, op Op, file string) syscall.Errno {
	return n.t.strike(ctx, n.t.match(op, file, 0, 0))
}

// strike waits or fails as a fault wants; nil does nothing.
func (t *tree) strike(ctx context.Context, a *active) syscall.Errno {
	if a == nil {
		return 0
	}
	switch a.Effect {
	case Fail:
		return a.Errno
	case Slow:
		time.Sleep(a.Delay)
	case Deaf:
		<-a.cleared
	case Hang:
		select {
		case <-a.cleared:
			return 0
		case <-ctx.Done():
		}
		// A signal that the caller handles is no end: Go sends itself many.
		caller, _ := fuse.FromContext(ctx)
		for !dying(caller.Pid) {
			select {
			case <-a.cleared:
				return 0
			case <-time.After(10 * time.Millisecond):
			}
		}
		return syscall.EINTR
	}
	return 0
}

// dying tells whether a fatal signal waits for a thread: the kernel makes SIGKILL,
// number 9, of each.
func dying(tid uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(status)) {
		key, val, _ := strings.Cut(line, ":")
		mask, err := strconv.ParseUint(strings.TrimSpace(val), 16, 64)
		if (key == "SigPnd" || key == "ShdPnd") && err == nil && mask&(1<<8) != 0 {
			return true
		}
	}
	return false
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if e := n.strike(ctx, Lookup, name); e != 0 {
		return nil, e
	}
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n *node) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if e := n.strike(ctx, Getattr, n.name()); e != 0 {
		return e
	}
	return n.LoopbackNode.Getattr(ctx, f, out)
}

// Statx has the kernel ask for the attributes, which an open file answers even when
// it has no name any longer.
func (*node) Statx(context.Context, fs.FileHandle, uint32, uint32, *fuse.StatxOut) syscall.Errno {
	return syscall.ENOSYS
}

func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	op := Setattr
	if _, ok := in.GetSize(); ok {
		op = Truncate
	}
	if e := n.strike(ctx, op, n.name()); e != 0 {
		return e
	}
	return n.LoopbackNode.Setattr(ctx, f, in, out)
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if e := n.strike(ctx, Open, n.name()); e != 0 {
		return nil, 0, e
	}
	f, err := os.OpenFile(n.path(), int(flags)&^(syscall.O_APPEND|unix.O_NOFOLLOW)|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fs.ToErrno(err)
	}
	return n.handle(f)
}

func (n *node) handle(f *os.File) (fs.FileHandle, uint32, syscall.Errno) {
	h := &file{n: n, f: f, plain: fs.NewLoopbackFileFromOS(f)}
	if n.t.cached {
		return h, 0, 0
	}
	return h, fuse.FOPEN_DIRECT_IO, 0
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if e := n.strike(ctx, Create, name); e != 0 {
		return nil, nil, 0, e
	}
	f, err := os.OpenFile(filepath.Join(n.path(), name), int(flags)&^syscall.O_APPEND|os.O_CREATE|syscall.O_CLOEXEC, os.FileMode(mode).Perm())
	if err != nil {
		return nil, nil, 0, fs.ToErrno(err)
	}
	child, errno := n.LoopbackNode.Lookup(ctx, name, out)
	if errno != 0 {
		f.Close()
		return nil, nil, 0, errno
	}
	h, how, _ := child.Operations().(*node).handle(f)
	return child, h, how, 0
}

// Rename keeps what has the new name if the caller wants that.
func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if e := n.strike(ctx, Rename, name); e != 0 {
		return e
	}
	other, ok := to.(*node)
	if !ok {
		return syscall.EXDEV
	}
	return fs.ToErrno(unix.Renameat2(unix.AT_FDCWD, filepath.Join(n.path(), name), unix.AT_FDCWD, filepath.Join(other.path(), newName), uint(flags)))
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if e := n.strike(ctx, Unlink, name); e != 0 {
		return e
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

// OpendirHandle lists the folder.
func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if e := n.strike(ctx, Readdir, n.name()); e != 0 {
		return nil, 0, e
	}
	h, how, e := n.LoopbackNode.OpendirHandle(ctx, flags)
	if plain, ok := h.(dirStream); ok {
		h = &dir{plain, n}
	}
	return h, how, e
}

// A dir is a folder that is open.
type dir struct {
	dirStream
	n *node
}

// dirStream is what the handles of LoopbackNode can do.
type dirStream interface {
	fs.FileReaddirenter
	fs.FileReleasedirer
	fs.FileSeekdirer
	fs.FileFsyncdirer
}

// Fsyncdir makes names durable.
func (d *dir) Fsyncdir(ctx context.Context, flags uint32) syscall.Errno {
	if e := d.n.strike(ctx, SyncDir, d.n.name()); e != 0 {
		return e
	}
	return d.dirStream.Fsyncdir(ctx, flags)
}
