package providers

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestRetry(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		fails int
		with  error
		want  int
		err   error
	}{
		"at once":   {0, nil, 1, nil},
		"transient": {2, &Transient{Err: broken}, 3, nil},
		"for good":  {2, broken, 1, broken},
		"budget":    {100, &Transient{Err: broken, After: time.Hour}, 1, broken},
	} {
		calls := 0
		err := NewRetry(3*time.Second, 2).Do(t.Context(), func(context.Context) error {
			if calls++; calls <= tt.fails {
				return tt.with
			}
			return nil
		})
		if calls != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %d calls, %v", name, calls, err)
		}
	}
}

// TestRetrySlow: a try that takes longer than the budget, as one does that stalls, is not
// the last.
func TestRetrySlow(t *testing.T) {
	tries := 0
	err := NewRetry(50*time.Millisecond, 1).Do(t.Context(), func(context.Context) error {
		if tries++; tries == 1 {
			time.Sleep(100 * time.Millisecond)
			return &Transient{Err: errors.New("stalled")}
		}
		return nil
	})
	if err != nil || tries != 2 {
		t.Errorf("after %d tries: %v", tries, err)
	}
}

// TestRetryLong: what takes long keeps nobody from a turn, not even where the cloud bears
// one call at a time.
func TestRetryLong(t *testing.T) {
	r := NewRetry(time.Minute, 2)
	tries := 0
	err := r.Long(t.Context(), func(ctx context.Context) error {
		if tries++; tries == 1 {
			return &Transient{Err: errors.New("too much"), Throttled: true}
		}
		if r.limit.now != 1 || r.limit.running != 0 {
			t.Errorf("%d run, of at most %v", r.limit.running, r.limit.now)
		}
		return r.Do(ctx, func(context.Context) error { return nil })
	})
	if err != nil || tries != 2 {
		t.Errorf("after %d tries: %v", tries, err)
	}
}

func TestRetryAfter(t *testing.T) {
	began := time.Now()
	first := true
	err := NewRetry(time.Minute, 1).Do(t.Context(), func(context.Context) error {
		if first {
			first = false
			return &Transient{Err: errors.New("later"), After: 700 * time.Millisecond}
		}
		return nil
	})
	if took := time.Since(began); err != nil || took < 700*time.Millisecond || took > 5*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
}

func TestRetryCancelled(t *testing.T) {
	cause := errors.New("suspended")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
	err := NewRetry(time.Minute, 1).Do(ctx, func(context.Context) error { return &Transient{Err: errors.New("no")} })
	if !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}

// TestLimit: what is throttled runs alone in the end, and what succeeds in parallel
// again; who gives up waiting takes no turn with it.
func TestLimit(t *testing.T) {
	l := newLimit(8)
	hold := func(n int) {
		t.Helper()
		for range n {
			if err := l.acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if l.acquire(ctx) == nil {
			t.Errorf("more than %d at a time", n)
			l.release(false)
		}
	}
	hold(8)
	for range 8 {
		l.release(true) // all of one moment count once
	}
	hold(4)
	for range 3 {
		l.lowered = time.Time{}
		l.release(true)
	}
	l.release(false)
	if l.now > 2.5 {
		t.Errorf("the limit is %v still", l.now)
	}
	for range 100 {
		if err := l.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.release(false)
	}
	hold(8)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if l.acquire(t.Context()) == nil {
				l.release(false)
			}
		})
	}
	for range 8 {
		l.release(false)
	}
	wg.Wait()
	if l.running != 0 || l.queue.Len() != 0 {
		t.Errorf("%d run and %d wait in the end", l.running, l.queue.Len())
	}
}
