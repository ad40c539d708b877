package pipeline

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// digestKey names the digest of one disk of an image.
func digestKey(site string, e providers.Entry, n int) string {
	return imageKey(site, e) + "\x00" + strconv.Itoa(n)
}

// keepDigest remembers a digest. It can be found out again, so that a state which
// cannot be written is no reason for a copy to fail.
func (p *Pipeline) keepDigest(site string, e providers.Entry, n int, sum string) {
	p.remember(bucketDigests, digestKey(site, e, n), []byte(sum))
}

// KnownDigest is GuestDigest if it costs nothing, else empty.
func (p *Pipeline) KnownDigest(r Ref) string {
	return string(p.state.get(bucketDigests, digestKey(r.Site, r.Entry, r.Disk)))
}

// GuestDigest is the digest of the virtual disk (disk.Sum), from the state where
// it is known, by reading the whole disk otherwise.
func (p *Pipeline) GuestDigest(ctx context.Context, r Ref) (string, error) {
	f, err := p.facts(ctx, r.Site, r.Entry)
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
		p.keepDigest(r.Site, r.Entry, r.Disk, sum)
	}
	return sum, nil
}

// taken lists the images of the destination that have the name already, but for
// the one that is replaced.
func (j *job) taken(ctx context.Context) ([]providers.Entry, error) {
	l, err := j.p.ListNow(ctx, j.spec.Site, providers.Images)
	if err != nil {
		return nil, err
	}
	var out []providers.Entry
	for _, e := range l.Entries {
		if e.Name == j.spec.Name && (j.spec.Replaces == nil || e.ID != j.spec.Replaces.ID) {
			out = append(out, e)
		}
	}
	return out, nil
}

// compare looks at what has the name already. The same disks are a success
// without work; others are refused.
func (j *job) compare(ctx context.Context) error {
	taken, err := j.taken(ctx)
	if err != nil {
		return err
	}
	var differs error
	for i := range taken {
		same, err := j.same(ctx, taken[i])
		if disk.KindOf(err) == disk.Exists {
			differs = err
			continue
		}
		if err != nil {
			return fmt.Errorf("compare with the image of that name: %w", err)
		}
		if same {
			j.rec.Unchanged = true
			now, err := j.keepMtime(ctx, taken[i])
			j.rec.Entry = &now
			return err
		}
	}
	if len(taken) == 1 && j.spec.Replace {
		j.spec.Replaces = &taken[0]
		return nil
	}
	if len(taken) == 1 && differs != nil {
		return differs
	}
	if len(taken) > 0 {
		err := disk.Errorf(disk.Exists, "name %q is taken by another image", j.spec.Name)
		return disk.Hint(err, "choose another name, or remove the image that is there")
	}
	return nil
}

// glance is how much of two disks is compared before their digests are, which take
// reading all of them: most that differ do so here, in bytes.
const glance = 1 << 20

// same tells whether an image holds the disks of the source: each of them, from
// the first on. It reads only where sizes agree and no digest is known. Of disks that
// differ where it looks first the error tells the place, and is Exists.
func (j *job) same(ctx context.Context, e providers.Entry) (bool, error) {
	if e.Reason != "" {
		return false, nil
	}
	if v := j.spec.From; v != nil && v.Ref.Disk == 0 && imageKey(v.Ref.Site, v.Ref.Entry) == imageKey(j.spec.Site, e) {
		return true, nil
	}
	f, err := j.p.facts(ctx, j.spec.Site, e)
	if err != nil {
		return false, err
	}
	first, last := 0, len(j.src.facts.Disks)
	if v := j.spec.From; v != nil && (v.Ref.Format != formatOVA || v.Ref.Disk > 0) {
		first, last = v.Ref.Disk, v.Ref.Disk+1
	}
	if last-first > len(f.Disks) {
		return false, nil
	}
	for i := first; i < last; i++ {
		if padded(j.src.facts.Disks[i].Size) != padded(f.Disks[i-first].Size) {
			return false, nil
		}
	}
	for i := first; i < last; i++ {
		r := Ref{Site: j.spec.Site, Entry: e, Disk: i - first}
		if err := j.glanceAt(ctx, i, r); err != nil {
			return false, err
		}
		theirs, err := j.p.GuestDigest(ctx, r)
		if err != nil {
			return false, err
		}
		ours, err := j.digestOf(ctx, i)
		if err != nil || ours != theirs {
			return false, err
		}
	}
	return true, nil
}

// glanceAt compares the beginnings of disk i of the source and of a disk that is
// there, unless both digests are known.
func (j *job) glanceAt(ctx context.Context, i int, r Ref) error {
	if v := j.spec.From; v != nil && !v.Ref.Entry.Live() && j.p.KnownDigest(r) != "" {
		ours := v.Ref
		if ours.Disk = i; j.p.KnownDigest(ours) != "" {
			return nil
		}
	}
	r.Format = formatRaw
	theirs, err := j.p.View(ctx, r)
	if err != nil {
		return err
	}
	theirs.brief = true
	defer theirs.Close()
	at, err := firstDifference(j.src.disk(i), theirs, min(glance, padded(theirs.Size())))
	if err != nil || at < 0 {
		return err
	}
	return errDiffers(j.spec.Name, at)
}

// digestOf is the digest of one disk of the source.
func (j *job) digestOf(ctx context.Context, i int) (string, error) {
	if v := j.spec.From; v != nil && !v.Ref.Entry.Live() {
		r := v.Ref
		r.Disk = i
		return j.p.GuestDigest(ctx, r)
	}
	return disk.Sum(ctx, j.src.disk(i), nil)
}

// padded is a size in bytes rounded up to whole sectors.
func padded(size int64) int64 {
	return (size + disk.SectorSize - 1) / disk.SectorSize * disk.SectorSize
}

// keepMtime gives an image that stays the time that its writer asks for.
func (j *job) keepMtime(ctx context.Context, e providers.Entry) (providers.Entry, error) {
	if j.spec.Mtime.IsZero() || j.spec.Mtime.Equal(e.Updated) {
		return e, nil
	}
	return j.p.SetMtime(ctx, j.spec.Site, e, j.spec.Mtime)
}

// SetMtime keeps the modification time that a copying program sets on an image,
// where the provider can; what is known of the image is carried over to its new
// version.
func (p *Pipeline) SetMtime(ctx context.Context, name string, e providers.Entry, mtime time.Time) (providers.Entry, error) {
	s, err := p.site(name)
	if err != nil {
		return e, err
	}
	t, ok := s.provider.(providers.Timer)
	if !ok {
		return e, nil
	}
	now, err := t.SetMtime(ctx, e, mtime)
	if err != nil {
		return e, fmt.Errorf("set time of %q of %s: %w", e.Name, name, err)
	}
	p.Forget(name)
	p.carryDigests(name, e, now)
	return now, nil
}

// carryDigests gives what is known of an image to its new version, which has the
// same bytes.
func (p *Pipeline) carryDigests(site string, e, now providers.Entry) {
	for n := 0; ; n++ {
		sum := p.KnownDigest(Ref{Site: site, Entry: e, Disk: n})
		if sum == "" {
			return
		}
		p.keepDigest(site, now, n, sum)
	}
}
