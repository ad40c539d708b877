// Package stall ends requests that move no byte: a server that hangs, or a network that
// has gone away without a word. A clock runs only while the other side has to move: a slow
// reader, or a slow source, is not held against it.
package stall

import (
	"context"
	"io"
	"time"

	"chromogenic/disk"
)

// Err is the cause that a request was ended by.
var Err = disk.Errorf(disk.Timeout, "no byte came or went for a while")

// A Watch ends one request.
type Watch struct {
	Ctx    context.Context // of the request; its cause is Err when nothing has moved
	cancel context.CancelCauseFunc
	timer  *time.Timer
	after  time.Duration
}

// New watches a request from now on: it ends when no byte has moved for so long.
func New(ctx context.Context, after time.Duration) *Watch {
	w := &Watch{after: after}
	w.Ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(after, func() { w.cancel(Err) })
	return w
}

// Allow gives the other side so much time from now on.
func (w *Watch) Allow(d time.Duration) { w.timer.Reset(d) }

// Rest stops the clock until the next byte is asked for.
func (w *Watch) Rest() { w.timer.Stop() }

// Stop ends the request.
func (w *Watch) Stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// Stalled tells whether the request was ended because nothing moved.
func (w *Watch) Stalled() bool { return context.Cause(w.Ctx) == Err }

// Body is that of an answer. Who closes it may have to Stop the Watch.
func (w *Watch) Body(b io.ReadCloser) io.ReadCloser { return receiving{b, w} }

type receiving struct {
	io.ReadCloser
	w *Watch
}

func (b receiving) Read(p []byte) (int, error) {
	b.w.timer.Reset(b.w.after)
	defer b.w.timer.Stop()
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.w.Stalled() {
		err = Err
	}
	return n, err
}
