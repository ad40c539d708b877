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
	return t.await(ctx, func(f func()) { go f() }, do)
}

// carryOut is letGo of a change to an image: the end of the mount waits for it, as it
// does for copies, so that nothing half-made stays where it could still be finished. None
// begins when the mount has ended.
func (t *tree) carryOut(ctx context.Context, do func() error) error {
	if t.ctx.Err() != nil {
		return disk.Errorf(disk.Cancelled, "the mount has ended")
	}
	return t.await(ctx, t.jobs.Go, do)
}

// await has do run by start, and gives its error or that of who is let go.
func (t *tree) await(ctx context.Context, start func(func()), do func() error) error {
	var result error
	done := make(chan struct{})
	start(func() {
		defer close(done)
		result = do()
	})
	if err := t.wait(ctx, done); err != nil {
		return err
	}
	return result
}

// wait returns when done is closed, or with the reason for which the caller is let
// go before.
func (t *tree) wait(ctx context.Context, done <-chan struct{}) error {
	ended := t.ctx.Done()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		calm, cancel := patient(ctx)
		defer cancel()
		select {
		case <-done:
			return nil
		case <-calm.Done():
			select {
			case <-done: // both at once
				return nil
			default:
			}
			return disk.Errorf(disk.Interrupted, "the program was killed while it waited")
		case <-ended:
		}
	case <-ended:
	}
	select {
	case <-done:
		return nil
	case <-time.After(endingTime):
		return disk.Errorf(disk.Cancelled, "the mount has ended while the program waited")
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
