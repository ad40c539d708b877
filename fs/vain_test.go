package fs

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v vain
		err := errors.New("nobody answers")
		v.note(1<<20, 1<<20, slowFailure, err)
		v.note(4<<20, 1<<20, slowFailure-1, err) // which is soon tried again
		for _, c := range []struct {
			off  int64
			n    int
			want error
		}{{1 << 20, 4096, err}, {2<<20 - 1, 4096, err}, {0, 1<<20 + 1, err}, {0, 1 << 20, nil}, {2 << 20, 4096, nil}, {4 << 20, 4096, nil}} {
			if got := v.again(c.off, c.n); got != c.want {
				t.Errorf("%d bytes at %d: %v", c.n, c.off, got)
			}
		}
		time.Sleep(vainTime + 1)
		if got := v.again(1<<20, 4096); got != nil {
			t.Errorf("later: %v", got)
		}
		for i := range 2 * vainMost {
			v.note(int64(i), 1, slowFailure, err)
		}
		if len(v.reads) != vainMost {
			t.Errorf("%d reads are known", len(v.reads))
		}
	})
}
