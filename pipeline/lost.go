package pipeline

import (
	"sync"

	"chromogenic/disk"
)

// lost are the last reads of a view that have failed.
type lost struct {
	mu    sync.Mutex
	reads []lostRead // the oldest first
}

type lostRead struct {
	disk.Extent
	err error
}

// lostMost is how many failed reads of a view are remembered: a program gives up after
// a few.
const lostMost = 64

// note remembers a read of n bytes at off that has failed.
func (l *lost) note(off, n int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.reads) == lostMost {
		l.reads = l.reads[1:]
	}
	l.reads = append(l.reads, lostRead{disk.Extent{Off: off, Len: n}, err})
}

// under is why bytes of p, written at off, may be zeros that stand for what could not be
// read: the error of a failed read, where p is zero as far as that went. It is nil if
// there is none.
func (l *lost) under(p []byte, off int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.reads {
		from, to := max(r.Off, off), min(r.End(), off+int64(len(p)))
		if from >= to {
			continue
		}
		if n := to - from; zeros(p[from-off:to-off]) && n > 0 {
			return r.err
		}
	}
	return nil
}

// A doubt is that of a spool which begins with zeros where a view of a size could not be
// read: whether it is a copy of that shows in the end.
type doubt struct {
	size int64
	err  error
}

func zeros(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
