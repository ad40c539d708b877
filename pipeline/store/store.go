// Package store is the database of the state directory: bbolt, which maps its file
// into memory. A disk that cannot read a page of it, or gives a wrong one, would end
// the process with a signal or a panic; here it ends the use of the database.
package store

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"chromogenic/disk"
)

// A DB is an open database, which no other process has. It is safe for concurrent
// use.
type DB struct {
	path   string
	db     *bbolt.DB
	broken atomic.Pointer[error] // why it is used no longer
	ops    chan op
	once   sync.Once
	quit   chan struct{}
	ended  chan struct{}
}

// An op is an Update that waits for its transaction.
type op struct {
	do   func(*bbolt.Tx) error
	done chan error
}

// Open opens a database, or makes it. It is Busy when another process still has it
// after the given time, Malformed when it is damaged.
func Open(path string, wait time.Duration) (*DB, error) {
	d := &DB{path: path, ops: make(chan op), quit: make(chan struct{}), ended: make(chan struct{})}
	err := d.guard(func() (err error) {
		d.db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: wait})
		return err
	})
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, disk.Errorf(disk.Busy, "open state %q: another process has it", path)
	case errors.Is(err, bbolterrors.ErrInvalid), errors.Is(err, bbolterrors.ErrChecksum), errors.Is(err, bbolterrors.ErrVersionMismatch):
		err = disk.Errorf(disk.Malformed, "open state %q: it is damaged, or its disk cannot read it: %w", path, err)
		return nil, disk.Hint(err, hintDamaged)
	case err != nil:
		return nil, fmt.Errorf("open state %q: %w", path, err)
	}
	go d.write()
	return d, nil
}

const hintDamaged = "look at the kernel's log for errors of the disk; moved away, the file is made anew, and what was learned of images, and the records of jobs, are lost"

// View reads.
func (d *DB) View(do func(*bbolt.Tx) error) error {
	return d.guard(func() error { return d.db.View(do) })
}

// Update writes, and what was written is durable when it returns. Updates of several
// goroutines share a transaction, so do may run again, if another has failed.
func (d *DB) Update(do func(*bbolt.Tx) error) error {
	o := op{do, make(chan error, 1)}
	select {
	case d.ops <- o:
		return <-o.done
	case <-d.quit:
		return fmt.Errorf("write state: %w", bbolterrors.ErrDatabaseNotOpen)
	}
}

// Close closes the database. It may be called twice.
func (d *DB) Close() error {
	d.once.Do(func() { close(d.quit) })
	<-d.ended
	if d.broken.Load() != nil {
		return nil // its locks are held for ever, and the process is about to end
	}
	return d.guard(d.db.Close)
}

// write does the updates, all that wait in one transaction.
func (d *DB) write() {
	defer close(d.ended)
	for {
		select {
		case o := <-d.ops:
			d.update(d.waiting(o))
		case <-d.quit:
			return
		}
	}
}

// waiting gives the first op and all that wait behind it.
func (d *DB) waiting(first op) []op {
	all := []op{first}
	for {
		select {
		case o := <-d.ops:
			all = append(all, o)
		default:
			return all
		}
	}
}

// update does them in one transaction. Of several that fail together each is done on
// its own, to see whose fault it is.
func (d *DB) update(all []op) {
	err := d.guard(func() error {
		return d.db.Update(func(tx *bbolt.Tx) error {
			for _, o := range all {
				if err := o.do(tx); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil && len(all) > 1 {
		for _, o := range all {
			d.update([]op{o})
		}
		return
	}
	if err != nil {
		err = fmt.Errorf("write state %q: %w", d.path, err)
	}
	for _, o := range all {
		o.done <- err
	}
}

// guard runs what touches the map. A fault there, or what bbolt does not believe, is
// an error, of this call and of all later ones: bbolt may hold locks since then.
func (d *DB) guard(do func() error) (err error) {
	if why := d.broken.Load(); why != nil {
		return *why
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = disk.Errorf(disk.Malformed, "state %q is damaged: %v", d.path, r)
			if _, fault := r.(interface{ Addr() uintptr }); fault { // runtime/debug.SetPanicOnFault
				err = disk.Errorf(disk.Other, "state %q: its disk cannot read it: %w", d.path, syscall.EIO)
			}
			err = disk.Hint(err, hintDamaged)
			d.broken.Store(&err)
		}
	}()
	return do()
}
