package guest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A Disk is what is worked on: a copy-on-write overlay over the image, for all of
// the changes go to it. It is safe for concurrent use. *disk.Overlay is one.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Discard(off, n int64) error // makes n bytes at off a hole
	Size() int64                // bytes
}

// A server shows each partition as a file of its own, "p0" the whole disk, "p1" the
// first partition. Programs then need no offsets, and cannot reach what lies
// beside. What they write as zeros, and the holes that they punch, are discarded.
type server struct {
	fuse *fuse.Server

	mu  sync.Mutex
	err error // the first failure of the disk itself
}

// serve answers on dev, an open /dev/fuse that is mounted already, and owns it. It ends
// when the mount does.
func serve(dev int, img Disk, files map[string]span) (*server, error) {
	s := &server{}
	root := &folder{server: s, img: img, files: files}
	opts := fuse.MountOptions{
		DisableReadDirPlus: true,
		DisableSplice:      true, // as fs/mount.go: 1 MiB does not fit the default pipe
		MaxWrite:           1 << 20,
		// Nobody else changes the files: without this each read of theirs asks for the
		// size and time before.
		ExplicitDataCacheControl: true,
		Logger:                   log.New(io.Discard, "", 0),
	}
	var err error
	long := time.Hour
	s.fuse, err = fuse.NewServer(gofuse.NewNodeFS(root, &gofuse.Options{MountOptions: opts, AttrTimeout: &long, EntryTimeout: &long}), fmt.Sprintf("/dev/fd/%d", dev), &opts)
	if err != nil {
		unix.Close(dev)
		return nil, fmt.Errorf("serve disk: %w", err)
	}
	go s.fuse.Serve()
	return s, nil
}

// failed is the first error of the disk, whatever the kernel and the programs made
// of it.
func (s *server) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *server) errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	return syscall.EIO
}

// A folder is the root of the mount.
type folder struct {
	gofuse.Inode
	server *server
	img    Disk
	files  map[string]span
}

var _ = gofuse.NodeOnAdder((*folder)(nil))

func (f *folder) OnAdd(ctx context.Context) {
	for name, s := range f.files {
		node := f.NewPersistentInode(ctx, &shownFile{server: f.server, img: f.img, span: s}, gofuse.StableAttr{Mode: fuse.S_IFREG})
		f.AddChild(name, node, false)
	}
}

// A shownFile is one of the files. The mount is in a namespace of its own, so that all
// who are there may open it.
type shownFile struct {
	gofuse.Inode
	server *server
	img    Disk
	span   span
}

var (
	_ = gofuse.NodeGetattrer((*shownFile)(nil))
	_ = gofuse.NodeSetattrer((*shownFile)(nil))
	_ = gofuse.NodeOpener((*shownFile)(nil))
	_ = gofuse.NodeReader((*shownFile)(nil))
	_ = gofuse.NodeWriter((*shownFile)(nil))
	_ = gofuse.NodeAllocater((*shownFile)(nil))
	_ = gofuse.NodeFsyncer((*shownFile)(nil))
)

func (w *shownFile) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = fuse.S_IFREG | 0o666
	out.Size = uint64(w.span.Size)
	out.Blocks = out.Size / 512
	out.Blksize = pageSize
	return 0
}

// Setattr takes times; a disk has the size that it has.
func (w *shownFile) Setattr(ctx context.Context, h gofuse.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok && size != uint64(w.span.Size) {
		return syscall.EPERM
	}
	return w.Getattr(ctx, h, out)
}

// Open lets the kernel keep what the programs before have read: all changes come by it.
func (w *shownFile) Open(context.Context, uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (w *shownFile) Read(_ context.Context, _ gofuse.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n := max(0, min(int64(len(p)), w.span.Size-off))
	p = p[:n]
	if n == 0 {
		return fuse.ReadResultData(p), 0
	}
	return fuse.ReadResultData(p), w.server.errno(readFull(w.img, p, w.span.Off+off))
}

func (w *shownFile) Write(_ context.Context, _ gofuse.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	if off < 0 || int64(len(p)) > w.span.Size-off {
		return 0, syscall.ENOSPC
	}
	return uint32(len(p)), w.server.errno(writeSparse(w.img, p, w.span.Off+off))
}

func (w *shownFile) Allocate(_ context.Context, _ gofuse.FileHandle, off, n uint64, mode uint32) syscall.Errno {
	size := uint64(w.span.Size)
	if off > size || n > size-off {
		return syscall.ENOSPC
	}
	if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) == 0 {
		return syscall.EOPNOTSUPP
	}
	return w.server.errno(w.img.Discard(w.span.Off+int64(off), int64(n)))
}

// Fsync has nothing to do: what is written is in the overlay, which nobody keeps
// beyond this process.
func (w *shownFile) Fsync(context.Context, gofuse.FileHandle, uint32) syscall.Errno { return 0 }

// readFull reads all of p, which lies within the disk.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at offset %d: %w", len(p), off, err)
}

// pageSize is the unit of an overlay, in bytes: smaller holes take space.
const pageSize = 4096

// writeSparse writes p, and discards the whole pages of it that are zero.
func writeSparse(img Disk, p []byte, off int64) error {
	var zeros [pageSize]byte
	for len(p) > 0 {
		n, zero := 0, false
		for n < len(p) {
			here := min(len(p)-n, int(pageSize-(off+int64(n))%pageSize))
			z := here == pageSize && bytes.Equal(p[n:n+here], zeros[:])
			if n > 0 && z != zero {
				break
			}
			zero = z
			n += here
		}
		var err error
		if zero {
			err = img.Discard(off, int64(n))
		} else {
			_, err = img.WriteAt(p[:n], off)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
