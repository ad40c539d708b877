package eucalyptus

import (
	"context"
	"io"
	"sync"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
)

// spool is where a Filler writes: what providers.Filler says, of which bundle.Spool is one.
type spool = providers.Spool

// A sealed image is a bundle without an index: nobody can tell where in it a byte of the
// disk is. It is fetched as a whole, by Fill.
type sealed struct {
	b      *opened
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func newSealed(b *opened) *sealed {
	d := &sealed{b: b}
	d.ctx, d.cancel = context.WithCancelCause(context.Background())
	return d
}

// Size is that of the disk, as the manifest says.
func (d *sealed) Size() int64 { return d.b.m.Size }

// Close ends a Fill that is running.
func (d *sealed) Close() error {
	d.cancel(disk.ErrClosed)
	return nil
}

// Extent is all of it: where its holes are is known once it is fetched.
func (d *sealed) Extent(off, n int64) (disk.Extent, error) {
	if d.ctx.Err() != nil {
		return disk.Extent{}, disk.ErrClosed
	}
	n, err := disk.CheckRange(off, n, d.b.m.Size)
	return disk.Extent{Off: off, Len: n}, err
}

// ReadAt fails.
func (d *sealed) ReadAt([]byte, int64) (int, error) {
	if d.ctx.Err() != nil {
		return 0, disk.ErrClosed
	}
	err := disk.Errorf(disk.Unsupported, "read bundle %q: it must be fetched as a whole", d.b.m.Name)
	return 0, disk.Hint(err, "uploads with an index can be read in part (index: true)")
}

// Fill fetches the bundle and writes the disk, verified, to a spool, which is worth nothing
// where Fill fails. Parts are fetched beside each other, three of 10 MiB at
// most of all that come and go. Progress is called with the bytes of the parts that
// are done.
func (d *sealed) Fill(ctx context.Context, to spool, progress func(done int64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.ctx, func() { cancel(context.Cause(d.ctx)) })()
	f := newAhead(ctx, d.b)
	defer f.stop()
	return bundle.Unbundle(ctx, d.b.m, d.b.secret, f.fetch, to, progress)
}

// pieces are the buffers for parts that come and go, of all images of a provider together. Who
// has one gives it back without waiting for another.
type pieces struct{ free chan []byte }

// morePieces is how many parts are on their way at a time: 30 MiB.
const morePieces = 3

func newPieces() *pieces {
	p := &pieces{free: make(chan []byte, morePieces)}
	for range morePieces {
		p.free <- nil // allocated when it is first used
	}
	return p
}

func (p *pieces) get(ctx context.Context) ([]byte, error) {
	select {
	case b := <-p.free:
		if b == nil {
			b = make([]byte, bundle.PartSize)
		}
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *pieces) put(b []byte) { p.free <- b } // has room for all there are

// An ahead fetches the parts of a bundle in their order, some of them before they are asked
// for. Each has its piece before any that comes behind it, so those who are filled together
// never wait for each other in a circle: the first part of each is read on.
type ahead struct {
	b      *opened
	ctx    context.Context
	cancel context.CancelFunc
	parts  chan *coming
	done   sync.WaitGroup
}

// A coming is a part whose first piece is fetched.
type coming struct {
	name string
	came chan struct{} // closed when it has come, or failed
	p    []byte        // the whole buffer
	n    int           // bytes in it
	r    reading
	err  error
}

func newAhead(ctx context.Context, b *opened) *ahead {
	a := &ahead{b: b, parts: make(chan *coming)}
	a.ctx, a.cancel = context.WithCancel(ctx)
	a.done.Go(a.run)
	return a
}

// run begins one part after the other.
func (a *ahead) run() {
	waiting := make(chan *coming, morePieces) // begun, and not asked for
	a.done.Go(func() {
		defer close(a.parts)
		for c := range waiting {
			select {
			case a.parts <- c:
			case <-a.ctx.Done():
				<-c.came
				a.b.p.pieces.put(c.p)
			}
		}
	})
	defer close(waiting)
	for _, part := range a.b.m.Parts {
		p, err := a.b.p.pieces.get(a.ctx)
		if err != nil {
			return
		}
		c := &coming{name: part.Name, came: make(chan struct{}), p: p, r: reading{size: -1}}
		a.done.Go(func() {
			defer close(c.came)
			c.n, c.err = a.b.s.store.read(a.ctx, a.b.at.beside(c.name), 0, c.p, &c.r)
		})
		waiting <- c // never blocks: there are no more pieces
	}
}

// fetch gives the next part.
func (a *ahead) fetch(ctx context.Context, part string, off, n int64) (io.ReadCloser, error) {
	if off != 0 || n >= 0 {
		return a.b.fetch(ctx, part, off, n)
	}
	var c *coming
	select {
	case c = <-a.parts:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if c == nil {
		return nil, context.Cause(a.ctx)
	}
	select {
	case <-c.came:
	case <-ctx.Done():
	}
	body := &partBody{a: a, c: c}
	if err := ctx.Err(); err != nil {
		return nil, errClose(body, context.Cause(ctx))
	}
	if c.name != part {
		return nil, errClose(body, disk.Errorf(disk.Other, "part %q is asked for, %q comes next", part, c.name))
	}
	if c.err != nil {
		return nil, errClose(body, a.b.explain(ctx, c.err))
	}
	return body, nil
}

func errClose(c io.Closer, err error) error {
	c.Close()
	return err
}

// stop ends all, and gives the pieces back.
func (a *ahead) stop() {
	a.cancel()
	for c := range a.parts {
		if c != nil {
			<-c.came
			a.b.p.pieces.put(c.p)
		}
	}
	a.done.Wait()
}

// A partBody is the content of a part. What is behind its first piece is fetched when that
// is read: parts of this size are others' than those of the known programs.
type partBody struct {
	a    *ahead
	c    *coming
	off  int64 // of the piece in the part
	at   int   // in the piece
	over sync.Once
}

func (b *partBody) Read(p []byte) (int, error) {
	c := b.c
	if b.at == c.n {
		b.off += int64(c.n)
		b.at, c.n = 0, 0
		if b.off >= c.r.size {
			return 0, io.EOF
		}
		n, err := b.a.b.s.store.read(b.a.ctx, b.a.b.at.beside(c.name), b.off, c.p, &c.r)
		if err != nil {
			return 0, b.a.b.explain(b.a.ctx, err)
		}
		c.n = n
	}
	n := copy(p, c.p[b.at:c.n])
	b.at += n
	return n, nil
}

// Close gives the piece back.
func (b *partBody) Close() error {
	b.over.Do(func() {
		b.a.done.Go(func() {
			<-b.c.came
			b.a.b.p.pieces.put(b.c.p)
		})
	})
	return nil
}
