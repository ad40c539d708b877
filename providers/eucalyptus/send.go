package eucalyptus

import (
	"context"
	"crypto/md5"  //nolint:gosec // as stores of objects give it
	"crypto/sha1" //nolint:gosec // as manifests give it
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
)

// Send bundles img and stores the parts, those not that an earlier process has stored, and
// the index behind them. Progress is called with the bytes of img that are in parts which
// the store has.
func (u *upload) Send(ctx context.Context, img disk.Image, progress func(done int64)) error {
	if img.Size() != u.spec.Size {
		return disk.Errorf(disk.Invalid, "send %.80q: it has %d bytes, not %d as announced", u.spec.Name, img.Size(), u.spec.Size)
	}
	if err := u.send(ctx, img, progress); err != nil {
		return fmt.Errorf("send %.80q: %w", u.spec.Name, err)
	}
	return nil
}

func (u *upload) send(ctx context.Context, img disk.Image, progress func(done int64)) error {
	secret, err := u.j.secret()
	if err != nil {
		return err
	}
	if err := u.s.store.bucket(ctx, u.j.Bucket); err != nil {
		return err
	}
	there, err := u.s.store.list(ctx, u.j.area())
	if err != nil {
		return err
	}
	d := newDelivery(ctx, u, there, progress)
	sum := disk.NewDigester(img) // img is the caller's to close
	type result struct {
		m     *bundle.Manifest
		index []byte
		err   error
	}
	made := make(chan result, 1)
	go func() { // a source that hangs is not waited for
		m, index, err := bundle.Bundle(d.ctx, sum, bundle.Spec{Name: u.j.Bundle, Secret: secret, Index: u.p.o.Index}, d.take)
		made <- result{m, index, err}
	}()
	var r result
	select {
	case r = <-made:
	case <-d.ctx.Done():
		r.err = context.Cause(d.ctx)
	}
	if err := d.end(r.err); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if r.index != nil {
		if err := u.s.store.put(ctx, u.j.object(u.j.Bundle+bundle.IndexSuffix), r.index); err != nil {
			return err
		}
		u.index = &sentPart{size: int64(len(r.index)), md5: md5.Sum(r.index), sha1: sha1.Sum(r.index)} //nolint:gosec // see above
	}
	if u.digest, err = sum.Sum(ctx); err != nil {
		return err
	}
	u.manifest, u.parts = r.m, d.parts
	progress(u.spec.Size)
	return nil
}

// A sentPart is what a part must be.
type sentPart struct {
	size int64
	md5  [md5.Size]byte
	sha1 [sha1.Size]byte
}

// is tells whether an object is that part, as far as its size and its ETag tell.
func (s sentPart) is(o object) bool {
	return o.size == s.size && o.etag == hex.EncodeToString(s.md5[:])
}

// A delivery brings the parts of a bundle to the store, some at a time.
type delivery struct {
	u        *upload
	ctx      context.Context
	cancel   context.CancelCauseFunc
	there    map[string]object
	progress func(int64)
	sending  sync.WaitGroup

	mu       sync.Mutex
	finished bool
	err      error
	parts    map[string]sentPart
	done     []int64 // by the number of a part: bytes of the disk up to its end, 0 while it is on its way
	reported int     // parts
}

func newDelivery(ctx context.Context, u *upload, there map[string]object, progress func(int64)) *delivery {
	d := &delivery{u: u, there: there, progress: progress, parts: map[string]sentPart{}}
	d.ctx, d.cancel = context.WithCancelCause(ctx)
	return d
}

// take is a bundle.Sink.
func (d *delivery) take(ctx context.Context, w bundle.Written, body []byte) error {
	part := sentPart{w.Size, w.MD5, w.SHA1}
	d.mu.Lock()
	d.parts[w.Name] = part
	for len(d.done) <= w.Index {
		d.done = append(d.done, -1)
	}
	d.mu.Unlock()
	if o, ok := d.there[w.Name]; ok && part.is(o) {
		d.sent(w)
		return nil
	}
	p, err := d.u.p.pieces.get(ctx)
	if err != nil {
		return err
	}
	n := copy(p, body)
	if !d.begin() {
		d.u.p.pieces.put(p)
		return context.Cause(d.ctx)
	}
	go func() {
		defer d.sending.Done()
		err := d.u.s.store.put(d.ctx, d.u.j.object(w.Name), p[:n])
		d.u.p.pieces.put(p)
		if err != nil {
			d.fail(err)
			return
		}
		d.sent(w)
	}()
	return nil
}

// begin counts a part that is sent, unless all is over.
func (d *delivery) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.finished || d.ctx.Err() != nil {
		return false
	}
	d.sending.Add(1)
	return true
}

// sent notes that the store has a part.
func (d *delivery) sent(w bundle.Written) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done[w.Index] = w.Done
	for d.reported < len(d.done) && d.done[d.reported] >= 0 {
		d.reported++
	}
	if d.reported > 0 && !d.finished {
		d.progress(d.done[d.reported-1])
	}
}

func (d *delivery) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil && d.ctx.Err() == nil {
		d.err = err
		d.cancel(err)
	}
}

// end waits for the parts that are on their way. After a failure these are given up, and
// nothing is sent any more.
func (d *delivery) end(err error) error {
	if err != nil {
		d.cancel(err)
		d.mu.Lock()
		d.finished = true
		d.mu.Unlock()
	}
	d.sending.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.finished = true
	defer d.cancel(nil)
	if d.err != nil {
		return d.err
	}
	return err
}

// Verify compares what the store says of the objects with what was sent, by their sizes and
// MD5s. Of one without an MD5, as one that another program has copied, the content is read.
// The digest is that of the disk that went into them.
func (u *upload) Verify(ctx context.Context) (providers.Digest, error) {
	if err := u.verify(ctx); err != nil {
		return providers.Digest{}, fmt.Errorf("verify %.80q: %w", u.spec.Name, err)
	}
	return providers.Digest{Algorithm: disk.DigestAlgorithm, Sum: u.digest}, nil
}

func (u *upload) verify(ctx context.Context) error {
	if u.manifest == nil {
		return disk.Errorf(disk.Invalid, "nothing was sent")
	}
	there, err := u.s.store.list(ctx, u.j.area())
	if err != nil {
		return err
	}
	names := []string{}
	for _, part := range u.manifest.Parts {
		names = append(names, part.Name)
	}
	want := u.parts
	if u.index != nil {
		name := u.j.Bundle + bundle.IndexSuffix
		want[name] = *u.index
		names = append(names, name)
	}
	for _, name := range names {
		if err := u.verifyPart(ctx, name, want[name], there); err != nil {
			return fmt.Errorf("object %q: %w", name, err)
		}
	}
	for name := range there { // of an earlier try, whose disk was larger
		if !slices.Contains(names, name) {
			err = errors.Join(err, u.s.store.remove(ctx, u.j.object(name)))
		}
	}
	return err
}

func (u *upload) verifyPart(ctx context.Context, name string, want sentPart, there map[string]object) error {
	o, ok := there[name]
	switch {
	case !ok:
		return disk.Errorf(disk.Malformed, "the store does not have it after it was sent")
	case o.size != want.size:
		return disk.Errorf(disk.Malformed, "the store has %d bytes, %d were sent", o.size, want.size)
	case want.is(o):
		return nil
	case isMD5(o.etag):
		return disk.Errorf(disk.Malformed, "the store has the MD5 %s, %x was sent", o.etag, want.md5)
	}
	body, err := u.s.store.whole(ctx, u.j.object(name), want.size)
	if err != nil {
		return err
	}
	if sha1.Sum(body) != want.sha1 { //nolint:gosec // see above
		return disk.Errorf(disk.Malformed, "the store has other bytes than were sent")
	}
	return nil
}
