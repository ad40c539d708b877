package openstack

import (
	"context"
	"errors"
	"io"
	"net/http"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A stream reads an image forwards. Its readers queue: each has its bytes when those
// before it have theirs. It hashes them when it has them, while the next one is served.
type stream struct {
	m      *remote
	next   int64           // the first byte that nobody has asked for; under remote.mu
	wanted int64           // bytes that were asked for; under remote.mu
	last   <-chan struct{} // closed when the last in the queue is served; under remote.mu
	summed <-chan struct{} // closed when its bytes are hashed; under remote.mu

	// Of whose turn it is.
	resp   *http.Response
	done   func()
	pos    int64 // of resp
	until  int64 // where resp ends
	window int64 // bytes that the last request was for
	err    error // for all who come after a failure
}

func newStream(m *remote, off int64) *stream {
	began := make(chan struct{})
	close(began)
	return &stream{m: m, next: off, last: began, summed: began, pos: off, until: off}
}

// A turn of the queue is over when its reader is served. Then the reader hashes, if those
// before it have done so.
type turn struct {
	begins, hash <-chan struct{}
	over, hashed chan struct{}
}

// queue is the turn of a read of n bytes at off; remote.mu is held.
func (s *stream) queue(off, n int64) turn {
	t := turn{s.last, s.summed, make(chan struct{}), make(chan struct{})}
	s.last, s.summed = t.over, t.hashed
	s.next = off + n
	s.wanted += n
	return t
}

// read fills p, which is what the queue comes to next.
func (s *stream) read(t turn, p []byte, off int64) (n int, err error) {
	n, between, err := s.receive(t, p, off)
	defer close(t.hashed)
	<-t.hash
	s.m.sum.begin(off)
	if err == nil {
		s.m.sum.add(off-int64(len(between)), between)
	}
	s.m.sum.add(off, p[:n])
	if err != nil {
		return n, err
	}
	if err := s.m.sum.check(); err != nil {
		return 0, err // these bytes are as good as the others, but who has all of them looks at no error
	}
	return n, nil
}

// receive is read without the hashing. It comes to off first: what is between there and
// the last reader's end is in a cache, or another stream fetches it. As long as the sum
// of the whole may come of it, it is read too; otherwise left out.
func (s *stream) receive(t turn, p []byte, off int64) (n int, between []byte, err error) {
	defer close(t.over)
	<-t.begins
	if s.err != nil {
		return 0, nil, s.err
	}
	if gap := off - s.pos; gap > 0 {
		if s.m.sum.known() {
			s.hangUp()
			s.pos, s.until = off, off
		} else {
			between = make([]byte, gap)
			_, err = s.fill(between)
		}
	}
	if err == nil {
		n, err = s.fill(p)
	}
	if err != nil {
		s.err = err
		s.hangUp()
	}
	return n, between, err
}

// fill reads what comes next.
func (s *stream) fill(p []byte) (n int, err error) {
	err = s.m.c.retry.Do(s.m.ctx, func(ctx context.Context) error {
		for n < len(p) {
			if err := s.open(ctx, int64(len(p)-n)); err != nil {
				return err
			}
			got, err := io.ReadFull(s.resp.Body, p[n:n+int(min(int64(len(p)-n), s.until-s.pos))])
			n += got
			s.pos += int64(got)
			if err != nil {
				s.hangUp()
				if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
					return &providers.Transient{Err: disk.Errorf(disk.Unreachable, "the answer ends early: %w", io.ErrUnexpectedEOF)}
				}
				return transportError(ctx, err)
			}
		}
		return nil
	})
	return n, err
}

// carefree is the window, in bytes, from which on it grows faster: a reader who has come
// so far is going to read on, and each new answer costs a round trip.
const carefree = 2 << 20

// open sees to it that there is an answer at pos: of n bytes at least, and larger than
// the one before, all of which was wanted.
func (s *stream) open(ctx context.Context, n int64) error {
	if s.resp != nil && s.pos < s.until {
		return nil
	}
	s.hangUp()
	window := max(n, 2*s.window)
	if s.window >= carefree {
		window = max(n, 4*s.window)
	}
	if s.m.whole {
		window = s.m.size
	}
	window = min(window, s.m.size-s.pos)
	resp, done, err := s.m.c.get(ctx, part{s.m.id, s.pos, s.pos + window, s.m.size, s.m.whole})
	if err != nil {
		return err
	}
	s.resp, s.done, s.until, s.window = resp, done, s.pos+window, window
	return nil
}

// hangUp ends the answer that is running.
func (s *stream) hangUp() {
	if s.resp != nil {
		s.done()
		s.resp, s.done = nil, nil
	}
}

// end waits for those who are in the queue, and hangs up.
func (s *stream) end() {
	s.m.mu.Lock()
	last := s.last
	over := make(chan struct{})
	s.last = over
	s.m.mu.Unlock()
	<-last
	s.hangUp()
	if s.err == nil {
		s.err = disk.ErrClosed
	}
	close(over)
}
