package disk

import (
	"errors"
	"sync"

	"golang.org/x/sync/singleflight"
)

// ReadAt reads as io.ReaderAt does: holes are zero without a look at the
// content, all else comes from the cache's blocks.
func (m *cachedImage) ReadAt(p []byte, off int64) (int, error) {
	if m.isClosed() {
		return 0, ErrClosed
	}
	q, eof := ClipRead(p, off, m.Size())
	if len(q) == 0 {
		return 0, eof
	}
	for done := 0; done < len(q); {
		e, err := m.Extent(off+int64(done), int64(len(q)-done))
		if err != nil {
			return done, err
		}
		part := q[done : done+int(e.Len)]
		if e.Zero {
			clear(part)
		} else if n, err := m.readData(part, e.Off); err != nil {
			return done + n, err
		}
		done += len(part)
	}
	return len(q), eof
}

// readData fills p from the blocks that hold it.
func (m *cachedImage) readData(p []byte, off int64) (int, error) {
	size := m.c.o.BlockSize
	if m.runs == nil {
		m.readAhead(off, off+int64(len(p)))
	} else if goesOn := m.goesOn(off, len(p)); goesOn || int64(len(p)) > size {
		return m.stream(p, off, !goesOn)
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		block, err := m.block(at / size)
		if err != nil {
			return done, err
		}
		done += copy(p[done:], block[at%size:])
	}
	return len(p), nil
}

// block is the block of a number, from the cache or fetched.
func (m *cachedImage) block(b int64) ([]byte, error) {
	k := blockKey{m.key, b}
	for {
		if m.isClosed() {
			return nil, ErrClosed
		}
		if p, ok := m.c.get(k); ok {
			return p, nil
		}
		select {
		case r := <-m.flight(k):
			if r.Err == nil {
				return r.Val.([]byte), nil
			}
			// The flight may have been that of another image of this key,
			// which was closed meanwhile. Ours is open, so it is tried again.
			var failed fetchError
			if !errors.As(r.Err, &failed) || failed.by == m || !failed.by.isClosed() {
				return nil, r.Err
			}
		case <-m.done:
			return nil, ErrClosed
		case <-m.c.done:
			return nil, ErrClosed
		}
	}
}

// flight fetches a block. Of an image that streams others know of it meanwhile, and wait
// for it rather than to ask for its bytes from the middle on.
func (m *cachedImage) flight(k blockKey) <-chan singleflight.Result {
	if m.runs == nil {
		return m.c.fetch(k, m)
	}
	m.ahead.begin(k.block)
	landed, out := m.c.fetch(k, m), make(chan singleflight.Result, 1)
	go func() {
		r := <-landed
		m.ahead.end(k.block)
		out <- r
	}()
	return out
}

// readAhead starts the fetches that a read of [off, end) makes worth while: of
// its own further blocks, and of those behind it when its reader is sequential.
// It waits for nothing.
func (m *cachedImage) readAhead(off, end int64) {
	size := m.c.o.BlockSize
	first, last := off/size, (end-1)/size
	until := last
	if m.ahead.sequential(first, last) {
		until += m.ahead.window
	}
	for b := first + 1; b <= until && b*size < m.Size(); b++ {
		if m.ahead.window == 0 || !m.worthFetching(b) {
			continue
		}
		if !m.ahead.start(b) {
			return
		}
		// The flight begins here, not in the goroutine, so that a fast reader
		// joins it. An error is for the reader who asks for the block itself.
		landed := m.c.fetch(blockKey{m.key, b}, m)
		go func() {
			<-landed
			m.ahead.end(b)
		}()
	}
}

// worthFetching tells whether a block has data and is not there yet.
func (m *cachedImage) worthFetching(b int64) bool {
	if m.keeps(b) {
		return false
	}
	size := m.c.o.BlockSize
	n := min(size, m.Size()-b*size)
	e, err := m.Extent(b*size, n)
	return err == nil && !(e.Zero && e.Len == n)
}

// A readAhead finds the sequential readers of an image and counts the fetches
// that run ahead of them.
type readAhead struct {
	window   int64 // blocks
	parallel int

	mu      sync.Mutex
	readers [8]int64      // the last block of as many readers, most recent first
	running map[int64]int // by block: how many wait for it
}

func newReadAhead(o CacheOptions) *readAhead {
	a := &readAhead{window: o.ReadAhead / o.BlockSize, parallel: o.Parallel, running: map[int64]int{}}
	for i := range a.readers {
		a.readers[i] = -2 // no block comes next behind it
	}
	return a
}

// sequential notes a read of the blocks first to last and tells whether it
// goes on where an earlier one ended, in a new block. Within a block it is
// false: what is ahead is under way already.
func (a *readAhead) sequential(first, last int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	before, found := advance(a.readers[:], last, func(at int64) bool { return first == at || first == at+1 })
	return found && last > before
}

// advance notes that a reader has come to a place: the one of those that are known, most
// recent first, who goes on there, or a new one instead of the least recent. It gives
// where that one was before.
func advance(readers []int64, to int64, goesOn func(at int64) bool) (before int64, found bool) {
	i := 0
	for ; i < len(readers)-1; i++ {
		if found = goesOn(readers[i]); found {
			break
		}
	}
	if before = readers[i]; found {
		to = max(to, before)
	}
	copy(readers[1:i+1], readers[:i])
	readers[0] = to
	return before, found
}

// start claims a fetch of block b; false when as many as may run do.
func (a *readAhead) start(b int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.running) >= a.parallel || a.running[b] > 0 {
		return false
	}
	a.running[b]++
	return true
}

// begin notes a fetch of block b that is not one ahead of its reader.
func (a *readAhead) begin(b int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running[b]++
}

func (a *readAhead) end(b int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running[b]--; a.running[b] == 0 {
		delete(a.running, b)
	}
}

func (a *readAhead) fetching(b int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running[b] > 0
}
