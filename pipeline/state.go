package pipeline

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/pipeline/store"
)

// stateSchema is the version of what is kept; a database of another one is
// refused, for its maps may mean something else.
const stateSchema = "1"

// The buckets of the database.
const (
	bucketMeta     = "meta"     // "schema"
	bucketFacts    = "facts"    // imageKey -> facts
	bucketDigests  = "digests"  // imageKey and disk -> guest digest
	bucketPins     = "pins"     // site and kind -> providers.Pinner's pin
	bucketHeld     = "held"     // site and name -> metadata that waits for its image
	bucketGone     = "gone"     // imageKey -> when no listing had it first, in Unix time
	bucketBudgets  = "budgets"  // site -> what is read of its budget
	bucketListings = "listings" // site and kind -> the last listing of a cloud
	bucketWaiting  = "waiting"  // site, name and number -> since when a data disk waits for its image
	bucketCleaned  = "cleaned"  // Ref.versionKey -> patchRecord
	bucketWholes   = "wholes"   // imageKey, and disk -> keptRecord
)

// spoolPrefix begins the names of spools.
const spoolPrefix = "spool-"

// spoolName is what the files in the spool folder are called: of a program that
// writes, and of a job.
var spoolName = regexp.MustCompile(`^(spool-\d+|\d{8}T\d{6}Z-[0-9a-f]{6})$`)

// lockWait is how long a command waits for the database of another process that
// is about to end.
const lockWait = 300 * time.Millisecond

// A state is what outlives the process: a small database in the state
// directory, for one process at a time. With no directory it remembers nothing.
type state struct {
	db    *store.DB // nil without a directory
	spool string    // folder of the spools
	patch string    // folder of what cleaning has changed of images
	whole string    // folder of the images that can be had as a whole only
	temp  bool      // the spool folder is ours to remove
}

func openState(dir string) (*state, error) {
	if dir == "" {
		spool, err := os.MkdirTemp("", "chromogenic-spool-")
		if err != nil {
			return nil, fmt.Errorf("make spool folder: %w", err)
		}
		return &state{spool: spool, patch: spool, temp: true}, nil
	}
	s := &state{spool: filepath.Join(dir, "spool"), patch: filepath.Join(dir, "cleaned"), whole: filepath.Join(dir, "whole")}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	var err error
	path := filepath.Join(dir, "state.db")
	s.db, err = store.Open(path, lockWait)
	if disk.KindOf(err) == disk.Busy {
		err := disk.Errorf(disk.Busy, "open state directory %q: another chromogenic is using it", dir)
		return nil, disk.Hint(err, "end the other one, or give this one a directory of its own with --state-dir")
	}
	if err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		s.db.Close()
		return nil, err
	}
	return s, nil
}

// prepare makes the buckets and the spool folder.
func (s *state) prepare() error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{bucketMeta, bucketFacts, bucketDigests, bucketPins, bucketHeld, bucketGone, bucketBudgets, bucketListings, bucketWaiting, bucketCleaned, bucketWholes} {
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
	for _, folder := range []string{s.spool, s.patch, s.whole} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return fmt.Errorf("make folder of state: %w", err)
		}
	}
	return nil
}

// spoolPath is the path of a file in the spool folder.
func (s *state) spoolPath(name string) string { return filepath.Join(s.spool, filepath.Base(name)) }

// patchPath is the path of a file in the folder of patches.
func (s *state) patchPath(name string) string { return filepath.Join(s.patch, filepath.Base(name)) }

// wholePath is the path of a file in the folder of whole images.
func (s *state) wholePath(name string) string { return filepath.Join(s.whole, filepath.Base(name)) }

// wholeName is what the files in that folder are called.
var wholeName = regexp.MustCompile(`^[0-9a-f]{32}$`)

// sweepSpool removes the spools that a crash has left, for this process owns the
// directory, but for those that keep says. What else lies in the folder is not
// ours. It gives the bytes that each of the others takes.
func (s *state) sweepSpool(keep map[string]bool) (map[string]int64, error) {
	files, err := os.ReadDir(s.spool)
	if err != nil {
		return nil, fmt.Errorf("read spool folder: %w", err)
	}
	kept := map[string]int64{}
	for _, f := range files {
		path := s.spoolPath(f.Name())
		switch {
		case !f.Type().IsRegular() || !spoolName.MatchString(f.Name()):
		case keep[f.Name()]:
			kept[f.Name()] = allocated(path)
		default:
			if err := removeFile(path); err != nil {
				return nil, err
			}
		}
	}
	return kept, nil
}

// allocated is what a file takes on disk, in bytes; 0 if it is gone.
func allocated(path string) int64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512 // stat(2) counts in 512 bytes whatever the file system does
}

// get returns a copy of a value, or nil.
func (s *state) get(bucket, key string) []byte {
	if s.db == nil {
		return nil
	}
	var val []byte
	// View fails once the database is closed, or broken; then nothing is known.
	_ = s.db.View(func(tx *bbolt.Tx) error {
		val = append(val, tx.Bucket([]byte(bucket)).Get([]byte(key))...)
		return nil
	})
	return val
}

// all returns copies of all values of a bucket.
func (s *state) all(bucket string) map[string][]byte {
	all := map[string][]byte{}
	if s.db == nil {
		return all
	}
	_ = s.db.View(func(tx *bbolt.Tx) error { // as in get
		return tx.Bucket([]byte(bucket)).ForEach(func(key, val []byte) error {
			all[string(key)] = bytes.Clone(val)
			return nil
		})
	})
	return all
}

// drop forgets a value.
func (s *state) drop(bucket, key string) error {
	if s.db == nil {
		return nil
	}
	err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Delete([]byte(key)) })
	if err != nil {
		return fmt.Errorf("forget %s: %w", bucket, err)
	}
	return nil
}

// put keeps a value. Puts of several goroutines share one transaction.
func (s *state) put(bucket, key string, val []byte) error {
	if s.db == nil {
		return nil
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
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
