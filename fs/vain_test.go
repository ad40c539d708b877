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
			want error
		}{{1<<20 - 1, nil}, {1 << 20, err}, {2<<20 - 1, err}, {2 << 20, nil}, {4 << 20, nil}} {
			if got := v.again(c.off); got != c.want {
				t.Errorf("at %d: %v", c.off, got)
			}
		}
		time.Sleep(vainTime + 1)
		if got := v.again(1 << 20); got != nil {
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
