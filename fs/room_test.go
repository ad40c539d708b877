package fs

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A counted roomer counts who asks.
type countedRoomer struct {
	free  int64
	known bool
	asked int
}

func (r *countedRoomer) Room(context.Context) (int64, bool) {
	r.asked++
	return r.free, r.known
}

// TestRoomIsAskedForNowAndThen: not for each write, many at once, or known or not.
func TestRoomIsAskedForNowAndThen(t *testing.T) {
	for _, known := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r, from := &room{}, &countedRoomer{free: 7, known: known}
			want := func(free int64, asked int) {
				t.Helper()
				var all sync.WaitGroup
				for range 8 {
					all.Go(func() {
						if n, ok := r.ask(t.Context(), from); n != free || ok != known {
							t.Errorf("room for %d, %v; want %d", n, ok, free)
						}
					})
				}
				all.Wait()
				if from.asked != asked {
					t.Errorf("asked %d times, want %d", from.asked, asked)
				}
			}
			want(7, 1)
			time.Sleep(roomTime / 2)
			from.free = 5
			want(7, 1)
			time.Sleep(roomTime)
			want(5, 2)
		})
	}
}
