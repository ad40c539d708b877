package local

import "sync"

// retimed remembers the versions that SetMtime has made of others: the bytes are
// the same, so who reads an image while a copying program sets its time may read
// on. It is safe for concurrent use.
type retimed struct {
	mu   sync.RWMutex
	next map[string]string // version -> the one that SetMtime made of it
}

// retimedKept bounds what is remembered. Forgetting is safe: a reader gets Stale.
const retimedKept = 1000

// change runs one change of a time, which gives the versions before and after.
// Meanwhile same waits.
func (r *retimed) change(do func() (before, after string, err error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, after, err := do()
	if err != nil || before == after {
		return err
	}
	if len(r.next) >= retimedKept || r.next == nil {
		r.next = map[string]string{}
	}
	r.next[before] = after
	delete(r.next, after) // the chain ends here, even where an old time has come back
	return nil
}

// same tells whether the bytes of two versions of one file are the same, as far
// as we have made the later of the earlier.
func (r *retimed) same(before, after string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for v, ok := before, true; ok; v, ok = r.next[v] {
		if v == after {
			return true
		}
	}
	return false
}
