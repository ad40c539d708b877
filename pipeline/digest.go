package pipeline

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// digestKey names the digest of the disk that a Ref shows.
func (r Ref) digestKey() string { return r.versionKey() + "\x00" + strconv.Itoa(r.Disk) }

// keepDigest remembers a digest. It can be found out again, so that a state which
// cannot be written is no reason for a copy to fail.
func (p *Pipeline) keepDigest(r Ref, sum string) {
	p.remember(bucketDigests, r.digestKey(), []byte(sum))
}

// KnownDigest is GuestDigest if it costs nothing, else empty.
func (p *Pipeline) KnownDigest(r Ref) string {
	return string(p.state.get(bucketDigests, r.digestKey()))
}

// GuestDigest is the digest of the virtual disk (disk.Sum), from the state where
// it is known, by reading the whole disk otherwise.
func (p *Pipeline) GuestDigest(ctx context.Context, r Ref) (string, error) {
	f, err := p.factsOf(ctx, r)
	if err != nil {
		return "", err
	}
	if sum := p.KnownDigest(r); sum != "" {
		return sum, nil
	}
	r.Format = formatRaw
	v, err := p.View(ctx, r)
	if err != nil {
		return "", err
	}
	v.brief = true
	defer v.Close()
	sum, err := disk.Sum(ctx, v, nil)
	if err != nil {
		return "", fmt.Errorf("digest %q of %s: %w", r.Entry.Name, r.Site, err)
	}
	if !f.fluid {
		p.keepDigest(r, sum)
	}
	return sum, nil
}

// SetMtime keeps the modification time that a copying program sets on what a Ref
// shows, an image or one disk of it, where the provider can; what is known of the
// image is carried over to its new version.
func (p *Pipeline) SetMtime(ctx context.Context, r Ref, mtime time.Time) (providers.Entry, error) {
	name, e := r.Site, r.Entry
	s, err := p.site(name)
	if err != nil {
		return e, err
	}
	var now providers.Entry
	keeper, sets := s.provider.(providers.SetKeeper)
	t, times := s.provider.(providers.Timer)
	switch {
	case sets && (e.Kind == providers.Disks || len(e.Disks) > 1 && r.Format != formatOVA):
		now, err = keeper.SetDiskMtime(ctx, e, r.Disk, mtime)
	case times:
		now, err = t.SetMtime(ctx, e, mtime)
	default:
		return e, nil
	}
	if err != nil {
		return e, fmt.Errorf("set time of %q of %s: %w", e.Name, name, err)
	}
	p.Forget(name)
	if now.Kind == e.Kind { // a disk that waited may be a part of an image by now
		p.carryDigests(name, e, now)
	}
	return now, nil
}

// carryDigests gives what is known of an image to its new version, which has the
// same bytes.
func (p *Pipeline) carryDigests(site string, e, now providers.Entry) {
	for n := 0; n < max(1, len(e.Disks)) || p.KnownDigest(Ref{Site: site, Entry: e, Disk: n}) != ""; n++ {
		if sum := p.KnownDigest(Ref{Site: site, Entry: e, Disk: n}); sum != "" {
			p.keepDigest(Ref{Site: site, Entry: now, Disk: n}, sum)
		}
	}
}
