package openstack

import (
	"io"
	"time"

	"chromogenic/providers/internal/stall"
)

// A sending body is that of a request. When all of it is sent, the service has patience
// to answer: it may have to move the image to its store.
type sending struct {
	io.Reader
	w               *stall.Watch
	stall, patience time.Duration
}

func (b sending) Read(p []byte) (int, error) {
	b.w.Rest()
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.w.Allow(b.patience)
	} else {
		b.w.Allow(b.stall)
	}
	return n, err
}

func (b sending) Close() error { return nil }
