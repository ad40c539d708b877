package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"chromogenic/disk"
)

var bucket = []byte("b")

func open(t *testing.T, path string) *DB {
	t.Helper()
	d, err := Open(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func put(key, val string) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		return b.Put([]byte(key), []byte(val))
	}
}

// Updates of many goroutines are all there, and one that fails fails alone.
func TestUpdates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d := open(t, path)
	broken := errors.New("broken")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			do := put(fmt.Sprint(i), "x")
			if i%10 == 0 {
				do = func(tx *bbolt.Tx) error { return errors.Join(put(fmt.Sprint(i), "x")(tx), broken) }
			}
			if err := d.Update(do); errors.Is(err, broken) != (i%10 == 0) {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Update(put("late", "x")); err == nil {
		t.Error("a closed database is written to")
	}
	n := 0
	if err := open(t, path).View(func(tx *bbolt.Tx) error {
		n = tx.Bucket(bucket).Stats().KeyN
		return nil
	}); err != nil || n != 90 {
		t.Errorf("%d keys, %v", n, err)
	}
}

// A database that another has is Busy, one that is none is Malformed.
func TestOpenFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open(t, path)
	if _, err := Open(path, 20*time.Millisecond); disk.KindOf(err) != disk.Busy {
		t.Errorf("opened twice: %v", err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(other, time.Second); disk.KindOf(err) != disk.Malformed || disk.AsError(err).Hint == "" {
		t.Errorf("zeros: %v", err)
	}
}

// A page that is cut off behind the map is a fault, and a page of junk a panic of
// bbolt: both are errors, of all that comes after too, and Close does not hang.
func TestBroken(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"cut":  func(path string) error { return os.Truncate(path, 2*int64(os.Getpagesize())) },
		"junk": junk,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			d := open(t, path)
			for i := range 1000 {
				if err := d.Update(put(fmt.Sprintf("key %d", i%300), "a value of some length")); err != nil {
					t.Fatal(err)
				}
			}
			if err := spoil(path); err != nil {
				t.Fatal(err)
			}
			err := d.View(func(tx *bbolt.Tx) error {
				return tx.Bucket(bucket).ForEach(func(_, _ []byte) error { return nil })
			})
			if kind := disk.KindOf(err); kind != disk.Other && kind != disk.Malformed || err == nil {
				t.Fatalf("read: %v", err)
			}
			if again := d.Update(put("x", "y")); disk.KindOf(again) != disk.KindOf(err) {
				t.Errorf("written afterwards: %v", again)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// junk overwrites all pages but the two that say where the others are.
func junk(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, info.Size()-2*int64(os.Getpagesize()))
	for i := range p {
		p[i] = 0xa5
	}
	_, err = f.WriteAt(p, 2*int64(os.Getpagesize()))
	return err
}
