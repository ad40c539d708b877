package fs

import (
	"slices"
	"sync"
	"time"
)

// Of a read that fails the kernel asks for the first page again at once, alone, and so it
// does for the next buffer of a program that has got less than it wanted. Each would wait
// as long for a cloud that does not answer. Where a failure took slowFailure, it is that of
// whoever begins to read in the same range within vainTime.
const (
	slowFailure = 5 * time.Second
	vainTime    = 250 * time.Millisecond
)

// vainMost is how many reads that failed at the same time are known: a program has a few
// under way.
const vainMost = 8

// vain are the reads of one open file that have just failed, after a long time.
type vain struct {
	mu    sync.Mutex
	reads []vainRead // the last ones
}

// A vainRead is one of [off, end).
type vainRead struct {
	off, end int64
	failed   time.Time
	err      error
}

// note notes that a read of n bytes at off has failed, which took so long.
func (v *vain) note(off int64, n int, took time.Duration, err error) {
	if took < slowFailure {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reads = append(v.reads, vainRead{off, off + int64(n), time.Now(), err})
	v.reads = v.reads[max(0, len(v.reads)-vainMost):]
}

// again is why a read at off fails now too; nil if it is to be tried.
func (v *vain) again(off int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.reads) == 0 {
		return nil
	}
	v.reads = slices.DeleteFunc(v.reads, func(r vainRead) bool { return time.Since(r.failed) > vainTime })
	for _, r := range v.reads {
		if off >= r.off && off < r.end {
			return r.err
		}
	}
	return nil
}
