package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// readers read views until their time is over, and compare every byte.
type readers struct {
	views []loadView
	end   time.Time
	began time.Time

	opens, reads, bytes atomic.Int64
	bad                 atomic.Int64

	mu      sync.Mutex
	times   []time.Duration // of one read in 16
	longest time.Duration
}

func newReaders(views []loadView, end time.Time) *readers {
	return &readers{views: views, end: end, began: time.Now()}
}

// run is one reader: he opens one view after the other.
func (r *readers) run(t testing.TB, seed uint64) {
	chance := rand.New(rand.NewPCG(seed, 7))
	got, want := make([]byte, mib), make([]byte, mib)
	for time.Now().Before(r.end) && r.bad.Load() < 10 {
		v := r.views[chance.IntN(len(r.views))]
		if err := r.read(v, chance, got, want); err != nil {
			r.bad.Add(1)
			t.Errorf("read %s: %v", v.path, err)
		}
	}
}

// read opens a view once, and reads it in order from somewhere, or at random.
func (r *readers) read(v loadView, chance *rand.Rand, got, want []byte) error {
	f, err := os.Open(v.path)
	if err != nil {
		return err
	}
	defer f.Close()
	r.opens.Add(1)
	if v.format == "raw" && chance.IntN(2) == 0 {
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // so that the server is asked
	}
	off := chance.Int64N(v.size + 1)
	piece := 1 + chance.IntN(1<<(9+chance.IntN(12))) // up to 1 MiB, most of them small
	inOrder := chance.IntN(2) == 0
	for range 1 + chance.IntN(24) {
		if !time.Now().Before(r.end) {
			return nil
		}
		if !inOrder {
			off = chance.Int64N(v.size + 1)
		}
		began := time.Now()
		n, err := f.ReadAt(got[:piece], off)
		r.note(chance, time.Since(began))
		if err != nil && err != io.EOF {
			return err
		}
		m, wrong := v.want.ReadAt(want[:piece], off)
		if wrong != nil && wrong != io.EOF {
			return wrong
		}
		if n != m || (err == io.EOF) != (wrong == io.EOF) || !bytes.Equal(got[:n], want[:m]) {
			return fmt.Errorf("at %d length %d: %d bytes, %v; want %d, %v; they differ", off, piece, n, err, m, wrong)
		}
		r.reads.Add(1)
		r.bytes.Add(int64(n))
		off += int64(n)
	}
	return nil
}

// note remembers how long a read took.
func (r *readers) note(chance *rand.Rand, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.longest = max(r.longest, took)
	if chance.IntN(16) == 0 {
		r.times = append(r.times, took)
	}
}

// String tells what they have done.
func (r *readers) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(r.times)
	at := func(part int) time.Duration {
		if len(r.times) == 0 {
			return 0
		}
		return r.times[min(len(r.times)-1, len(r.times)*part/1000)].Round(10 * time.Microsecond)
	}
	took := time.Since(r.began).Seconds()
	return fmt.Sprintf("%d opens, %d reads, %.1f GiB compared, %.0f reads/s, %.1f MiB/s; a read takes %v (median), %v (99 %%), %v (longest)",
		r.opens.Load(), r.reads.Load(), float64(r.bytes.Load())/gib, float64(r.reads.Load())/took, float64(r.bytes.Load())/mib/took, at(500), at(990), r.longest.Round(time.Millisecond))
}
