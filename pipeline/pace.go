package pipeline

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"chromogenic/disk"
)

// A Rate bounds traffic, in bytes per second; 0 is no bound.
type Rate struct {
	Send int64 `json:"send,omitempty"` // to providers
	Read int64 `json:"read,omitempty"` // from providers
}

// paceParts is how many parts a second has: no more than one of them goes at once,
// so that any second holds the rate to within 5 %.
const paceParts = 20

// minBurst is the least that goes at once, in bytes. Below 320 KiB/s it is what the
// traffic of a second may be off by.
const minBurst = 16 << 10

// A pacer lets bytes go at a rate. Who waits gets his turn in the order of asking,
// a burst at a time, so that a small read waits for one burst of each big one, not
// for their ends. It is safe for concurrent use.
type pacer struct {
	mu      sync.Mutex
	perSec  int64         // 0 is no bound
	limit   *rate.Limiter // nil without a bound
	changed chan struct{} // closed when the rate is another
}

func newPacer(perSec int64) *pacer {
	p := &pacer{changed: make(chan struct{})}
	p.set(perSec)
	return p
}

// set changes the rate, also for those who wait.
func (p *pacer) set(perSec int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if perSec == p.perSec {
		return
	}
	p.perSec, p.limit = perSec, nil
	if perSec > 0 {
		p.limit = rate.NewLimiter(rate.Limit(perSec), int(max(perSec/paceParts, minBurst)))
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// state is the limiter, nil for none, and what tells that it is another.
func (p *pacer) state() (*rate.Limiter, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit, p.changed
}

// rate is the present one.
func (p *pacer) rate() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.perSec
}

// burst is how many bytes go at once, 0 for any number.
func (p *pacer) burst() int {
	limit, _ := p.state()
	if limit == nil {
		return 0
	}
	return limit.Burst()
}

// wait returns when n bytes may go, or with the cause of ctx's end.
func (p *pacer) wait(ctx context.Context, n int) error {
	for n > 0 {
		limit, changed := p.state()
		if limit == nil {
			return nil
		}
		k := min(n, limit.Burst())
		turn := limit.ReserveN(time.Now(), k)
		if d := turn.Delay(); d > 0 {
			select {
			case <-time.After(d):
			case <-changed:
				continue // under the new rate, from where we are
			case <-ctx.Done():
				turn.Cancel()
				return context.Cause(ctx)
			}
		}
		n -= k
	}
	return nil
}

// pacers are all those that some traffic is subject to.
type pacers []*pacer

// part is how much of n bytes goes at once: at least as much as least.
func (all pacers) part(n, least int) int {
	for _, p := range all {
		if b := p.burst(); b > 0 {
			n = min(n, max(b, least))
		}
	}
	return n
}

// wait returns when n bytes may go.
func (all pacers) wait(ctx context.Context, n int) error {
	for _, p := range all {
		if err := p.wait(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// bounded tells whether any of them has a rate.
func (all pacers) bounded() bool {
	for _, p := range all {
		if p.burst() > 0 {
			return true
		}
	}
	return false
}

// Pace gives img as one that is read at perSec bytes a second at most; 0 is no
// bound. Reads that wait end with ctx. Closing it closes img.
func Pace(ctx context.Context, img disk.Image, perSec int64) disk.Image {
	if perSec <= 0 {
		return img
	}
	return paced{img, ctx, pacers{newPacer(perSec)}}
}

// A paced image is read at the rate of its pacers, in parts.
type paced struct {
	disk.Image
	ctx    context.Context
	pacers pacers
}

var (
	_ disk.Allocator = paced{}
	_ disk.Verifier  = paced{}
)

// Allocated is that of the image; where it cannot tell, its size.
func (i paced) Allocated() int64 { return allocatedOf(i.Image) }

// Verify is that of the image. What it reads anew is paced too.
func (i paced) Verify(ctx context.Context) error {
	pace := func(img disk.Image) disk.Image { return paced{img, ctx, i.pacers} }
	return disk.Verify(disk.Through(ctx, pace), i.Image)
}

// ReadAt reads the image.
func (i paced) ReadAt(p []byte, off int64) (int, error) {
	return inParts(i.Image, p, off, func(n int) (int, error) {
		n = i.pacers.part(n, minBurst)
		return n, i.pacers.wait(i.ctx, n)
	})
}

// allocatedOf is what an image takes; where that cannot be told, its size.
func allocatedOf(img disk.Image) int64 {
	n, err := disk.Allocated(img)
	if err != nil {
		return img.Size()
	}
	return n
}

// inParts reads img as its ReadAt does, in parts: next is told how many bytes are
// left, and gives how many of them may be read now.
func inParts(img disk.Image, p []byte, off int64, next func(left int) (int, error)) (int, error) {
	q, end := disk.ClipRead(p, off, img.Size())
	if len(q) == 0 {
		return 0, end
	}
	for done := 0; done < len(q); {
		n, err := next(len(q) - done)
		if err != nil {
			return done, err
		}
		got, err := img.ReadAt(q[done:done+n], off+int64(done))
		done += got
		if got < n {
			return done, err
		}
	}
	return len(q), end
}
