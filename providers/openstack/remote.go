package openstack

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"chromogenic/disk"
)

// A remote is an image of Glance, read by ranges: the design in a few words.
//
// A reader that goes on where another read has ended is served by the same stream, an
// answer that is still running. What a stream asks for grows each time, so that a look
// at a table costs little, and a sequential reader waits for a round trip only a few
// times in the whole. A kernel reads ahead of its readers with several reads at a time;
// these meet one stream, in whatever order they come, and take turns. A stream that has
// come far passes over what the cache has already, and over what is asked for too late;
// that waits for its reader.
//
// The bytes of a stream that has come from the beginning to the end in order are
// hashed on the way, and compared with what Glance says (hash.go).
type remote struct {
	c      *client
	record *record
	id     string
	size   int64
	whole  bool // it comes as a whole, from its beginning: see inOrder
	sum    *runningSum

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu      sync.Mutex
	moved   *sync.Cond // a stream has gone on, or the image is closed
	streams []*stream  // the last used last
	joined  int        // reads
	gap     *gap       // the last that a stream has passed over; nil for none
	bad     error      // the whole was read, and is not what it should be
}

// maxStreams is how many sequential readers of one image are told apart.
const maxStreams = 4

// ahead is how far, in bytes, a read may lie ahead of a stream and still be taken for
// one that has overtaken another by chance; it waits for the others, as long as one of
// them comes within a moment.
const (
	ahead     = 8 << 20
	aheadTime = 5 * time.Millisecond
)

// passMost is how much, in bytes, a stream passes over that is in a cache already, or whose
// reader was overtaken. Of more another request is cheaper.
const passMost = 2 << 20

func newRemote(c *client, r *record, whole bool) *remote {
	m := &remote{c: c, record: r, id: r.ID, size: *r.Size, whole: whole, sum: newRunningSum(r)}
	m.moved = sync.NewCond(&m.mu)
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

// Size is that of the record.
func (m *remote) Size() int64 { return m.size }

// Extent is all data: Glance knows of no holes.
func (m *remote) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, m.size)
	return disk.Extent{Off: off, Len: n}, err
}

// Close ends all reads.
func (m *remote) Close() error {
	m.stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.streams {
		go s.end()
	}
	m.streams = nil
	m.moved.Broadcast()
	return nil
}

// ReadAt fetches the bytes.
func (m *remote) ReadAt(p []byte, off int64) (int, error) {
	if m.ctx.Err() != nil {
		return 0, disk.ErrClosed
	}
	q, eof := disk.ClipRead(p, off, m.size)
	if len(q) == 0 {
		return 0, eof
	}
	if err := m.refused(off); err != nil {
		return 0, err
	}
	if m.late(q, off) {
		return len(q), eof
	}
	s, turn := m.join(off, int64(len(q)))
	n, err := s.read(turn, q, off)
	switch {
	case m.ctx.Err() != nil:
		return n, disk.ErrClosed
	case disk.KindOf(err) == disk.Malformed:
		err = fmt.Errorf("read image %s at offset %d: %w", m.id, off, err)
		m.mu.Lock()
		m.bad = err
		m.mu.Unlock()
		return 0, err
	case err != nil:
		m.drop(s)
		return n, fmt.Errorf("read image %s at offset %d: %w", m.id, off+int64(n), m.explain(err))
	}
	return n, eof
}

// refused is why nothing is read any more of an image whose sum is wrong: who reads it
// tries the last bytes again, and must not take them for right. It ends with who begins
// anew.
func (m *remote) refused(off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off == 0 {
		m.bad, m.gap = nil, nil
	}
	return m.bad
}

// late reads what a stream has passed over, and tells whether it has. Who goes on where
// another stream is has not been overtaken: he reads anew, and what he gets is hashed.
func (m *remote) late(p []byte, off int64) bool {
	m.mu.Lock()
	g, behind := m.gap, m.at(off) == nil
	m.mu.Unlock()
	if g == nil || !behind || off < g.off || off+int64(len(p)) > g.end {
		return false
	}
	select {
	case <-g.over:
	case <-m.ctx.Done():
		return false
	}
	return copy(p, g.p[min(off-g.off, int64(len(g.p))):]) == len(p)
}

// join finds the stream that comes to off, or makes one. The caller reads n bytes when
// its turn comes.
func (m *remote) join(off, n int64) (*stream, turn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.at(off)
	if s == nil {
		s = m.behind(off)
	}
	if s == nil && m.near(off) {
		s = m.overtaken(off)
	}
	if s == nil {
		if len(m.streams) >= maxStreams {
			go m.streams[0].end()
			m.streams = m.streams[1:]
		}
		s = newStream(m, off)
	}
	m.take(s)
	m.joined++
	m.moved.Broadcast()
	return s, s.queue(off, n)
}

// overtaken waits for a stream to come to off, or near enough to pass over what is before
// it, and gives nil if none goes on.
func (m *remote) overtaken(off int64) *stream {
	joined, late := m.joined, false
	t := time.AfterFunc(aheadTime, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		late = true
		m.moved.Broadcast()
	})
	defer t.Stop()
	for !late && m.ctx.Err() == nil && m.near(off) {
		m.moved.Wait()
		if s := cmp.Or(m.at(off), m.behind(off)); s != nil {
			return s
		}
		if m.joined != joined && t.Stop() {
			joined = m.joined
			t.Reset(aheadTime)
		}
	}
	return nil
}

// behind is a stream that may pass over what is before off: one whose readers have wanted
// more than that before.
func (m *remote) behind(off int64) *stream {
	for _, s := range m.streams {
		if gap := off - s.next; gap > 0 && gap <= min(passMost, s.wanted) {
			return s
		}
	}
	return nil
}

// at is the stream whose next byte nobody has asked for is off.
func (m *remote) at(off int64) *stream {
	for _, s := range m.streams {
		if s.next == off {
			return s
		}
	}
	return nil
}

// near tells whether a stream may soon come to off.
func (m *remote) near(off int64) bool {
	for _, s := range m.streams {
		if s.next < off && off-s.next <= ahead {
			return true
		}
	}
	return false
}

// take makes s the last used.
func (m *remote) take(s *stream) {
	m.forget(s)
	m.streams = append(m.streams, s)
}

func (m *remote) forget(s *stream) {
	for i, other := range m.streams {
		if other == s {
			m.streams = append(m.streams[:i:i], m.streams[i+1:]...)
			return
		}
	}
}

// drop gives up a stream that has failed: who waits for it fails as well, and the next
// reader has another.
func (m *remote) drop(s *stream) {
	m.mu.Lock()
	m.forget(s)
	m.mu.Unlock()
	s.end()
}

// explain looks why the bytes of an image that could be read cannot be any more.
func (m *remote) explain(err error) error {
	switch disk.KindOf(err) {
	case disk.NotFound, disk.Denied, disk.Busy, disk.Unreachable, disk.Other:
	default:
		return err
	}
	ctx, cancel := context.WithTimeout(m.ctx, m.c.stall)
	defer cancel()
	r, failed := (&Provider{client: m.c}).record(ctx, m.id)
	switch {
	case disk.KindOf(failed) == disk.NotFound:
		return disk.Errorf(disk.Stale, "the image is gone: %w", err)
	case failed != nil:
		return err
	case r.Status == "deactivated":
		return disk.Hint(disk.Errorf(disk.Denied, "the image was deactivated: %w", err), "an administrator can reactivate it")
	case r.Status != "active":
		return disk.Errorf(disk.Stale, "the image is %s: %w", r.Status, err)
	}
	return err
}
