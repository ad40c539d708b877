package pipeline

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A passage is n bytes that a pacer let go.
type passage struct {
	at time.Duration
	n  int
}

// heaviest is the most that went in any window of the given length.
func heaviest(all []passage, window time.Duration) (most int) {
	sum, from := 0, 0
	for _, p := range all {
		sum += p.n
		for all[from].at <= p.at-window {
			sum -= all[from].n
			from++
		}
		most = max(most, sum)
	}
	return most
}

// TestPacerHoldsTheRate has eight readers of odd sizes take what they get for a
// minute: no second may have more than its 5 % above the rate, and nothing is lost
// over the minute. Everybody gets a share, whatever he asks for at once.
func TestPacerHoldsTheRate(t *testing.T) {
	for _, perSec := range []int64{400 << 10, 10 << 20, 3 << 30} {
		synctest.Test(t, func(t *testing.T) {
			const readers, long = 8, time.Minute
			p := pacers{newPacer(perSec)}
			start := time.Now()
			var mu sync.Mutex
			var all []passage
			share := make([]int, readers)
			var wg sync.WaitGroup
			for i := range readers {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(i), 1))
					for time.Since(start) < long {
						n := p.part(1<<20-r.IntN(1<<10), minBurst)
						if err := p.wait(t.Context(), n); err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						all = append(all, passage{time.Since(start), n})
						share[i] += n
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			sum := 0
			for i, n := range share {
				sum += n
				if want := int(perSec) * 60 / readers; n < want*9/10 || n > want*11/10 {
					t.Errorf("%d B/s: reader %d of %d got %d bytes of %d", perSec, i, readers, n, want)
				}
			}
			most, want := heaviest(all, time.Second), int(perSec)*60
			if most > int(perSec)*21/20+1<<10 {
				t.Errorf("%d B/s: a second had %d bytes", perSec, most)
			}
			if sum < want*99/100 || sum > want*101/100+int(perSec)/paceParts {
				t.Errorf("%d B/s: %d bytes in a minute", perSec, sum)
			}
			t.Logf("%d B/s: %.4f of it in a minute, %.4f in the busiest second", perSec, float64(sum)/float64(want), float64(most)/float64(perSec))
		})
	}
}

// TestPacerLetsTheSmallThrough reads 4 KiB while another reads 1 GiB at once.
func TestPacerLetsTheSmallThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(1 << 20)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.wait(ctx, 1<<30) }() // 17 minutes
		time.Sleep(time.Minute)
		for range 10 {
			start := time.Now()
			if err := p.wait(t.Context(), 4096); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 3*time.Second/paceParts {
				t.Errorf("a small read waits %v for a large one", took)
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the large one ends with %v", err)
		}
	})
}

// TestPacerCancelled ends a wait of minutes, which takes nothing from others.
func TestPacerCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(1 << 10)
		why := errors.New("given up")
		ctx, cancel := context.WithCancelCause(t.Context())
		start := time.Now()
		time.AfterFunc(time.Second, func() { cancel(why) })
		if err := p.wait(ctx, 1<<20); !errors.Is(err, why) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		start = time.Now()
		if err := p.wait(t.Context(), minBurst); err != nil || time.Since(start) > minBurst/(1<<10)*time.Second {
			t.Errorf("the next waits %v: %v", time.Since(start), err)
		}
	})
}

// TestPacerChanges gives another rate to one who waits.
func TestPacerChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(1 << 10)
		start := time.Now()
		time.AfterFunc(time.Second, func() { p.set(1 << 20) })
		time.AfterFunc(2*time.Second, func() { p.set(0) })
		if err := p.wait(t.Context(), 64<<20); err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if err := p.wait(t.Context(), 1<<40); err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("without a rate, after %v: %v", time.Since(start), err)
		}
	})
}
