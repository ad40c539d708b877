package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"chromogenic/disk"
)

// stateSchema is the version of what is kept; a database of another one is
// refused, for its maps may mean something else.
const stateSchema = "1"

// The buckets of the database.
const (
	bucketMeta    = "meta"    // "schema"
	bucketFacts   = "facts"   // imageKey -> facts
	bucketDigests = "digests" // imageKey and disk -> guest digest
	bucketPins    = "pins"    // site and kind -> providers.Pinner's pin
)

// spoolPrefix begins the names of spools.
const spoolPrefix = "spool-"

// lockWait is how long a command waits for the database of another process that
// is about to end.
const lockWait = 300 * time.Millisecond

// A state is what outlives the process: a small database in the state
// directory, for one process at a time. With no directory it remembers nothing.
type state struct {
	db    *bbolt.DB // nil without a directory
	spool string    // folder of the spools
	temp  bool      // the spool folder is ours to remove
}

func openState(dir string) (*state, error) {
	if dir == "" {
		spool, err := os.MkdirTemp("", "chromogenic-spool-")
		if err != nil {
			return nil, fmt.Errorf("make spool folder: %w", err)
		}
		return &state{spool: spool, temp: true}, nil
	}
	s := &state{spool: filepath.Join(dir, "spool")}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	var err error
	path := filepath.Join(dir, "state.db")
	s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		err := disk.Errorf(disk.Busy, "open state directory %q: another chromogenic is using it", dir)
		return nil, disk.Hint(err, "end the other one, or give this one a directory of its own with --state-dir")
	}
	if err != nil {
		return nil, fmt.Errorf("open state %q: %w", path, err)
	}
	if err := s.prepare(); err != nil {
		s.db.Close()
		return nil, err
	}
	return s, nil
}

// prepare makes the buckets and removes the spools that a crash has left: this
// process owns the directory. What else lies in the folder is not ours.
func (s *state) prepare() error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{bucketMeta, bucketFacts, bucketDigests, bucketPins} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		meta := tx.Bucket([]byte(bucketMeta))
		switch got := string(meta.Get([]byte("schema"))); got {
		case stateSchema:
			return nil
		case "":
			return meta.Put([]byte("schema"), []byte(stateSchema))
		default:
			err := disk.Errorf(disk.Unsupported, "schema is %q, this program knows %q", got, stateSchema)
			return disk.Hint(err, "use the chromogenic that made it, or another --state-dir")
		}
	})
	if err != nil {
		return fmt.Errorf("prepare state: %w", err)
	}
	if err := os.MkdirAll(s.spool, 0o700); err != nil {
		return fmt.Errorf("make spool folder: %w", err)
	}
	files, err := os.ReadDir(s.spool)
	if err != nil {
		return fmt.Errorf("read spool folder: %w", err)
	}
	for _, f := range files {
		if !f.Type().IsRegular() || !strings.HasPrefix(f.Name(), spoolPrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(s.spool, f.Name())); err != nil {
			return fmt.Errorf("empty spool folder: %w", err)
		}
	}
	return nil
}

// get returns a copy of a value, or nil.
func (s *state) get(bucket, key string) []byte {
	if s.db == nil {
		return nil
	}
	var val []byte
	// View fails only once the database is closed; then nothing is known.
	_ = s.db.View(func(tx *bbolt.Tx) error {
		val = append(val, tx.Bucket([]byte(bucket)).Get([]byte(key))...)
		return nil
	})
	return val
}

// put keeps a value. Puts of several goroutines share one transaction.
func (s *state) put(bucket, key string, val []byte) error {
	if s.db == nil {
		return nil
	}
	err := s.db.Batch(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucket)).Put([]byte(key), val)
	})
	if err != nil {
		return fmt.Errorf("keep %s: %w", bucket, err)
	}
	return nil
}

// remember keeps what can be found out again; a failure is only logged.
func (p *Pipeline) remember(bucket, key string, val []byte) {
	if err := p.state.put(bucket, key, val); err != nil {
		p.log.Warn("write state", "error", err)
	}
}

func (s *state) close() error {
	if s.temp {
		return os.RemoveAll(s.spool)
	}
	return s.db.Close()
}
