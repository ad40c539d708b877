package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// wholeTime is how long an image that was fetched as a whole is kept when nobody has it
// open: who lists a folder opens an image several times.
const wholeTime = 10 * time.Minute

// wholePart is how much of it is read at once, in bytes.
const wholePart = 1 << 20

// A whole is an image that its provider can give in order only (providers.Source.InOrder),
// fetched into a spool, once for all who read it. An image that took a providers.Filler to
// fetch is kept for later processes too: see whole_kept.go.
type whole struct {
	spool *Spool
	kept  bool // its file stays when nobody has it open
	size  int64
	ready chan struct{} // closed when all is there, or err is set
	err   error
	ctx   context.Context // of the fetch, which ends with the last who waits for it
	stop  context.CancelFunc

	// Under Pipeline.mu.
	users int
	since time.Time // that there are none
}

// fetchWhole gives an image that can be read anywhere, by fetching all of img, which it
// closes. With keep one that took a Filler is kept for later processes. It fails with
// NoSpace, before a byte is read, where there is no room for it.
func (p *Pipeline) fetchWhole(ctx context.Context, key string, img disk.Image, keep bool) (disk.Image, error) {
	p.mu.Lock()
	w := p.wholes[key]
	if w == nil && keep {
		w = p.keptWhole(key, img)
	}
	if w == nil {
		w = &whole{spool: &Spool{p: p, plain: true}, size: img.Size(), ready: make(chan struct{})}
		w.ctx, w.stop = context.WithCancel(p.ctx)
		p.wholes[key] = w
		go p.fetch(key, w, img, keep)
	} else {
		defer img.Close()
	}
	w.users++
	p.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
		p.leaveWhole(key, w)
		return nil, context.Cause(ctx)
	}
	if w.err != nil {
		return nil, fmt.Errorf("fetch whole image: %w", w.err)
	}
	return wholeImage{w.spool.Image(), sync.OnceFunc(func() { p.leaveWhole(key, w) })}, nil
}

// fetch fills a whole, and ends it where that fails, or nobody waits any longer.
func (p *Pipeline) fetch(key string, w *whole, img disk.Image, keep bool) {
	defer img.Close()
	defer w.stop()
	var err error
	if f, ok := fillerOf(img); ok {
		if err = f.Fill(w.ctx, filling{p, w}, nil); err == nil {
			err = w.spool.Truncate(w.size)
		}
		if err == nil && keep {
			err = p.keepWhole(key, w)
		}
	} else {
		defer context.AfterFunc(w.ctx, func() { img.Close() })() // ends a read that waits
		err = p.fill(w, img)
	}
	p.mu.Lock()
	if err == nil && p.wholes[key] != w {
		err = disk.ErrClosed // given up in the last moment
	}
	if err != nil && p.wholes[key] == w {
		delete(p.wholes, key)
	}
	w.err = err
	close(w.ready)
	p.mu.Unlock()
	if err == nil {
		return
	}
	if err := w.spool.Close(); err != nil {
		p.log.Warn("close spool", "error", err)
	}
}

// fill reads all of img, and compares it with what the provider knows of it.
func (p *Pipeline) fill(w *whole, img disk.Image) error {
	if err := p.roomFor(w.size); err != nil {
		return err
	}
	p.log.Info("fetch whole image: its provider can give no part of it", "bytes", w.size)
	buf := make([]byte, wholePart)
	for off := int64(0); off < w.size; off += wholePart {
		if p.ctx.Err() != nil {
			return disk.ErrClosed
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(wholePart, w.size-off)]
		if err := disk.ReadFull(img, part, off); err != nil {
			return err
		}
		if len(bytes.TrimLeft(part, "\x00")) == 0 {
			continue
		}
		if _, err := w.spool.WriteAt(part, off); err != nil {
			return err
		}
	}
	if err := w.spool.Truncate(w.size); err != nil {
		return err
	}
	return disk.Verify(w.ctx, img)
}

// roomFor refuses what the limit of spools, or the file system below them, is too small
// for, after what is kept for nobody has gone.
func (p *Pipeline) roomFor(n int64) error {
	enough := func() error {
		if err := p.claim(nil, n); err != nil {
			return err
		}
		var st unix.Statfs_t
		if err := unix.Statfs(p.state.spool, &st); err != nil {
			return fmt.Errorf("look for room: %w", err)
		}
		if free := int64(st.Bavail) * st.Bsize; free < n {
			return disk.Errorf(disk.NoSpace, "it has %d bytes, and %d are free in the state directory", n, free)
		}
		return nil
	}
	err := enough()
	for err != nil && p.makeRoom() {
		err = enough()
	}
	return err
}

// leaveWhole gives up one use. What is still being fetched for nobody is given up too:
// who comes next begins anew.
func (p *Pipeline) leaveWhole(key string, w *whole) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.users--; w.users > 0 {
		return
	}
	if w.since = time.Now(); !w.fetched() {
		w.stop()
		if p.wholes[key] == w {
			delete(p.wholes, key)
		}
		return
	}
	time.AfterFunc(wholeTime, func() {
		for p.dropWhole(wholeTime) {
		}
	})
}

// makeRoom removes the image that has been without users for longest, and tells whether
// there was one.
func (p *Pipeline) makeRoom() bool { return p.dropWhole(0) || p.dropKept() }

// dropWhole closes the image that has been without users for longest, for so long at
// least, and tells whether there was one. What is kept of it stays.
func (p *Pipeline) dropWhole(least time.Duration) bool {
	p.mu.Lock()
	var oldest string
	for key, w := range p.wholes {
		if w.users == 0 && w.fetched() && time.Since(w.since) >= least && (oldest == "" || w.since.Before(p.wholes[oldest].since)) {
			oldest = key
		}
	}
	w := p.wholes[oldest]
	delete(p.wholes, oldest)
	p.mu.Unlock()
	if w == nil {
		return false
	}
	if err := w.spool.Close(); err != nil {
		p.log.Warn("close spool", "error", err)
	}
	return true
}

// closeWholes drops all, whoever reads them.
func (p *Pipeline) closeWholes() {
	p.mu.Lock()
	wholes := p.wholes
	p.wholes = map[string]*whole{}
	p.mu.Unlock()
	for _, w := range wholes {
		if !w.fetched() {
			continue // fill sees that the pipeline has ended
		}
		if err := w.spool.Close(); err != nil {
			p.log.Warn("close spool", "error", err)
		}
	}
}

// fetched tells whether all is there, or never will be.
func (w *whole) fetched() bool {
	select {
	case <-w.ready:
		return true
	default:
		return false
	}
}

// A wholeImage is one use of a whole.
type wholeImage struct {
	disk.Image
	leave func() // once
}

// Close gives it up.
func (i wholeImage) Close() error {
	i.leave()
	return nil
}
