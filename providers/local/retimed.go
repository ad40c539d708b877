package local

import (
	"sync"
	"time"

	"chromogenic/providers"
)

// retimed remembers the versions that SetMtime has made of others: the bytes are
// the same, so who reads an image while a copying program sets its time may read
// on. It is safe for concurrent use.
type retimed struct {
	mu   sync.RWMutex
	next map[string]string // version -> the one that SetMtime made of it
}

// retimedKept bounds what is remembered. Forgetting is safe: a reader gets Stale.
const retimedKept = 1000

// change runs one change of times, which notes the versions before and after of
// each file, and of the image. Meanwhile same waits.
func (r *retimed) change(do func(note func(before, after string)) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return do(r.note)
}

func (r *retimed) note(before, after string) {
	if before == after {
		return
	}
	if len(r.next) >= retimedKept || r.next == nil {
		r.next = map[string]string{}
	}
	r.next[before] = after
	delete(r.next, after) // the chain ends here, even where an old time has come back
}

// same tells whether the bytes of two versions of a file, or of an image, are the
// same, as far as we have made the later of the earlier.
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

// retime sets the time of an image: of its file, and of those parts and data disks
// that are newer, for the newest counts.
func (p *Provider) retime(d *dir, e providers.Entry, mtime time.Time) error {
	own, _, err := d.look(e.ID)
	if err != nil {
		return err
	}
	_, _, format, _ := p.split(e.ID)
	parts, err := p.parts(d, e.ID, format, own)
	if err != nil {
		return err
	}
	set, err := p.set(d, e.ID)
	if err != nil {
		return err
	}
	parts = set.parts(parts)
	return d.folder.times.change(func(note func(before, after string)) error {
		if own, err = d.retime(e.ID, mtime, note); err != nil {
			return err
		}
		for i, x := range parts {
			if x.state.inode == 0 || !x.state.mtime().After(mtime) {
				continue
			}
			if parts[i].state, err = d.retime(x.name, mtime, note); err != nil {
				return err
			}
		}
		note(bytesOf(e.Version), versionOf(own, parts))
		return nil
	})
}

// retime sets the time of a file and gives its new state.
func (d *dir) retime(file string, mtime time.Time, note func(before, after string)) (state, error) {
	before, err := d.target(file)
	if err != nil {
		return state{}, err
	}
	if err := d.root.Chtimes(file, time.Time{}, mtime); err != nil {
		return state{}, err
	}
	after, err := d.target(file)
	if err != nil {
		return state{}, err
	}
	note(before.version(), after.version())
	return after, nil
}
