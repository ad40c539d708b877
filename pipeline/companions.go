package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// A beside is a companion of an image on its way: a kernel or a ramdisk.
type beside struct {
	role    providers.Role
	label   string // its own name
	from    Ref    // where it comes from; of bytes from outside that is nowhere
	spec    providers.Spec
	payload *disk.Digester
	view    *View // of from, while it is open
	upload  providers.Upload
	sent    string // the digest of the bytes, verified
}

func (b *beside) close() {
	if b.view != nil {
		b.view.Close()
		b.view = nil
	}
}

// companionRef is a companion of an entry as what a View shows.
func companionRef(site string, e providers.Entry, c providers.Companion) Ref {
	return Ref{Site: site, Entry: c.Entry(e.Name), Format: formatRaw}
}

// gather finds the companions that go along with the boot disk of an image: those that
// it has and there, the image of the name if it stays, has not yet, nor waits for it.
func (j *job) gather(ctx context.Context, there *providers.Entry) error {
	j.dropBeside()
	v := j.spec.From
	if v == nil || v.Ref.Entry.Live() || j.diskOf() != 0 || j.spec.Disk != 0 {
		return j.awaited(ctx)
	}
	keeper, _ := j.uploader.(providers.CompanionKeeper)
	for _, c := range v.Ref.Entry.Companions {
		switch {
		case c.Reason != "":
			j.note("the %s of image %q stays behind: %s", c.Role, v.Ref.Entry.Name, c.Reason)
			continue
		case keeper == nil:
			j.note("the %s of image %q stays behind: provider %q keeps none", c.Role, v.Ref.Entry.Name, j.spec.Site)
			continue
		}
		b := &beside{role: c.Role, label: c.Name, from: companionRef(v.Ref.Site, v.Ref.Entry, c)}
		b.from.Over = v.Ref.Over
		same, err := j.besideThere(ctx, b, c.Size, there)
		if err != nil {
			return err
		}
		if same {
			continue
		}
		if b.view, err = j.p.View(ctx, b.from); err != nil {
			return fmt.Errorf("read its %s: %w", c.Role, err)
		}
		b.payload = disk.NewDigester(b.view)
		b.spec.Mtime = c.Updated
		j.beside = append(j.beside, b)
	}
	if len(j.beside) > 0 && there != nil && j.rec.Unchanged { // it is the image that is unchanged, and not the set
		j.rec.Unchanged, j.rec.Entry, j.pieces = false, nil, nil
	}
	return j.awaited(ctx)
}

// awaited notes which companions the image will have: those that are sent, and those
// that wait for it.
func (j *job) awaited(ctx context.Context) error {
	j.booting = nil
	for _, b := range j.beside {
		j.booting = append(j.booting, b.role)
	}
	waiting, err := j.waitingCompanions(ctx)
	for role := range waiting {
		j.booting = append(j.booting, role)
	}
	return err
}

// waitingCompanions are those that wait for an image of the name.
func (j *job) waitingCompanions(ctx context.Context) (map[providers.Role]providers.Entry, error) {
	if _, ok := j.uploader.(providers.CompanionKeeper); !ok {
		return nil, nil
	}
	l, err := j.p.ListNow(ctx, j.spec.Site, providers.Disks)
	if err != nil {
		return nil, err
	}
	waiting := map[providers.Role]providers.Entry{}
	for _, e := range l.Entries {
		if e.Name == j.spec.Name && e.Role != "" {
			waiting[e.Role] = e
		}
	}
	return waiting, nil
}

// besideThere tells whether the destination has a companion of the role: of the image
// that stays, or waiting for one. Another one of the role is an error.
func (j *job) besideThere(ctx context.Context, b *beside, size int64, there *providers.Entry) (bool, error) {
	waiting, err := j.waitingCompanions(ctx)
	if err != nil {
		return false, err
	}
	have, ok := waiting[b.role]
	if there != nil {
		if c, has := there.Companion(b.role); has && c.Reason == "" {
			have, ok = c.Entry(j.spec.Name), true
		}
	}
	if !ok {
		return false, nil
	}
	same := have.Size == size
	if same && (b.from.Site != j.spec.Site || b.from.Entry.ID != have.ID) {
		theirs, err := j.p.GuestDigest(ctx, Ref{Site: j.spec.Site, Entry: have})
		if err != nil {
			return false, fmt.Errorf("compare with the %s that is there: %w", b.role, err)
		}
		ours := ""
		if b.from.Site != "" {
			ours, err = j.p.GuestDigest(ctx, b.from)
		} else {
			ours, err = disk.Sum(ctx, j.src.disk(0), nil)
		}
		if err != nil {
			return false, fmt.Errorf("compare with the %s that is there: %w", b.role, err)
		}
		same = ours == theirs
	}
	if same {
		return true, nil
	}
	err = disk.Errorf(disk.Exists, "image %q of that name has another %s", j.spec.Name, b.role)
	return false, disk.Hint(err, "choose another name, or remove the image that is there")
}

// compareCompanion is compare for bytes that are a companion.
func (j *job) compareCompanion(ctx context.Context) error {
	if _, ok := j.uploader.(providers.CompanionKeeper); !ok {
		err := disk.Errorf(disk.Unsupported, "store the %s of an image: provider %q keeps none", j.spec.Role, j.spec.Site)
		return disk.Hint(err, "copy the image alone: what boots from its own disk needs none")
	}
	j.dropBeside()
	taken, err := j.taken(ctx)
	if err != nil {
		return err
	}
	if len(taken) > 1 {
		return disk.Errorf(disk.Invalid, "store the %s of image %q: %d images have that name", j.spec.Role, j.spec.Name, len(taken))
	}
	var there *providers.Entry
	if len(taken) == 1 {
		there = &taken[0]
	}
	b := &beside{role: j.spec.Role}
	img := j.src.disk(0)
	same, err := j.besideThere(ctx, b, img.Size(), there)
	switch {
	case err != nil:
		return err
	case same:
		j.rec.Unchanged = true
		e, err := j.keptCompanion(ctx, there)
		j.rec.Entry = &e
		return err
	}
	b.payload, b.spec.Mtime = disk.NewDigester(img), j.spec.Mtime
	j.beside = []*beside{b}
	return nil
}

// keptCompanion gives the companion that is there the time that its writer asks for.
func (j *job) keptCompanion(ctx context.Context, there *providers.Entry) (providers.Entry, error) {
	waiting, err := j.waitingCompanions(ctx)
	if err != nil {
		return providers.Entry{}, err
	}
	e := waiting[j.spec.Role]
	if there != nil {
		if c, ok := there.Companion(j.spec.Role); ok {
			e = c.Entry(j.spec.Name)
		}
	}
	if j.spec.Mtime.IsZero() || j.spec.Mtime.Equal(e.Updated) {
		return e, nil
	}
	return j.p.SetMtime(ctx, Ref{Site: j.spec.Site, Entry: e, Format: formatRaw}, j.spec.Mtime)
}

// dropBeside forgets the companions that were gathered.
func (j *job) dropBeside() {
	for _, b := range j.beside {
		b.close()
	}
	j.beside = nil
}

// bootSent tells whether the image itself is sent, with which companions appear.
func (j *job) bootSent() bool {
	return slices.ContainsFunc(j.pieces, func(p *piece) bool { return p.to == 0 })
}

// besideBytes is how many bytes the companions have, and notes them in the record.
func (j *job) besideBytes() int64 {
	sum := int64(0)
	j.rec.Companions = nil
	for _, b := range j.beside {
		sum += b.payload.Size()
		j.rec.Companions = append(j.rec.Companions, jobs.Companion{Role: b.role, Name: b.label, Bytes: b.payload.Size()})
	}
	return sum
}

// uploadsBeside are the uploads of the companions that the image will have, nil for those
// that have not begun, or wait at the provider.
func (j *job) uploadsBeside() map[providers.Role]providers.Upload {
	if len(j.booting) == 0 {
		return nil
	}
	ups := map[providers.Role]providers.Upload{}
	for _, role := range j.booting {
		ups[role] = nil
	}
	for _, b := range j.beside {
		if b.upload != nil {
			ups[b.role] = b.upload
		}
	}
	return ups
}

// transferBeside sends a companion.
func (j *job) transferBeside(ctx context.Context, b *beside, pace *pacer, progress func(int64)) (err error) {
	b.spec = providers.Spec{
		Job: j.rec.ID, Name: j.spec.Name, Format: formatRaw, Size: b.payload.Size(), Mtime: b.spec.Mtime,
		Role: b.role, Label: b.label, Together: j.bootSent(),
	}
	if b.upload, err = j.beginUpload(ctx, b.spec); err != nil {
		return err
	}
	return b.upload.Send(ctx, j.site.traffic.outgoing(ctx, b.payload, pace), progress)
}

// verifyBeside compares what the destination holds of the companions with what was read.
func (j *job) verifyBeside(ctx context.Context) error {
	for i, b := range j.beside {
		var err error
		if b.sent, err = b.payload.Sum(ctx); err != nil {
			return fmt.Errorf("%s: %w", b.role, err)
		}
		if err := judge(ctx, b.upload, b.sent); err != nil {
			return fmt.Errorf("%s: %w", b.role, err)
		}
		j.live.Note(func(r *jobs.Record) { r.Companions[i].BytesDigest = b.sent })
	}
	return nil
}

// judge compares the digest of what the destination holds with that of what was sent.
func judge(ctx context.Context, u providers.Upload, sent string) error {
	got, err := u.Verify(ctx)
	if err != nil {
		return err
	}
	want := sent
	if got.Algorithm != disk.DigestAlgorithm {
		want = got.Sent
	}
	if got.Sum != want {
		return disk.Errorf(disk.Malformed, "verify image: the destination holds bytes of %s digest %s, of those sent it is %s", got.Algorithm, got.Sum, want)
	}
	return nil
}

// registerBeside makes companions appear whose image is there, or will be.
func (j *job) registerBeside(ctx context.Context) error {
	last := providers.Entry{}
	for _, b := range j.beside {
		e, err := b.upload.Commit(ctx)
		if err != nil {
			return err
		}
		b.upload, last = nil, e
		if e.Waiting != nil {
			j.note("the %s waits: it is a part of image %q as soon as that is there", e.Role, e.Name)
			j.p.noteWaiting(j.spec.Site, e)
		}
		j.p.keepDigest(Ref{Site: j.spec.Site, Entry: e}, b.sent)
	}
	j.live.Note(func(r *jobs.Record) { r.Entry = &last })
	j.p.Forget(j.spec.Site)
	return nil
}

// undoBeside removes the companions of a job that has failed.
func (j *job) undoBeside(ctx context.Context) error {
	var errs []error
	for _, b := range j.beside {
		if b.upload != nil {
			errs = append(errs, b.upload.Abort(ctx))
			b.upload = nil
		}
	}
	return errors.Join(errs...)
}

// DeleteCompanion removes a companion that waits for its image.
func (p *Pipeline) DeleteCompanion(ctx context.Context, site string, e providers.Entry) error {
	s, err := p.site(site)
	if err != nil {
		return err
	}
	keeper, ok := s.provider.(providers.CompanionKeeper)
	if !ok || e.Waiting == nil {
		err := disk.Errorf(disk.Unsupported, "remove %s: it is a part of the image", placeOf(site, e))
		return disk.Hint(err, "it goes with its image")
	}
	if err := keeper.DeleteCompanion(ctx, e); err != nil {
		return fmt.Errorf("remove %s: %w", placeOf(site, e), err)
	}
	p.Forget(site)
	return nil
}
