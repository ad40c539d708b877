package pipeline

import (
	"math/rand/v2"
	"testing"
)

// TestRanges holds a set of bytes against the plainest model of one.
func TestRanges(t *testing.T) {
	const size = 64
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var r ranges
		var model [size]bool
		for range 40 {
			from := rnd.Int64N(size)
			to := from + rnd.Int64N(size-from+1)
			put := rnd.IntN(3) > 0
			if put {
				r.add(from, to)
			} else {
				r.remove(from, to)
			}
			for i := from; i < to; i++ {
				model[i] = put
			}
			for i := 1; i < len(r); i++ {
				if r[i-1].to >= r[i].from {
					t.Fatalf("seed %d: runs touch: %v", seed, r)
				}
			}
			for off := int64(0); off < size; {
				in, end := r.at(off, size)
				if end <= off || end > size {
					t.Fatalf("seed %d: at(%d) ends at %d", seed, off, end)
				}
				for i := off; i < end; i++ {
					if model[i] != in {
						t.Fatalf("seed %d: byte %d: %v, want %v in %v", seed, i, in, model[i], r)
					}
				}
				off = end
			}
		}
	}
}
