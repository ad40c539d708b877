package eucalyptus

import (
	"io"
	"net/http"
	"time"

	"chromogenic/providers/internal/stall"
)

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
	w := stall.New(req.Context(), t.stall)
	req = req.Clone(w.Ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = sending{req.Body, w, t.stall}
	}
	if t.sign != nil {
		if err := t.sign(req); err != nil {
			w.Stop()
			return nil, err
		}
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		if w.Stalled() {
			err = stall.Err
		}
		w.Stop()
		return nil, err
	}
	w.Rest()
	resp.Body = receiving{w.Body(resp.Body), w}
	return resp, nil
}

// A receiving body is that of an answer: to close it ends the request.
type receiving struct {
	io.ReadCloser
	w *stall.Watch
}

func (b receiving) Close() error {
	defer b.w.Stop()
	return b.ReadCloser.Close()
}

// A sending body is that of a request.
type sending struct {
	io.ReadCloser
	w     *stall.Watch
	stall time.Duration
}

func (b sending) Read(p []byte) (int, error) {
	b.w.Allow(b.stall)
	return b.ReadCloser.Read(p)
}
