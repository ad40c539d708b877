package pipeline

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A look is one look into an image, for all who want its facts. It goes on when
// they give up: the next who asks may find it done.
type look struct {
	done  chan struct{}
	facts *facts // once it is done
	err   error
	alive atomic.Int64 // when the image has last answered, in nanoseconds since 1970
}

type lookKey struct {
	image string // imageKey
	over  bool
}

// look begins a look at an image, or joins the one that is under way; who may read on
// when the read budget is used up does not join those who may not.
func (p *Pipeline) look(key, site string, e providers.Entry, over bool) *look {
	turn := lookKey{key, over}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.looks[turn]; l != nil {
		return l
	}
	l := &look{done: make(chan struct{})}
	l.stir()
	p.looks[turn] = l
	go func() {
		defer close(l.done)
		l.facts, l.err = p.lookInto(key, site, e, over, l)
		if l.err == nil {
			p.known.Set(key, l.facts)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.looks, turn)
	}()
	return l
}

func (l *look) stir() { l.alive.Store(time.Now().UnixNano()) }

// watch is img with its answers noted.
func (l *look) watch(img disk.Image) disk.Image { return watched{img, l} }

type watched struct {
	disk.Image
	look *look
}

func (w watched) ReadAt(p []byte, off int64) (int, error) {
	defer w.look.stir()
	return w.Image.ReadAt(p, off)
}

func (w watched) Extent(off, n int64) (disk.Extent, error) {
	defer w.look.stir()
	return w.Image.Extent(off, n)
}

// watching is src with the answers of its image, and of the files beside it, noted.
func (l *look) watching(src providers.Source) providers.Source {
	src.Image = l.watch(src.Image)
	if resolve := src.Resolve; resolve != nil {
		src.Resolve = func(name string) (disk.Image, error) {
			img, err := resolve(name)
			if err != nil {
				return nil, err
			}
			return l.watch(img), nil
		}
	}
	return src
}

// stallKey is the key of Impatient.
type stallKey struct{}

// Impatient is ctx for somebody who keeps others waiting, as a listing does: where
// an image that must be looked into does not answer for so long, List leaves it as
// it is, and Stat fails with ErrStalled. A slow one is waited for.
func Impatient(ctx context.Context, stall time.Duration) context.Context {
	return context.WithValue(ctx, stallKey{}, stall)
}

// ErrStalled is the failure of who is Impatient.
var ErrStalled = disk.Hint(disk.Errorf(disk.Timeout, "its disk does not answer"),
	"look at the disk or the network that it lies on; the image can be read when that answers again")

// stallPoll is how often the impatient look whether an image is alive.
const stallPoll = 100 * time.Millisecond

// wait waits for the end of the look, or as long as ctx wants.
func (l *look) wait(ctx context.Context) error {
	var poll <-chan time.Time
	stall, impatient := ctx.Value(stallKey{}).(time.Duration)
	if impatient {
		t := time.NewTicker(stallPoll)
		defer t.Stop()
		poll = t.C
	}
	for {
		// One that has stalled before is not waited for again.
		if impatient && time.Since(time.Unix(0, l.alive.Load())) > stall {
			return fmt.Errorf("look into image: %w", ErrStalled)
		}
		select {
		case <-l.done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("look into image: %w", context.Cause(ctx))
		case <-poll:
		}
	}
}
