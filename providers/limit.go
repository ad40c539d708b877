package providers

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// A limit is how many calls may run at a time: it adapts to what the cloud bears.
type limit struct {
	most float64

	mu      sync.Mutex
	now     float64
	running int
	queue   list.List // of chan struct{}, closed for whose turn it is
	lowered time.Time
}

// lowerPause is how long after it was lowered a limit stays: the calls that were
// running then tell nothing new.
const lowerPause = time.Second

func newLimit(most int) *limit {
	l := &limit{most: float64(max(1, most))}
	l.now = l.most
	return l
}

// acquire waits for a turn.
func (l *limit) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	l.mu.Lock()
	if l.running < int(l.now) && l.queue.Len() == 0 {
		l.running++
		l.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	at := l.queue.PushBack(turn)
	l.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-turn: // it came at the same moment: it is another's now
		l.running--
		l.next()
	default:
		l.queue.Remove(at)
	}
	return context.Cause(ctx)
}

// release ends a turn.
func (l *limit) release(throttled bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	switch {
	case !throttled:
		l.now = min(l.most, l.now+1/l.now)
	default:
		l.halve()
	}
	l.next()
}

// lower is for a call that has no turn and was throttled.
func (l *limit) lower() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.halve()
}

func (l *limit) halve() {
	if time.Since(l.lowered) > lowerPause {
		l.now = max(1, l.now/2)
		l.lowered = time.Now()
	}
}

// next gives turns to those who wait; l.mu is held.
func (l *limit) next() {
	for l.running < int(l.now) && l.queue.Len() > 0 {
		close(l.queue.Remove(l.queue.Front()).(chan struct{}))
		l.running++
	}
}
