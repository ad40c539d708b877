package fs

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
)

// endingTime is how long a request may still take when the mount has been told to
// end: less than the command waits before it gives up on those who have files open.
const endingTime = 3 * time.Second

// letGo runs what may have to wait for a disk that does not answer, and gives its
// error. A caller that must die first is let go, and so is everybody when the mount
// ends: do goes on alone then, until the disk answers or the process ends, and may
// touch nothing that is the request's.
func (t *tree) letGo(ctx context.Context, do func() error) error {
	result := make(chan error, 1)
	go func() { result <- do() }()
	ended := t.ctx.Done()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		calm, cancel := patient(ctx)
		defer cancel()
		select {
		case err := <-result:
			return err
		case <-calm.Done():
			return disk.Errorf(disk.Interrupted, "the program was killed while it waited for a disk that does not answer")
		case <-ended:
		}
	case <-ended:
	}
	select {
	case err := <-result:
		return err
	case <-time.After(endingTime):
		return disk.Errorf(disk.Cancelled, "the mount has ended while it waited for a disk that does not answer")
	}
}

// read reads up to n bytes of src at off, fewer only at its end.
func (t *tree) read(ctx context.Context, src io.ReaderAt, n int, off int64) (fuse.ReadResult, error) {
	p := buffer(n)
	err := t.letGo(ctx, func() (err error) {
		if n, err = src.ReadAt(*p, off); errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &pooledRead{(*p)[:n], p}, nil
}

// buffers are of those who may be let go: the request's own are another's then.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// buffer gives n bytes of any content.
func buffer(n int) *[]byte {
	b := buffers.Get().(*[]byte)
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}

// A pooledRead is the answer to a read, in a buffer that goes back when the kernel
// has it.
type pooledRead struct {
	data []byte
	from *[]byte
}

var _ fuse.ReadResult = (*pooledRead)(nil)

func (r *pooledRead) Size() int { return len(r.data) }

func (r *pooledRead) Done() { buffers.Put(r.from) }

// Bytes copies, for its result outlives Done.
func (r *pooledRead) Bytes(buf []byte) ([]byte, fuse.Status) {
	return append(buf[:0], r.data...), fuse.OK
}

// Slices is what go-fuse writes to the kernel without a copy.
func (r *pooledRead) Slices() ([][]byte, fuse.Status) { return [][]byte{r.data}, fuse.OK }
