package pipeline

import (
	"math/rand/v2"
	"testing"

	"chromogenic/disk"
)

// What was written is never taken for something else, in whatever order it was
// written; a byte that changes in what was written in order always is.
func TestSpoolSums(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	const size = 5*sumBlock + 777
	found := 0
	for range 200 {
		have := make([]byte, size)
		var s spoolSums
		for range 1 + chance.IntN(12) {
			from := chance.IntN(size)
			if chance.IntN(2) == 0 {
				from = from / sumBlock * sumBlock
			}
			to := from + 1 + chance.IntN(size-from)
			switch chance.IntN(5) {
			case 0: // a hole is dug
				clear(have[from:to])
				s.forget(int64(from), int64(to))
			default:
				for i := from; i < to; i++ {
					have[i] = byte(chance.Uint32() & 3)
				}
				for at := from; at < to; { // in pieces, as programs do
					n := min(to-at, 1+chance.IntN(2*sumBlock))
					s.wrote(have[at:at+n], int64(at))
					at += n
				}
			}
		}
		from := chance.IntN(size)
		for _, r := range [][2]int{{0, size}, {from, size}, {0, from}} {
			if err := s.check(have[r[0]:r[1]], int64(r[0])); err != nil {
				t.Fatalf("what was written is taken for something else: %v", err)
			}
		}
		at := chance.IntN(size)
		b := s.at(int64(at/sumBlock), false)
		have[at] ^= 4
		err := s.check(have, 0)
		if known := b != nil && at%sumBlock < int(b.done); known != (err != nil) {
			t.Fatalf("byte %d has changed, it is known: %v, check says %v", at, known, err)
		}
		if err != nil {
			found++
			if disk.KindOf(err) != disk.Malformed {
				t.Errorf("kind %v", disk.KindOf(err))
			}
		}
	}
	if found < 40 {
		t.Errorf("%d changes were of known bytes", found)
	}
}

// A hole where something was written is data, of zeros nothing is said.
func TestSpoolSumsHoles(t *testing.T) {
	var s spoolSums
	s.wrote(make([]byte, 4*sumBlock), 0)
	s.wrote([]byte("something"), 9*sumBlock)
	for _, tt := range []struct{ off, n, want int64 }{
		{0, 4 * sumBlock, 4 * sumBlock},
		{0, 20 * sumBlock, 9 * sumBlock},
		{9*sumBlock + 4, sumBlock, 9*sumBlock + 4},
		{10 * sumBlock, 1 << 40, 10*sumBlock + 1<<40},
	} {
		if got := s.data(tt.off, tt.n); got != tt.want {
			t.Errorf("data in %d bytes at %d begins at %d, want %d", tt.n, tt.off, got, tt.want)
		}
	}
}
