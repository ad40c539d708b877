package pipeline

import (
	"sync/atomic"
	"time"

	"chromogenic/disk"
)

// stallTime is how long a read for a comparison may take that is not worth waiting
// for, and how long one that somebody waits for before its source counts as stalled.
const stallTime = time.Second

// A pulse tells whether what is read answers. It is safe for concurrent use.
type pulse struct {
	waiting atomic.Int64 // reads
	last    atomic.Int64 // sign of life, or beginning of the waiting, in nanoseconds since 1970
}

// begin notes a read, and end its answer.
func (p *pulse) begin() {
	if p.waiting.Add(1) == 1 {
		p.last.Store(time.Now().UnixNano())
	}
}

func (p *pulse) end() {
	p.last.Store(time.Now().UnixNano())
	p.waiting.Add(-1)
}

// stalled tells whether reads have waited for a while, and none was answered.
func (p *pulse) stalled() bool {
	return p.waiting.Load() > 0 && time.Now().UnixNano()-p.last.Load() > int64(stallTime)
}

// readOrStall reads img, of c, as disk.ReadFull does, but waits no longer than
// stallTime: a copy of something else must not wait for a source that does not
// answer. After ErrStalled p belongs to the read, which goes on.
func (c *core) readOrStall(img disk.Image, p []byte, off int64) error {
	if c.lease.stalled() {
		return ErrStalled
	}
	read := make(chan error, 1)
	go func() { read <- disk.ReadFull(img, p, off) }()
	late := time.NewTimer(stallTime)
	defer late.Stop()
	select {
	case err := <-read:
		return err
	case <-late.C:
		return ErrStalled
	}
}
