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
// before it have theirs. They are hashed in the same order, while the next one is served.
type stream struct {
	m      *remote
	next   int64           // the first byte that nobody has asked for; under remote.mu
	wanted int64           // bytes that were asked for; under remote.mu
	last   <-chan struct{} // closed when the last in the queue is served; under remote.mu
	summed <-chan struct{} // closed when its bytes are hashed; under remote.mu

	// Of whose turn it is.
	now    *fetch // nil for none
	then   *fetch // what comes behind it, asked for already; nil for none
	began  int64  // where it was made
	pos    int64  // of now
	window int64  // bytes that the last request was for
	err    error  // for all who come after a failure
}

// A fetch is a request for a part of an image, and the answer to it.
type fetch struct {
	part
	came chan struct{} // closed when it is known that it comes, or does not
	err  error         // why it does not
	resp *http.Response
	done func()
}

func newStream(m *remote, off int64) *stream {
	began := make(chan struct{})
	close(began)
	return &stream{m: m, next: off, last: began, summed: began, began: off, pos: off}
}

// A turn of the queue is over when its reader is served. Then its bytes are hashed, if
// those before them are.
type turn struct {
	begins, hash <-chan struct{}
	over, hashed chan struct{}
	gap          *gap // what it passes over; nil for nothing
}

// A gap is what a stream has passed over: who is late finds it there.
type gap struct {
	off, end int64
	over     <-chan struct{} // closed when p is read, or never will be
	p        []byte          // nil when it could not be read
}

// queue is the turn of a read of n bytes at off; remote.mu is held.
func (s *stream) queue(off, n int64) turn {
	t := turn{begins: s.last, hash: s.summed, over: make(chan struct{}), hashed: make(chan struct{})}
	if off > s.next {
		t.gap = &gap{off: s.next, end: off, over: t.over}
		s.m.gap = t.gap
	}
	s.last, s.summed = t.over, t.hashed
	s.next = off + n
	s.wanted += n
	return t
}

// read fills p, which is what the queue comes to next.
func (s *stream) read(t turn, p []byte, off int64) (n int, err error) {
	n, later, err := s.receive(t, p, off)
	sum := s.m.sum
	if later {
		kept := sum.keep(p[:n])
		go func() {
			s.hash(t, kept, off)
			sum.give(kept)
		}()
		return n, err
	}
	s.hash(t, p[:n], off)
	if err != nil {
		return n, err
	}
	if err := sum.check(); err != nil {
		return 0, err // these bytes are as good as the others, but who has all of them looks at no error
	}
	return n, nil
}

// hash hashes what was read at off, and what lay between it and what was read before.
func (s *stream) hash(t turn, p []byte, off int64) {
	defer close(t.hashed)
	<-t.hash
	s.m.sum.begin(off)
	if t.gap != nil {
		s.m.sum.add(t.gap.off, t.gap.p)
	}
	s.m.sum.add(off, p)
}

// receive is read without the hashing, which may be done later. It comes to off first:
// what is between there and the last reader's end is in a cache, or its reader is late.
// It is read too, for that is cheaper than to ask anew, and the sum of the whole may come
// of it.
func (s *stream) receive(t turn, p []byte, off int64) (n int, later bool, err error) {
	defer close(t.over)
	<-t.begins
	if s.err != nil {
		return 0, false, s.err
	}
	if t.gap != nil {
		between := make([]byte, off-s.pos)
		if _, err = s.fill(between); err == nil {
			t.gap.p = between
		}
	}
	if err == nil {
		n, err = s.fill(p)
	}
	if err != nil {
		s.err = err
		s.hangUp()
		return n, false, err
	}
	return n, t.gap == nil && s.m.sum.later(off, n), nil
}

// fill reads what comes next.
func (s *stream) fill(p []byte) (n int, err error) {
	err = s.m.c.retry.Do(s.m.ctx, func(ctx context.Context) error {
		for n < len(p) {
			if err := s.open(ctx, int64(len(p)-n)); err != nil {
				return err
			}
			got, err := io.ReadFull(s.now.resp.Body, p[n:n+int(min(int64(len(p)-n), s.now.end-s.pos))])
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

// growth is how much larger than the one before an answer is that is asked for: all of
// that was wanted.
const growth = 16

// steady is the most, in bytes, to which an answer grows. All that is left is asked for
// when a stream has come as far as carefree, before its last answer ends: who has read so
// much in order is going to read on, each new answer costs a round trip, and of one that is
// given up no more is lost than was on its way. That is as much as the buffers of two
// sockets hold, megabytes, so who reads the first MiB alone, for which a kernel reads
// another, must not come to that, behind the tables of a container.
const (
	steady   = 4 << 20
	carefree = 3 << 20
)

// open sees to it that there is an answer at pos, of n bytes at least.
func (s *stream) open(ctx context.Context, n int64) error {
	if s.now != nil && s.pos < s.now.end {
		s.foresee(ctx)
		return nil
	}
	next := s.then
	s.then = nil
	if next != nil {
		<-next.came
	}
	if next == nil || next.err != nil {
		next = s.ask(s.pos, max(n, s.following()))
		next.get(ctx, s.m.c)
	}
	s.now.hangUp()
	s.now = nil
	if next.err != nil {
		return next.err
	}
	s.now, s.window = next, next.end-next.off
	return nil
}

// ask is for n bytes at off, or what is left there.
func (s *stream) ask(off, n int64) *fetch {
	m := s.m
	if m.whole {
		n = m.size
	}
	return &fetch{part: part{m.id, off, off + min(n, m.size-off), m.size, m.whole}, came: make(chan struct{})}
}

// following is the size of the answer behind the last one.
func (s *stream) following() int64 {
	if s.pos-s.began >= carefree {
		return s.m.size
	}
	return min(growth*s.window, steady)
}

// foresee asks for all that is left before the last answer ends. What fails is asked for
// again when its time has come.
func (s *stream) foresee(ctx context.Context) {
	if s.then != nil || s.now.end == s.m.size || s.pos-s.began < carefree {
		return
	}
	s.then = s.ask(s.now.end, s.m.size)
	go s.then.get(ctx, s.m.c)
}

// hangUp ends the answers that are running.
func (s *stream) hangUp() {
	s.now.hangUp()
	if s.then != nil {
		go func(f *fetch) {
			<-f.came
			f.hangUp()
		}(s.then)
	}
	s.now, s.then = nil, nil
}

// get waits for the answer.
func (f *fetch) get(ctx context.Context, c *client) {
	defer close(f.came)
	f.resp, f.done, f.err = c.get(ctx, f.part)
}

// hangUp ends an answer; nil is none, and neither is one that has failed.
func (f *fetch) hangUp() {
	if f != nil && f.err == nil {
		f.done()
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
