package openstack

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // Glance's own checksum of images without any other
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"

	"chromogenic/disk"
)

// newHash is the hash of a name that Glance gives; nil for one that is not known.
func newHash(algorithm string) hash.Hash {
	switch algorithm {
	case "sha512":
		return sha512.New()
	case "sha256":
		return sha256.New()
	case "sha384":
		return sha512.New384()
	case "md5":
		return md5.New() //nolint:gosec // see above
	}
	return nil
}

// recordSum is the best digest that a record has; empty for none that is known.
func recordSum(r *record) (algorithm, sum string) {
	switch {
	case r.HashValue != "" && newHash(r.HashAlgo) != nil:
		return r.HashAlgo, r.HashValue
	case r.Checksum != "":
		return "md5", r.Checksum
	}
	return "", ""
}

// A runningSum hashes what is read of an image as long as that comes from the beginning
// on without a gap, as it does where the whole is copied. What comes a little too early
// waits for what is before it.
type runningSum struct {
	size      int64
	algorithm string
	want      string

	mu       sync.Mutex
	hash     hash.Hash        // nil until something is hashed, and when the sum is known to be right
	at       int64            // what is hashed
	reached  atomic.Int64     // at, for those who do not wait for a hash
	early    map[int64][]byte // by the offset
	held     int64            // bytes of these
	verified atomic.Bool

	turns chan struct{} // of those who are hashed later
	spare sync.Pool     // of []byte
}

// What is read is hashed later, for a hash takes longer than the rest and there are other
// processors: as many reads as that, of so many bytes at most.
const (
	laterReads = 8
	laterSize  = 1 << 20
)

// earlyMost is how much may wait, in bytes: what a kernel reads ahead, and a few reads that
// have overtaken others.
const earlyMost = 4 << 20

func newRunningSum(r *record) *runningSum {
	s := &runningSum{size: *r.Size, early: map[int64][]byte{}, turns: make(chan struct{}, laterReads)}
	s.algorithm, s.want = recordSum(r)
	return s
}

// later tells whether n bytes at off may be hashed when their reader has gone on, and waits
// until there is room to keep them, in the order of the readers. Those near the end may be
// the last that are hashed: their reader is to be told when the sum is wrong. What can
// never be hashed, for something before it is missing, need not be kept.
func (s *runningSum) later(off int64, n int) bool {
	if n > laterSize || off+int64(n) > s.size-earlyMost || s.known() || off > s.reached.Load()+earlyMost+laterReads*laterSize {
		return false
	}
	s.turns <- struct{}{}
	return true
}

// keep copies what is hashed later.
func (s *runningSum) keep(p []byte) []byte {
	kept, ok := s.spare.Get().(*[]byte)
	if !ok || cap(*kept) < len(p) {
		kept = new([]byte)
		*kept = make([]byte, 0, laterSize)
	}
	return append((*kept)[:0], p...)
}

// give ends what later began.
func (s *runningSum) give(kept []byte) {
	s.spare.Put(&kept)
	<-s.turns
}

// begin starts anew with a read of the beginning.
func (s *runningSum) begin(off int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if off == 0 && s.at > 0 {
		s.hash, s.at, s.held = nil, 0, 0
		s.reached.Store(0)
		clear(s.early)
	}
}

// add hashes p, which lies at off, if it is next, and then what has waited for it.
func (s *runningSum) add(off int64, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch end := off + int64(len(p)); {
	case s.verified.Load() || s.want == "" || end <= s.at || len(p) == 0:
		return
	case off > s.at:
		if off-s.at <= earlyMost && s.held+int64(len(p)) <= earlyMost && s.early[off] == nil {
			s.early[off] = bytes.Clone(p)
			s.held += int64(len(p))
		}
		return
	}
	s.write(p[s.at-off:])
	for again := true; again; {
		again = false
		for off, p := range s.early {
			if off > s.at {
				continue
			}
			delete(s.early, off)
			s.held -= int64(len(p))
			if end := off + int64(len(p)); end > s.at {
				s.write(p[s.at-off:])
				again = true
			}
		}
	}
}

func (s *runningSum) write(p []byte) {
	if s.hash == nil {
		s.hash = newHash(s.algorithm)
	}
	s.hash.Write(p)
	s.at += int64(len(p))
	s.reached.Store(s.at)
}

// check compares the sum when the whole has been read.
func (s *runningSum) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hash == nil || s.at != s.size {
		return nil
	}
	got := hex.EncodeToString(s.hash.Sum(nil))
	s.hash, s.at = nil, 0
	s.reached.Store(0)
	if got != s.want {
		err := disk.Errorf(disk.Malformed, "all has been read, and its %s is %s, not %s", s.algorithm, got, s.want)
		return disk.Hint(err, "the store of the cloud, or the way from it, damages images: what was copied is not the image")
	}
	s.verified.Store(true)
	return nil
}

func (s *runningSum) known() bool {
	return s.verified.Load() || s.want == "" // whatever is being hashed
}

// Verify compares the whole image with the digest that Glance has of it, by reading
// all of it, unless that was done already. An image without a digest passes.
func (m *remote) Verify(ctx context.Context) error {
	if m.sum.known() {
		return nil
	}
	whole := newRemote(m.c, m.record, m.whole)
	defer whole.Close()
	defer context.AfterFunc(ctx, func() { whole.Close() })()
	img := disk.Anew(ctx)(whole)
	p := make([]byte, 1<<20)
	for off := int64(0); off < m.size; off += int64(len(p)) {
		if err := disk.ReadFull(img, p[:min(int64(len(p)), m.size-off)], off); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("verify image: %w", err)
		}
	}
	m.sum.pass()
	return nil
}

func (s *runningSum) pass() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hash = nil
	s.verified.Store(true)
}

var _ disk.Verifier = (*remote)(nil)
