package disk

import (
	"bytes"
	"sync"
)

// streamed is the least read, in bytes, that passes by the cache of an image which
// streams: what a kernel reads ahead at once (VM_READAHEAD_PAGES in linux/mm.h).
const streamed = 128 << 10

// nearby is how far, in bytes, a read may lie from the end of an earlier one and go on
// there: those that a kernel begins one after the other may arrive in another order.
const nearby = 8 << 20

// Stream is Image for an img that serves reads in their order from a stream of its own,
// and is ahead of its reader by itself: nothing is fetched before it is asked for. Long
// reads are passed on as they are, and so few requests begin a stream; two who ask for the
// same at the same time both get it from the image. Those that go on where another has
// ended pass by the cache: to keep them costs more than to fetch them, and nobody comes
// back.
func (c *Cache) Stream(key string, img Image) Image {
	m := c.image(key, img)
	m.runs, m.ahead.window = new(runs), 0
	return m
}

// goesOn tells whether a read of n bytes is one that the image itself is ahead of.
func (m *cachedImage) goesOn(off int64, n int) bool {
	return n >= streamed && m.runs.goesOn(off, off+int64(n))
}

// stream fills p with what the cache has, and the image the rest, whose blocks are kept
// if that is wanted.
func (m *cachedImage) stream(p []byte, off int64, keep bool) (int, error) {
	size := m.c.o.BlockSize
	for done := 0; done < len(p); {
		at := off + int64(done)
		if m.keeps(at / size) {
			block, err := m.block(at / size)
			if err != nil {
				return done, err
			}
			done += copy(p[done:], block[at%size:])
			continue
		}
		end := at - at%size + size
		for end < off+int64(len(p)) && !m.keeps(end/size) {
			end += size
		}
		part := p[done:min(int64(len(p)), end-off)]
		if err := ReadFull(m.Image, part, at); err != nil {
			if KindOf(err) == Malformed { // and so may be what was fetched before, and looked right
				m.c.forget(m.key)
			}
			return done, err
		}
		if keep {
			m.keepBlocks(part, at)
		}
		done += len(part)
	}
	return len(p), nil
}

// keepBlocks keeps the blocks that are whole in p, which lies at off.
func (m *cachedImage) keepBlocks(p []byte, off int64) {
	size := m.c.o.BlockSize
	for b := (off + size - 1) / size; ; b++ {
		at, end := b*size-off, min((b+1)*size, m.Size())-off
		if at >= end || end > int64(len(p)) {
			return
		}
		m.c.recent.add(blockKey{m.key, b}, bytes.Clone(p[at:end]))
		if m.c.closed.Load() {
			m.c.drop()
		}
	}
}

// keeps tells whether a block is in the cache, or on its way there.
func (m *cachedImage) keeps(b int64) bool {
	_, ok := m.c.get(blockKey{m.key, b})
	return ok || m.ahead.fetching(b)
}

// runs are where the last readers have come to that read long runs.
type runs struct {
	mu   sync.Mutex
	ends [4]int64 // offsets, most recent first
}

// goesOn notes a read of [off, end) and tells whether it goes on where an earlier one
// has ended.
func (r *runs) goesOn(off, end int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, found := advance(r.ends[:], end, func(at int64) bool { return at > 0 && off >= at-nearby && off <= at+nearby })
	return found
}
