package pipeline

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"chromogenic/providers"
)

// What is known of a version that no listing has any longer is of no use, unless the
// version comes back: an image that was moved away for a while must be laid out as
// before. So it stays for goneTime, and no more than the goneMost newest do, for each
// kind of each site.
const (
	goneTime = 30 * 24 * time.Hour
	goneMost = 10_000
)

// pruneEvery is how often a listing is held against the state.
const pruneEvery = time.Hour

// prune forgets what is known of versions that are gone, going by a complete
// listing. What is of sites that are not configured stays.
func (p *Pipeline) prune(site string, kind providers.Kind, entries []providers.Entry, now time.Time) error {
	if p.state.db == nil {
		return nil
	}
	listed := map[string]bool{}
	for _, e := range entries {
		listed[imageKey(site, e)] = true
	}
	prefix := site + "\x00" + string(kind) + "\x00"
	err := p.state.db.Update(func(tx *bbolt.Tx) error {
		known := map[string]bool{} // that are in the state
		for key := range keysOf(tx, bucketFacts, prefix) {
			known[string(key)] = true
		}
		for key := range keysOf(tx, bucketDigests, prefix) {
			known[string(key[:bytes.LastIndexByte(key, 0)])] = true
		}
		for key := range keysOf(tx, bucketCleaned, prefix) {
			known[string(key)] = true
		}
		return pruneGone(tx, prefix, known, listed, now)
	})
	if err != nil {
		return fmt.Errorf("forget versions that are gone: %w", err)
	}
	if kind != providers.Images {
		return nil
	}
	var beside []providers.Entry // which no listing is of
	for _, e := range entries {
		for _, c := range e.Companions {
			beside = append(beside, c.Entry(e.Name))
		}
	}
	return p.prune(site, providers.Companions, beside, now)
}

// A goneVersion is the key of a version that was not listed first at a time.
type goneVersion struct {
	key   string
	since time.Time
}

// pruneGone notes which of the known versions are gone now, and forgets those that
// have been for long.
func pruneGone(tx *bbolt.Tx, prefix string, known, listed map[string]bool, now time.Time) error {
	bucket := tx.Bucket([]byte(bucketGone))
	var gone []goneVersion
	noted := map[string]bool{}
	for key, val := range keysOf(tx, bucketGone, prefix) {
		k := string(key)
		noted[k] = true
		if known[k] && !listed[listedKey(k)] && len(val) == 8 {
			gone = append(gone, goneVersion{k, time.Unix(int64(binary.BigEndian.Uint64(val)), 0)})
		}
	}
	for k := range noted {
		if !known[k] || listed[listedKey(k)] {
			if err := bucket.Delete([]byte(k)); err != nil {
				return err
			}
		}
	}
	for k := range known {
		if !listed[listedKey(k)] && !noted[k] {
			gone = append(gone, goneVersion{k, now})
			if err := bucket.Put([]byte(k), binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(gone, func(a, b goneVersion) int {
		return cmp.Or(b.since.Compare(a.since), cmp.Compare(a.key, b.key)) // the newest first
	})
	for i, g := range gone {
		if i < goneMost && now.Sub(g.since) < goneTime {
			continue
		}
		if err := forgetVersion(tx, g.key); err != nil {
			return err
		}
	}
	return nil
}

// forgetVersion forgets all that is known of a version.
func forgetVersion(tx *bbolt.Tx, key string) error {
	for _, name := range []string{bucketFacts, bucketCleaned, bucketGone} {
		if err := tx.Bucket([]byte(name)).Delete([]byte(key)); err != nil {
			return err
		}
	}
	var sums [][]byte
	for k := range keysOf(tx, bucketDigests, key+"\x00") {
		sums = append(sums, bytes.Clone(k))
	}
	for _, k := range sums {
		if err := tx.Bucket([]byte(bucketDigests)).Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// keysOf yields the keys of a bucket that begin with prefix, and their values. The
// bucket must not be changed meanwhile.
func keysOf(tx *bbolt.Tx, bucket, prefix string) func(yield func(key, val []byte) bool) {
	return func(yield func(key, val []byte) bool) {
		c := tx.Bucket([]byte(bucket)).Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
			if !yield(k, v) {
				return
			}
		}
	}
}
