package openstack

import (
	"context"
	"io"
	"time"
)

// A watch ends a request that moves no byte: a server that hangs, or a network that
// has gone away without a word. Its clock runs only while the other side has to move:
// a slow reader, or a slow source, is not held against it.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func newWatch(ctx context.Context, stall time.Duration) *watch {
	w := &watch{stall: stall}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(stall, func() { w.cancel(errStalled) })
	return w
}

// stop ends the request.
func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// A receiving body is that of an answer.
type receiving struct {
	io.ReadCloser
	w *watch
}

func (b receiving) Read(p []byte) (int, error) {
	b.w.timer.Reset(b.w.stall)
	defer b.w.timer.Stop()
	n, err := b.ReadCloser.Read(p)
	if err != nil && context.Cause(b.w.ctx) == errStalled {
		err = errStalled
	}
	return n, err
}

// A sending body is that of a request. When all of it is sent, the service has patience
// to answer: it may have to move the image to its store.
type sending struct {
	io.Reader
	w        *watch
	patience time.Duration
}

func (b sending) Read(p []byte) (int, error) {
	b.w.timer.Stop()
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.w.timer.Reset(b.patience)
	} else {
		b.w.timer.Reset(b.w.stall)
	}
	return n, err
}

func (b sending) Close() error { return nil }
