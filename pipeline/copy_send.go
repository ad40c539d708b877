package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// natural is the format that store: source asks for: the source's own container
// where it is known, else as handed over. An ova or qcow2 that was only a view
// is never stored.
func (j *job) natural() string {
	if j.diskOf() > 0 {
		return formatRaw // one disk of a machine is not its container
	}
	if f := j.src.facts.Format; f != formatOVF {
		return f
	}
	return formatOVA
}

// layOut chooses the format and makes the bytes to send.
func (j *job) layOut() error {
	want := j.natural()
	accepts, err := j.uploader.Accepts(providers.Spec{
		Job: j.rec.ID, Name: j.spec.Name, Format: want, Store: j.spec.Store, Size: -1,
	})
	if err != nil {
		return err
	}
	if len(accepts) == 0 {
		return disk.Errorf(disk.Unsupported, "send to provider %q: it accepts no format", j.spec.Site)
	}
	j.format = accepts[0]
	j.rec.Format = j.format
	if n := len(j.src.facts.Disks); n > 1 && j.machineAsked() && j.format != formatOVA {
		err := disk.Errorf(disk.Unsupported, "store as %s: the machine has %d disks, and a %s file holds one", j.format, n, j.format)
		return disk.Hint(err, "store it as ova (store: source, or --store ova), or copy its disks one by one out of .disks/")
	}
	wrap := func(i int, img disk.Image) disk.Image {
		d := disk.NewDigester(img)
		if i == j.diskOf() {
			j.guest = d
		}
		return d
	}
	if j.format == formatRaw {
		wrap = nil // the bytes sent are the disk: one digest serves for both
	}
	img, err := j.src.lay(j.format, j.diskOf(), wrap)
	if err != nil {
		return err
	}
	j.bytes = disk.NewDigester(img)
	j.payload = j.bytes
	j.rec.Bytes, err = disk.Allocated(img)
	return err
}

// machineAsked tells whether all disks of the source are to be copied, and not
// the boot disk or another alone.
func (j *job) machineAsked() bool {
	v := j.spec.From
	return v == nil || v.Ref.Format == formatOVA && v.Ref.Disk == 0
}

// diskOf is the disk that is copied; with the boot disk an ova holds them all.
func (j *job) diskOf() int {
	if j.spec.From == nil {
		return 0
	}
	return j.spec.From.Ref.Disk
}

// send sends, verifies and registers.
func (j *job) send(ctx context.Context) error {
	if err := j.stage(stageSend, func() error { return j.transfer(ctx) }); err != nil {
		return err
	}
	if err := j.stage(stageVerify, func() error { return j.verify(ctx) }); err != nil {
		return err
	}
	return j.stage(stageRegister, func() error {
		e, err := j.upload.Commit(ctx)
		if err != nil {
			return err
		}
		j.upload = nil
		e = j.p.applyHeld(ctx, j.spec.Site, j.spec.Name, e)
		j.live.Note(func(r *jobs.Record) { r.Entry = &e })
		j.p.Forget(j.spec.Site)
		j.p.keepDigest(j.spec.Site, e, 0, j.rec.GuestDigest)
		return nil
	})
}

// transfer sends the payload; of an upload that an earlier run has begun, what is
// missing.
func (j *job) transfer(ctx context.Context) (err error) {
	total := j.payload.Size()
	spec := providers.Spec{
		Job: j.rec.ID, Name: j.spec.Name, Format: j.format, Store: j.spec.Store, Size: total,
		Metadata: j.metadata(), Mtime: j.spec.Mtime, Replaces: j.spec.Replaces,
	}
	if j.upload, err = j.again(ctx, spec); err != nil {
		return err
	}
	if j.upload == nil {
		if j.upload, err = j.uploader.Begin(ctx, spec); err != nil {
			return err
		}
		made := jobs.Made{What: madeUpload, Site: j.spec.Site, Token: j.upload.Token()}
		if err := j.live.Update(func(r *jobs.Record) { r.Made = append(r.Made, made) }); err != nil {
			return err
		}
	}
	return j.upload.Send(ctx, j.payload, func(done int64) { j.progress(stageSend, done, total) })
}

// again finds the upload that an earlier run has begun, nil where there is none
// any longer.
func (j *job) again(ctx context.Context, spec providers.Spec) (providers.Upload, error) {
	for i, m := range j.rec.Made {
		if m.What != madeUpload {
			continue
		}
		u, err := j.uploader.Resume(ctx, spec, m.Token)
		if kind := disk.KindOf(err); kind != disk.NotFound && kind != disk.Invalid {
			return u, err
		}
		return nil, j.live.Update(func(r *jobs.Record) { r.Made = slices.Delete(r.Made, i, i+1) })
	}
	return nil, nil
}

// verify compares what the destination holds with what was read here, and fixes
// the digest of the virtual disk, which reads the whole of it: damage inside a
// container that is passed on as it is shows now.
func (j *job) verify(ctx context.Context) error {
	sent, err := j.bytes.Sum(ctx)
	if err != nil {
		return err
	}
	got, err := j.upload.Verify(ctx)
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
	// What came along with the source, where all of it was read, or is read now.
	if err := j.src.verifyContainer(ctx); err != nil {
		return err
	}
	guest, err := j.guestDigest(ctx, sent)
	if err != nil {
		return err
	}
	j.live.Note(func(r *jobs.Record) { r.BytesDigest, r.GuestDigest = sent, guest })
	return nil
}

// guestDigest is the digest of the boot disk as it was read now. Where an
// earlier one of the same image is known, the two must agree.
func (j *job) guestDigest(ctx context.Context, sent string) (string, error) {
	var now string
	var err error
	switch {
	case j.guest != nil:
		now, err = j.guest.Sum(ctx)
	case j.format == formatRaw:
		now = sent
	default:
		now, err = disk.Sum(ctx, j.src.disk(j.diskOf()), nil)
	}
	if err != nil {
		return "", fmt.Errorf("digest virtual disk: %w", err)
	}
	if v := j.spec.From; v != nil && !v.Ref.Entry.Live() && v.Settled() {
		if old := j.p.KnownDigest(v.Ref); old != "" && old != now {
			err := disk.Errorf(disk.Malformed, "read source: digest %s, it was %s before", now, old)
			return "", disk.Hint(err, "the storage of the source gives other bytes than before: check it")
		}
		j.p.keepDigest(v.Ref.Site, v.Ref.Entry, v.Ref.Disk, now)
	}
	return cmp.Or(now, sent), nil
}
