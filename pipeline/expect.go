package pipeline

import (
	"bytes"
	"context"
	"fmt"

	"chromogenic/disk"
	"chromogenic/providers"
)

// sourceDigestProp is the property in which an image that was cleaned or converted
// on its way keeps the digest of what it was made of.
const sourceDigestProp = "chromogenic_source_digest"

// cleanedProp is the property of an image that was cleaned on its way here: how, as the
// beginning of cleaner.Options.Fingerprint.
const cleanedProp = providers.SourcePrefix + "cleaned"

// Existing opens the view of the disk that is there already, in the format in which
// somebody begins to write it: of the image that has the name, or, by its number, of a
// data disk of that, or one that waits for it. It is nil where there is none, or
// several images have the name. Certain tells that only the bytes of that image are the same disk, and not also
// those of the one that it was made of.
func (p *Pipeline) Existing(ctx context.Context, site, name string, number int, format string) (v *View, certain bool, err error) {
	l, err := p.List(ctx, site, providers.Images)
	if err != nil {
		return nil, false, err
	}
	var found []providers.Entry
	for _, e := range l.Entries {
		if e.Name == name {
			found = append(found, e)
		}
	}
	if number > 0 && len(found) < 2 {
		if found, number, err = p.existingDisk(ctx, site, name, number, found); err != nil {
			return nil, false, err
		}
	}
	if len(found) != 1 || found[0].Reason != "" {
		return nil, false, nil
	}
	if v, err = p.View(ctx, Ref{Site: site, Entry: found[0], Format: format, Disk: number}); err != nil {
		return nil, false, err
	}
	v.brief = true
	props := found[0].Metadata.Props
	return v, props[sourceDigestProp] == "" && props[cleanedProp] == "", nil
}

// existingDisk finds the entry that has a data disk now, and its number in that: the
// image, if there is one and it has so many disks, or the disk that waits for it.
func (p *Pipeline) existingDisk(ctx context.Context, site, name string, number int, image []providers.Entry) ([]providers.Entry, int, error) {
	for _, e := range image {
		if e.Reason != "" {
			return nil, 0, nil
		}
		f, err := p.facts(ctx, site, e)
		if err != nil {
			return nil, 0, err
		}
		if number < len(f.Disks) {
			return image, number, nil
		}
	}
	l, err := p.List(ctx, site, providers.Disks)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range l.Entries {
		if e.Name == name && e.Waiting.Number == number {
			return []providers.Entry{e}, 0, nil
		}
	}
	return nil, 0, nil
}

// Expect tells an empty spool which image has the name already under which it will
// be published: v stays the caller's. Bytes that equal it are noted, not stored.
//
// Of a strict spool nothing is ever stored: what is written is a raw disk, each byte
// once, so the first that differs is the end, and WriteAt and Bind fail with Exists.
// Blocks of zeros are no such end, for programs lay them where data will follow.
func (s *Spool) Expect(v *View, strict bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.p.retain(v.core)
	s.expect, s.strict = v.core, strict
}

// Relax makes a strict spool one that stores what differs.
func (s *Spool) Relax() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strict = false
}

// Strict tells whether what differs fails.
func (s *Spool) Strict() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.strict
}

// Expected tells whether v is the image that has the name already.
func (s *Spool) Expected(v *View) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.expect == v.core
}

// candidates are the cores that what is written first may be a copy of, each with
// one more user.
func (s *Spool) candidates() []*core {
	cands := s.p.recent()
	if s.expect == nil {
		return cands
	}
	// First, so that the same disk again is known as the image that is there.
	out := []*core{s.expect}
	s.p.retain(s.expect)
	for _, c := range cands {
		if c == s.expect {
			s.p.drop(c)
			continue
		}
		out = append(out, c)
	}
	return out
}

// placeholder is the least that programs lay down as zeros and fill later, in
// bytes: qemu-img writes this much before it begins.
const placeholder = 4 << 10

// compare takes p, written at off, into a strict spool.
func (s *Spool) compare(p []byte, off int64) error {
	if len(s.cands) == 0 {
		s.p.retain(s.expect)
		s.cands = []*core{s.expect}
	}
	have, err := s.peek(s.expect, off, len(p), true)
	if err != nil {
		return fmt.Errorf("compare with the image of that name: %w", err)
	}
	end := off + int64(len(p))
	if bytes.Equal(p, have) {
		s.same.add(off, min(end, s.expect.Size()))
		s.grow(end)
		return nil
	}
	for at := off; at < end; {
		to := min(end, at-at%placeholder+placeholder)
		q, r := p[at-off:to-off], have[at-off:to-off]
		switch {
		case bytes.Equal(q, r):
			s.same.add(at, min(to, s.expect.Size()))
		case len(bytes.TrimLeft(q, "\x00")) == 0:
			s.same.remove(at, to)
		default:
			return errDiffers(s.expect.Ref, at+int64(mismatch(q, r)))
		}
		at = to
	}
	s.grow(end)
	return nil
}

// unexpect gives up to compare with an image that is gone, if nothing of it is
// noted, and tells whether it did.
func (s *Spool) unexpect(err error) bool {
	kind := disk.KindOf(err)
	if len(s.same) > 0 || kind != disk.Stale && kind != disk.NotFound {
		return false
	}
	s.forget()
	s.p.drop(s.expect)
	s.expect, s.strict = nil, false
	return true
}

// holes is the number of bytes, of n of v at from and of what the strict spool
// expects at to, that both are known to be zero without being read.
func (s *Spool) holes(v *View, from, to, n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.strict {
		return 0
	}
	x, err := v.Extent(from, n)
	if err != nil || !x.Zero {
		return 0
	}
	y, err := extentUpTo(s.expect, to, to+x.Len)
	if err != nil || !y.Zero {
		return 0
	}
	s.same.remove(to, y.End())
	s.grow(y.End())
	return y.Len
}

// mismatch is the index of the first byte in which p and q, which are as long as
// each other, differ.
func mismatch(p, q []byte) int {
	for i := range p {
		if p[i] != q[i] {
			return i
		}
	}
	return len(p)
}

// errDiffers is the failure of what is written under the name of another disk.
func errDiffers(r Ref, off int64) error {
	err := disk.Errorf(disk.Exists, "name %q is taken: the disk differs from the image of that name at offset %d", r.Entry.Name, off)
	number := r.Disk
	if r.Entry.Waiting != nil {
		number = r.Entry.Waiting.Number
	}
	if number > 0 {
		err = disk.Errorf(disk.Exists, "disk %d of %q is another one: it differs at offset %d", number, r.Entry.Name, off)
	}
	return disk.Hint(err, "choose another name, or remove the image that is there, or let the copy take its place with --allow-replace")
}

// equalDisk tells, without reading, whether v is known to be byte by byte what the
// strict spool expects.
func (s *Spool) equalDisk(v *View) bool {
	if v.Ref.Format != formatRaw || v.Size() != s.expect.Size() || !v.Settled() || !s.expect.Settled() {
		return false
	}
	ours, theirs := s.p.KnownDigest(v.Ref), s.p.KnownDigest(s.expect.Ref)
	return ours != "" && ours == theirs
}

// firstDifference is the offset of the first byte in [0, n) in which two images
// differ, or -1. What both call a hole is not read.
func firstDifference(a, b disk.Image, n int64) (int64, error) {
	const step = 1 << 20
	p, q := make([]byte, min(n, step)), make([]byte, min(n, step))
	for off := int64(0); off < n; {
		x, err := extentUpTo(a, off, n)
		if err != nil {
			return 0, err
		}
		y, err := extentUpTo(b, off, n)
		if err != nil {
			return 0, err
		}
		k := min(x.Len, y.Len)
		if x.Zero && y.Zero {
			off += k
			continue
		}
		k = min(k, step)
		if err := disk.ReadFull(a, p[:k], off); err != nil {
			return 0, err
		}
		if err := disk.ReadFull(b, q[:k], off); err != nil {
			return 0, err
		}
		if !bytes.Equal(p[:k], q[:k]) {
			return off + int64(mismatch(p[:k], q[:k])), nil
		}
		off += k
	}
	return -1, nil
}

// extents is what tells the holes of an image.
type extents interface {
	Size() int64
	Extent(off, n int64) (disk.Extent, error)
}

// extentUpTo is the extent at off, up to the offset n; what lies behind the image's
// size is zero, as ReadFull has it.
func extentUpTo(img extents, off, n int64) (disk.Extent, error) {
	if off >= img.Size() {
		return disk.Extent{Off: off, Len: n - off, Zero: true}, nil
	}
	return img.Extent(off, min(n, img.Size())-off)
}
