package openstack

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// How long the service may take to answer when it has all bytes, and to take over an
// image that it has answered for: it may move it to its store, and to several.
const (
	answerTime = 10 * time.Minute
	settleTime = 30 * time.Minute
	// uploadTries are of a whole upload: Glance cannot go on with one that was cut off.
	uploadTries = 3
	// uploadPause is between them, and doubled; it is longer where the service says how
	// long, up to uploadPauseMost.
	uploadPause     = 500 * time.Millisecond
	uploadPauseMost = time.Minute
)

// Send streams img as it is, holes as zeros: Glance takes the bytes of an image as a
// whole and in order. One that was cut off begins anew.
func (u *upload) Send(ctx context.Context, img disk.Image, progress func(done int64)) error {
	err := u.send(ctx, img, progress)
	if err != nil {
		return fmt.Errorf("send %.80q: %w", u.spec.Name, err)
	}
	return nil
}

func (u *upload) send(ctx context.Context, img disk.Image, progress func(done int64)) error {
	if img.Size() != u.spec.Size {
		return disk.Errorf(disk.Invalid, "it has %d bytes, not %d as announced", img.Size(), u.spec.Size)
	}
	if u.late {
		reused, err := u.prepare(ctx, img)
		if err != nil {
			return err
		}
		if reused {
			progress(img.Size())
			return nil
		}
	}
	far := int64(0)
	forwards := func(done int64) { // the second try begins with what the first has done
		if done > far {
			far = done
			progress(done)
		}
	}
	var err error
	var after time.Duration // that the service asks to wait
	for try := range uploadTries {
		if try > 0 {
			if e := pause(ctx, max(min(after, uploadPauseMost), uploadPause<<try)); e != nil {
				return e
			}
		}
		var there bool
		if there, err = u.ready(ctx); err != nil {
			return err
		}
		s := newSender(ctx, img, forwards)
		if there { // by an earlier process, or a try whose answer was lost
			err = s.hashOnly()
		} else {
			after, err = u.stream(ctx, s)
		}
		s.close()
		sum, failed := s.result()
		if failed != nil { // of the source: no other try helps
			return failed
		}
		if err == nil {
			u.sent = sum
			if err = u.settle(ctx); err == nil {
				progress(img.Size())
				return nil
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if kind := disk.KindOf(err); kind != disk.Unreachable && kind != disk.Timeout && kind != disk.Busy {
			return err
		}
	}
	return err
}

// ready waits until the record takes bytes: after an upload that was cut off it does so
// when Glance has noticed. One that a crash of Glance has left as it was never does: it
// goes, and another takes its place. There tells that it has all bytes.
func (u *upload) ready(ctx context.Context) (there bool, err error) {
	for began := time.Now(); ; {
		r, err := u.p.record(ctx, u.id)
		switch {
		case err != nil:
			return false, err
		case r.Status == "active":
			return true, nil
		case r.Status == "queued":
			return false, nil
		case time.Since(began) > u.p.client.stall:
			return false, u.renew(ctx)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return false, err
		}
	}
}

// renew begins with another record. The token leads to none from then on, which is to
// say that an upload which is resumed begins anew, as it would anyway.
func (u *upload) renew(ctx context.Context) error {
	if err := u.p.remove(ctx, u.id); err != nil {
		return err
	}
	u.p.own(u.id, false)
	u.id = newID()
	u.p.own(u.id, true)
	return u.create(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stream sends all bytes once. A body that was read in part has no next try: after is how
// long the service asks to wait for another one then.
func (u *upload) stream(ctx context.Context, s *sender) (after time.Duration, err error) {
	path := "/images/" + u.id + "/file"
	if u.p.o.Import {
		path = "/images/" + u.id + "/stage"
	}
	err = u.p.client.retry.Long(ctx, func(ctx context.Context) error {
		_, end, err := u.p.client.try(ctx, request{
			service: imageService, method: http.MethodPut, path: path, ok: []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted},
			stream: s.rewind, size: s.img.Size(), patience: answerTime,
		})
		if err != nil {
			if t := transient(err); t != nil && s.moved() {
				after = t.After
				return t.Err
			}
			return err
		}
		end()
		return nil
	})
	if err != nil || !u.p.o.Import {
		return after, err
	}
	_, err = u.p.client.call(ctx, request{
		service: imageService, method: http.MethodPost, path: "/images/" + u.id + "/import", ok: []int{http.StatusAccepted}, once: true,
		json: map[string]any{"method": map[string]any{"name": "glance-direct"}},
	}, nil)
	return 0, err
}

// settle waits until the image is active.
func (u *upload) settle(ctx context.Context) error {
	_, err := u.p.await(ctx, u.id, settleTime, func(r *record) error {
		if r.Status == "queued" && !u.p.o.Import {
			return disk.Errorf(disk.Unreachable, "the cloud has thrown the bytes away")
		}
		return nil
	})
	return err
}

// lockTime is how long the import of an active image may hold it: when Glance crashes it
// holds it for ever.
const lockTime = 2 * time.Minute

// importing tells whether a task of Glance still works on an image. Its last act puts the
// record back as it was when the task began, with the name of then.
func (r *record) importing() bool {
	return r.props["os_glance_import_task"] != "" || r.props["os_glance_importing_to_stores"] != ""
}

// await waits until an image is active, at most for so long. Look may give up earlier.
func (p *Provider) await(ctx context.Context, id string, most time.Duration, look func(*record) error) (*record, error) {
	wait := 50 * time.Millisecond
	var active time.Time
	for began := time.Now(); ; wait = min(2*wait, 2*time.Second) {
		r, err := p.record(ctx, id)
		if err != nil {
			return nil, err
		}
		providers.Waits(ctx, r.Status)
		switch r.Status {
		case "active":
			if active.IsZero() {
				active = time.Now()
			}
			if !r.importing() || time.Since(active) > lockTime {
				return r, nil
			}
			wait = min(wait, 200*time.Millisecond)
		case "killed", "deleted", "pending_delete", "deactivated":
			return nil, disk.Errorf(disk.Other, "the image has become %s", r.Status)
		}
		if why := r.props["os_glance_failed_import"]; why != "" {
			return nil, disk.Errorf(disk.Other, "the import into %s has failed", why)
		}
		if err := look(r); err != nil {
			return nil, err
		}
		if time.Since(began) > most {
			return nil, disk.Errorf(disk.Timeout, "the image is still %s after %v", r.Status, most)
		}
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// sendChunk is how much, in bytes, is read of a source at once, and sendAhead how many
// of these are ready while the one before them is on its way.
const (
	sendChunk = 1 << 20
	sendAhead = 4
)

// A sender reads an image from its beginning to its end, as often as it is rewound, and
// hashes what it gives. It is of one goroutine, and each of its turns of another: a
// request that has failed may still read what it was given when the next one begins.
type sender struct {
	ctx      context.Context
	img      disk.Image
	progress func(int64)

	mu      sync.Mutex // of the last turn too, and of those before, which end
	last    *turnOf
	earlier bool // bytes were given in a turn before the last
}

// A turnOf a sender is one reading of all.
type turnOf struct {
	s      *sender
	ctx    context.Context
	cancel context.CancelFunc
	chunks <-chan chunk

	// Under sender.mu.
	hash hash.Hash
	done int64
	now  []byte
	err  error // of the source
}

type chunk struct {
	p   []byte
	err error
}

func newSender(ctx context.Context, img disk.Image, progress func(int64)) *sender {
	return &sender{ctx: ctx, img: img, progress: progress}
}

// rewind begins anew.
func (s *sender) rewind() io.Reader {
	s.earlier = s.moved()
	chunks := make(chan chunk, sendAhead)
	t := &turnOf{s: s, chunks: chunks, hash: sha512.New()}
	t.ctx, t.cancel = context.WithCancel(s.ctx)
	go readChunks(t.ctx, s.img, chunks)
	s.last = t
	return t
}

// moved ends the turn that is the last, and tells whether bytes were given.
func (s *sender) moved() bool {
	s.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.earlier || s.last != nil && s.last.done > 0
}

// close ends the turn that is the last.
func (s *sender) close() {
	if s.last != nil {
		s.last.cancel()
	}
}

// result is the sum of what the last turn has given, all of it; or how the source has
// failed it.
func (s *sender) result() (sum string, err error) {
	if s.last == nil { // nothing was asked of an empty image
		return hex.EncodeToString(sha512.New().Sum(nil)), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return hex.EncodeToString(s.last.hash.Sum(nil)), s.last.err
}

// hashOnly reads all without sending it.
func (s *sender) hashOnly() error {
	_, err := io.Copy(io.Discard, s.rewind())
	return err
}

// readChunks reads all of img ahead of the one who sends it. Holes are not read.
func readChunks(ctx context.Context, img disk.Image, chunks chan<- chunk) {
	defer close(chunks)
	for off, size := int64(0), img.Size(); off < size; off += sendChunk {
		p := make([]byte, min(sendChunk, size-off))
		e, err := img.Extent(off, int64(len(p)))
		if err == nil && (!e.Zero || e.Len < int64(len(p))) {
			err = disk.ReadFull(img, p, off)
		}
		select {
		case chunks <- chunk{p, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// Read gives what comes next.
func (t *turnOf) Read(p []byte) (int, error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.ctx.Err() != nil {
		return 0, context.Cause(t.ctx)
	}
	if len(t.now) == 0 {
		select {
		case next, ok := <-t.chunks:
			switch {
			case !ok && t.done < t.s.img.Size():
				return 0, context.Cause(t.ctx) // readChunks has noticed it first
			case !ok:
				return 0, io.EOF
			case next.err != nil:
				t.err = next.err
				return 0, next.err
			}
			t.hash.Write(next.p)
			t.now = next.p
		case <-t.ctx.Done():
			return 0, context.Cause(t.ctx)
		}
	}
	n := copy(p, t.now)
	t.now = t.now[n:]
	t.done += int64(n)
	t.s.progress(t.done)
	return n, nil
}
