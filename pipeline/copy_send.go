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

// natural is the format that store: source asks for, of one disk of the source: its
// own container where it is known, else as handed over. An ova or qcow2 that was only
// a view is never stored.
func (j *job) natural(n int) string {
	f, v := j.src.facts, j.spec.From
	own, ok := f.own(n)
	switch {
	case f.Format == formatOVF && len(f.Disks) == 1:
		return formatOVA
	case n == 0 && (!isMachine(f.Format) || len(f.Disks) == 1):
		return f.Format
	case n > 0 && ok:
		return own.Format
	case v != nil && !isMachine(v.Ref.Format):
		return v.Ref.Format
	}
	return formatRaw
}

// layOut chooses the formats and makes the bytes to send.
func (j *job) layOut() error {
	if len(j.pieces) == 0 { // companions alone
		j.rec.Bytes, j.rec.Format = j.besideBytes(), formatRaw
		return nil
	}
	var err error
	if j.machineAsked() && len(j.src.facts.Disks) > 1 {
		err = j.layOutMachine()
	} else {
		err = j.layOutDisks()
	}
	if err != nil {
		return err
	}
	j.rec.Bytes, j.rec.Disks = j.besideBytes(), nil
	for _, p := range j.pieces {
		n, err := disk.Allocated(p.payload)
		if err != nil {
			return err
		}
		j.rec.Bytes += n
		j.rec.Disks = append(j.rec.Disks, jobs.Disk{
			Number: p.to, Device: p.device, Format: p.format, Bytes: n, VirtualSize: j.src.facts.Disks[p.from].Size,
		})
	}
	j.rec.Format = j.rec.Disks[0].Format
	if len(j.rec.Disks) == 1 {
		j.rec.Disks = nil
	}
	return j.fits()
}

// fits refuses several disks that have no room together; of one alone the provider
// says so.
func (j *job) fits() error {
	r, ok := j.site.provider.(providers.Roomer)
	if !ok || len(j.pieces) < 2 {
		return nil
	}
	if room, known := r.Room(j.p.ctx); known && j.rec.Bytes > room {
		return disk.Errorf(disk.NoSpace, "send %d disks to provider %q: they have %d bytes, and it has room for %d", len(j.pieces), j.spec.Site, j.rec.Bytes, room)
	}
	return nil
}

// accepted is the format in which the destination keeps what has a format.
func (j *job) accepted(format string) (string, error) {
	accepts, err := j.uploader.Accepts(providers.Spec{
		Job: j.rec.ID, Name: j.spec.Name, Format: format, Store: j.store(format), Size: -1, Companions: j.uploadsBeside(),
	})
	if err != nil {
		return "", err
	}
	if len(accepts) == 0 {
		return "", disk.Errorf(disk.Unsupported, "send to provider %q: it accepts no format", j.spec.Site)
	}
	return accepts[0], nil
}

// store is what is asked of the provider for what has a format: an ISO is never
// converted, whatever else is kept there, unless it is said for this copy.
func (j *job) store(format string) string {
	if row, err := rowOf(format); err == nil && row.Alone && j.spec.Store == "" {
		return storeSource
	}
	return j.spec.Store
}

// storeSource asks for what is handed over as it is.
const storeSource = "source"

// layOutMachine lays out all disks of a machine: in one file where the source is one
// too, and nothing of the machine is there yet; otherwise as a set. Where that cannot
// be kept it is one file, or none.
func (j *job) layOutMachine() error {
	whole := len(j.pieces) == len(j.src.facts.Disks) && j.grows == nil && j.waiting == 0
	if whole && (isMachine(j.src.facts.Format) || j.keeper == nil) {
		format, err := j.accepted(formatOVA)
		if err != nil {
			return err
		}
		if isMachine(format) {
			j.pieces = j.pieces[:1]
			return j.layOutPiece(j.pieces[0], format)
		}
		if j.keeper == nil {
			n := len(j.src.facts.Disks)
			err := disk.Errorf(disk.Unsupported, "store as %s: the machine has %d disks, and provider %q keeps one in an image", format, n, j.spec.Site)
			return disk.Hint(err, "copy its disks one by one, as images of their own: %s.disks/N", j.src.Ref.Entry.Name)
		}
	}
	return j.layOutDisks()
}

// layOutDisks lays out disks, each in a file of its own.
func (j *job) layOutDisks() error {
	for _, p := range j.pieces {
		format, err := j.accepted(j.natural(p.from))
		if err != nil {
			return err
		}
		if isMachine(format) && (p.to > 0 || j.machineAsked() && len(j.src.facts.Disks) > 1) {
			format, err = j.accepted(formatRaw) // one disk of a machine is not its container
		}
		if err == nil && isMachine(format) && p.to > 0 {
			err = disk.Errorf(disk.Unsupported, "store disk %d as %s: it holds a machine", p.to, format)
		}
		if err != nil {
			return err
		}
		if err := j.layOutPiece(p, format); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) layOutPiece(p *piece, format string) error {
	p.format = format
	wrap := func(i int, img disk.Image) disk.Image {
		d := disk.NewDigester(img)
		if i == p.from {
			p.guest = d
		}
		return d
	}
	if format == formatRaw {
		wrap = nil // the bytes sent are the disk: one digest serves for both
	}
	img, err := j.src.lay(format, p.from, wrap)
	if err != nil {
		return err
	}
	p.bytes = disk.NewDigester(img)
	p.payload = p.bytes
	return nil
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
		if err := j.wait(ctx); err != nil {
			return err
		}
		return j.register(ctx)
	})
}

// wait asks whether the copy is wanted after all. From then on it can be resumed.
func (j *job) wait(ctx context.Context) error {
	if j.spec.Wait == nil {
		return nil
	}
	if err := j.spec.Wait(ctx); err != nil {
		return err
	}
	j.spec.Wait = nil
	j.keepRequest()
	return j.live.Update(func(*jobs.Record) {})
}

// transfer sends the payloads; of uploads that an earlier run has begun, what is
// missing.
func (j *job) transfer(ctx context.Context) (err error) {
	total, before := j.besideBytes(), int64(0)
	for _, p := range j.pieces {
		total += p.payload.Size()
	}
	pace := newPacer(j.spec.Rate.Send) // of all pieces together
	for _, b := range j.beside {       // first, for the image names them
		if err := j.transferBeside(ctx, b, pace, func(done int64) { j.progress(stageSend, before+done, total) }); err != nil {
			return fmt.Errorf("%s: %w", b.role, err)
		}
		before += b.payload.Size()
	}
	for _, p := range j.pieces {
		spec := j.uploadSpec(p)
		if p.upload, err = j.beginUpload(ctx, spec); err != nil {
			return err
		}
		out := j.site.traffic.outgoing(ctx, p.payload, pace)
		if err := p.upload.Send(ctx, out, func(done int64) { j.progress(stageSend, before+done, total) }); err != nil {
			return err
		}
		before += p.payload.Size()
	}
	return nil
}

// beginUpload takes up the upload that an earlier run has begun, or begins one.
func (j *job) beginUpload(ctx context.Context, spec providers.Spec) (providers.Upload, error) {
	u, err := j.again(ctx, spec)
	if err != nil || u != nil {
		return u, err
	}
	if u, err = j.uploader.Begin(ctx, spec); err != nil {
		return nil, err
	}
	made := jobs.Made{What: madeUpload, Site: j.spec.Site, Token: u.Token(), Disk: spec.Disk, Role: spec.Role}
	return u, j.live.Update(func(r *jobs.Record) { r.Made = append(r.Made, made) })
}

// uploadSpec says what the upload of a piece will be.
func (j *job) uploadSpec(p *piece) providers.Spec {
	spec := providers.Spec{
		Job: j.rec.ID, Name: j.spec.Name, Format: p.format, Store: j.store(p.format), Size: p.payload.Size(), Mtime: j.spec.Mtime,
		Disk: p.to, Device: p.device, Replaces: p.replaces, Whole: p.whole && p.replaces != nil,
	}
	if p.to == 0 {
		spec.Metadata, spec.Companions = j.metadata(p), j.uploadsBeside()
	}
	return spec
}

// again finds the upload that an earlier run has begun, nil where there is none
// any longer.
func (j *job) again(ctx context.Context, spec providers.Spec) (providers.Upload, error) {
	for i, m := range j.rec.Made {
		if m.What != madeUpload || m.Disk != spec.Disk || m.Role != spec.Role {
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
// the digest of each virtual disk, which reads the whole of it: damage inside a
// container that is passed on as it is shows now.
func (j *job) verify(ctx context.Context) error {
	for _, p := range j.pieces {
		if err := j.verifyPiece(ctx, p); err != nil {
			if len(j.pieces) > 1 {
				err = fmt.Errorf("disk %d: %w", p.to, err)
			}
			return err
		}
	}
	if err := j.verifyBeside(ctx); err != nil || len(j.pieces) == 0 {
		return err
	}
	// What came along with the source, where all of it was read, or is read now.
	var from []int
	for _, p := range j.pieces {
		from = append(from, p.from)
	}
	if j.pieces[0].format == formatOVA {
		from = nil
	}
	if err := j.src.verifyContainers(ctx, from...); err != nil {
		return err
	}
	j.live.Note(func(r *jobs.Record) {
		for i, p := range j.pieces {
			if i < len(r.Disks) {
				r.Disks[i].BytesDigest, r.Disks[i].GuestDigest = p.sent, p.digest
			}
		}
		r.BytesDigest, r.GuestDigest = j.pieces[0].sent, j.pieces[0].digest
	})
	return nil
}

func (j *job) verifyPiece(ctx context.Context, p *piece) error {
	var err error
	if p.sent, err = p.bytes.Sum(ctx); err != nil {
		return err
	}
	if err := judge(ctx, p.upload, p.sent); err != nil {
		return err
	}
	p.digest, err = j.guestDigest(ctx, p)
	return err
}

// guestDigest is the digest of the disk of a piece, of a machine the boot disk, as it
// was read now. Where an earlier one of the same image is known, the two must agree.
func (j *job) guestDigest(ctx context.Context, p *piece) (string, error) {
	var now string
	var err error
	switch {
	case p.guest != nil:
		now, err = p.guest.Sum(ctx)
	case p.format == formatRaw, isAlone(p.format):
		now = p.sent
	default:
		now, err = disk.Sum(ctx, j.src.disk(p.from), nil)
	}
	if err != nil {
		return "", fmt.Errorf("digest virtual disk: %w", err)
	}
	if v := j.spec.From; v != nil && !v.Ref.Entry.Live() && v.Settled() {
		r := v.Ref
		r.Disk = p.from
		if old := j.p.KnownDigest(r); old != "" && old != now {
			err := disk.Errorf(disk.Malformed, "read source: digest %s, it was %s before", now, old)
			return "", disk.Hint(err, "the storage of the source gives other bytes than before: check it")
		}
		j.p.keepDigest(r, now)
	}
	return cmp.Or(now, p.sent), nil
}

// register makes all that was sent appear. What has appeared when a later piece fails
// is removed again, as far as it took nobody's place.
func (j *job) register(ctx context.Context) error {
	if len(j.pieces) == 0 {
		return j.registerBeside(ctx)
	}
	var last providers.Entry
	for _, p := range j.order() {
		e, err := p.upload.Commit(ctx)
		if err != nil {
			return err
		}
		p.upload, p.made, last = nil, &e, e
	}
	for _, p := range j.pieces {
		p.made = nil
	}
	if !j.bootSent() {
		if err := j.registerBeside(ctx); err != nil {
			return err
		}
	}
	for _, b := range j.beside { // they have appeared with the image
		b.upload = nil
	}
	if last.Kind == providers.Images {
		last = j.p.applyHeld(ctx, j.spec.Site, j.spec.Name, last)
	}
	j.live.Note(func(r *jobs.Record) { r.Entry = &last })
	j.p.Forget(j.spec.Site)
	if j.grows != nil {
		j.carryKept(*j.grows, last)
	}
	for _, p := range j.pieces {
		n := p.to
		if last.Kind == providers.Disks {
			n = 0
		}
		j.p.keepDigest(Ref{Site: j.spec.Site, Entry: last, Disk: n}, p.digest)
	}
	j.noteSet(last)
	return nil
}

// carryKept gives what is known of the disks that an image had to its new version, as
// far as they are still the same.
func (j *job) carryKept(old, now providers.Entry) {
	for n := range min(max(1, len(old.Disks)), len(now.Disks)) {
		was := providers.DiskInfo{Size: old.Size, Updated: old.Updated}
		if n < len(old.Disks) {
			was = old.Disks[n]
		}
		if is := now.Disks[n]; is.Size != was.Size || is.Updated.IsZero() || !is.Updated.Equal(was.Updated) {
			continue
		}
		if sum := j.p.KnownDigest(Ref{Site: j.spec.Site, Entry: old, Disk: n}); sum != "" {
			j.p.keepDigest(Ref{Site: j.spec.Site, Entry: now, Disk: n}, sum)
		}
	}
}

// noteSet says what has become of data disks: of one that waits, and of those that
// have waited for the boot disk.
func (j *job) noteSet(e providers.Entry) {
	switch {
	case e.Kind == providers.Disks:
		j.note("disk %d waits: it is a part of image %q as soon as that has a boot disk and all disks before it", e.Waiting.Number, e.Name)
		j.p.noteWaiting(j.spec.Site, e)
	case j.waiting > 0 && len(e.Disks) > len(j.pieces):
		j.note("%d data disks, which have waited for it, are a part of the image now", len(e.Disks)-len(j.pieces))
	}
}

// undo removes a piece of a job that has failed.
func (j *job) undo(ctx context.Context, p *piece) error {
	if p.upload != nil {
		return p.upload.Abort(ctx)
	}
	if p.made == nil || p.to == 0 || p.replaces != nil {
		return nil
	}
	n := p.to
	if p.made.Kind == providers.Disks {
		n = 0
	}
	err := j.keeper.DeleteDisk(ctx, *p.made, n)
	j.p.Forget(j.spec.Site)
	return err
}
