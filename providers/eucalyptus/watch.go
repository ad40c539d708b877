package eucalyptus

import (
	"context"
	"io"
	"net/http"
	"time"

	"chromogenic/disk"
)

// errStalled ends a request that has moved no byte for too long.
var errStalled = disk.Errorf(disk.Timeout, "no byte came or went for a while")

// A transport sends requests, and gives one up that moves no byte: a server that hangs, or
// a network that has gone away without a word. Its clock runs only while the other side has
// to move: a slow reader, or a slow source, is not held against it.
type transport struct {
	next  http.RoundTripper
	stall time.Duration
	sign  func(*http.Request) error // nil where it is signed already
}

// RoundTrip sends a request and waits for the header of its answer.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	w := newWatch(req.Context(), t.stall)
	req = req.Clone(w.ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = sending{req.Body, w}
	}
	if t.sign != nil {
		if err := t.sign(req); err != nil {
			w.stop()
			return nil, err
		}
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		if context.Cause(w.ctx) == errStalled {
			err = errStalled
		}
		w.stop()
		return nil, err
	}
	w.timer.Stop()
	resp.Body = receiving{resp.Body, w}
	return resp, nil
}

// A watch ends a request whose time is over.
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

func (b receiving) Close() error {
	defer b.w.stop()
	return b.ReadCloser.Close()
}

// A sending body is that of a request.
type sending struct {
	io.ReadCloser
	w *watch
}

func (b sending) Read(p []byte) (int, error) {
	b.w.timer.Reset(b.w.stall)
	return b.ReadCloser.Read(p)
}
