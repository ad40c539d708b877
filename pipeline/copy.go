package pipeline

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"chromogenic/disk"
	"chromogenic/formats/layout"
	"chromogenic/providers"
)

// A CopySpec says what to copy where. Either From or Image is set.
type CopySpec struct {
	From   *View      // an image or instance of a site, in the format the user named; it stays the caller's
	Image  disk.Image // bytes from outside any site, which stay the caller's
	Format string     // with Image: what the user says the bytes are ("raw", "qcow2"…), from the extension
	Origin string     // with Image: where the bytes come from, for people: a path

	Site, Name string           // the destination: always its images
	Store      string           // overrides the provider's store: "", "source" or a format
	Clean      string           // overrides the site's policy
	Mtime      time.Time        // kept with the image; zero is now
	Replaces   *providers.Entry // an image that the same writer made a moment ago, unfinished: it goes, the new one takes its name

	Progress func(Progress) // may be nil; called often, from any goroutine
}

// A job is one copy under way: its spec, its record, and what each stage leaves
// for the next.
type job struct {
	p    *Pipeline
	spec CopySpec
	rec  *Record

	src      *core // the source; of bytes from outside and of captures, one made for this job
	held     *core // the view's core, kept open as long as the job
	uploader providers.Uploader
	site     *site
	format   string     // of what is stored
	payload  disk.Image // the bytes to send
	bytes    *disk.Digester
	guest    *disk.Digester // over the disk that is copied, the boot disk of several; nil when the payload does not read it
}

// Copy runs one copy to its end. When it returns without an error the image is
// registered under its name and verified; with one, nothing of it is there. The
// record tells more, and is returned in both cases.
//
// A name that exists already with the same disk is a success without work;
// with another it fails with Exists.
func (p *Pipeline) Copy(ctx context.Context, spec CopySpec) (rec *Record, err error) {
	j := p.newJob(spec)
	rec = j.rec
	defer func() { rec.finish(err) }()

	if err := j.stage("checking the destination", func() error { return j.checkDestination(ctx) }); err != nil {
		return rec, err
	}
	defer j.done()
	if err := j.stage("opening the source", func() error { return j.open(ctx) }); err != nil {
		return rec, err
	}
	if err := j.stage("comparing", func() error { return j.compare(ctx) }); err != nil || rec.Unchanged {
		return rec, err
	}
	if err := j.clean(); err != nil {
		return rec, err
	}
	j.skip("validating", "there is no validation yet")
	j.skip("converting", "there is no guest conversion yet")
	if err := j.stage("laying out", j.layOut); err != nil {
		return rec, err
	}
	return rec, j.upload(ctx)
}

// Plan tells what Copy would do and changes nothing.
func (p *Pipeline) Plan(ctx context.Context, spec CopySpec) (rec *Record, err error) {
	j := p.newJob(spec)
	rec = j.rec
	defer func() { rec.finish(err) }()
	defer j.done()
	for _, do := range []func() error{
		func() error { return j.checkDestination(ctx) },
		j.look,
		j.layOut,
	} {
		if err := do(); err != nil {
			return rec, err
		}
	}
	rec.State = statePlanned
	note := ""
	if taken, err := j.taken(ctx); err != nil {
		return rec, err
	} else if len(taken) > 0 {
		note = "the name exists: a success without work if it holds the same disk, refused otherwise"
	}
	for _, s := range []Stage{
		{Name: "checking the destination"},
		{Name: "opening the source"},
		{Name: "comparing", Note: note},
		{Name: "laying out", Note: j.format},
		{Name: "sending", Note: fmt.Sprintf("%d bytes", rec.Bytes)},
		{Name: "verifying"},
		{Name: "registering"},
	} {
		s.Outcome = outcomePlanned
		rec.Stages = append(rec.Stages, s)
	}
	return rec, nil
}

func (p *Pipeline) newJob(spec CopySpec) *job {
	rec := &Record{
		Schema: recordSchema, ID: NewID(), State: stateRunning, Started: time.Now(),
		Source: spec.Origin, Destination: fmt.Sprintf("%s:images/%s", spec.Site, spec.Name),
	}
	if v := spec.From; v != nil {
		rec.Source = fmt.Sprintf("%s:%s/%s.%s", v.Ref.Site, v.Ref.Entry.Kind, v.Ref.Entry.Name, v.Ref.Format)
	}
	return &job{p: p, spec: spec, rec: rec}
}

// stage runs one step and writes it into the record.
func (j *job) stage(name string, do func() error) error {
	j.progress(name, 0, 0)
	start := time.Now()
	err := do()
	s := Stage{Name: name, Outcome: outcomeDone, Took: time.Since(start)}
	if err != nil {
		s.Outcome, s.Note = outcomeFailed, err.Error()
		err = fmt.Errorf("copy %s to %s: %w", j.rec.Source, j.rec.Destination, err)
	}
	j.rec.Stages = append(j.rec.Stages, s)
	return err
}

// skip records a step that was not taken.
func (j *job) skip(name, why string) {
	j.rec.Stages = append(j.rec.Stages, Stage{Name: name, Outcome: outcomeNotDone, Note: why})
}

func (j *job) progress(stage string, done, total int64) {
	if j.spec.Progress != nil {
		j.spec.Progress(Progress{Stage: stage, Done: done, Total: total})
	}
}

// checkDestination refuses what can be known to fail before any work.
func (j *job) checkDestination(context.Context) error {
	var err error
	if j.site, err = j.p.site(j.spec.Site); err != nil {
		return err
	}
	up, ok := j.site.provider.(providers.Uploader)
	if !ok {
		return disk.Errorf(disk.Unsupported, "send to provider %q: it takes no images", j.spec.Site)
	}
	if j.spec.Name == "" {
		return disk.Errorf(disk.Invalid, "send to provider %q: the image has no name", j.spec.Site)
	}
	j.uploader = up
	return nil
}

// open makes the source ready: that of a site is captured first if it is a live
// machine; bytes from outside are taken apart as the format that was stated.
func (j *job) open(ctx context.Context) error {
	if err := j.openSource(ctx); err != nil {
		return err
	}
	src, err := j.src.lease.get(ctx)
	if err != nil {
		return err
	}
	return src.machine.Verify(ctx)
}

// look is open for a plan: it captures nothing and reads no content.
func (j *job) look() error {
	if v := j.spec.From; v != nil {
		j.p.retain(v.core)
		j.held, j.src = v.core, v.core
	} else if err := j.openBytes(); err != nil {
		return err
	}
	j.rec.VirtualSize = j.src.facts.Disks[0].Size
	return nil
}

func (j *job) openSource(ctx context.Context) error {
	if err := j.look(); err != nil || j.spec.From == nil {
		return err
	}
	src, err := j.held.lease.get(ctx)
	if err != nil || j.held.Ref.Entry.Kind == providers.Images {
		return err
	}
	// The view of a live machine is dense; its capture has the holes it has.
	e := j.held.Ref.Entry
	e.Kind = providers.Images
	return j.own(src, e)
}

// openBytes takes apart what comes from outside any site.
func (j *job) openBytes() error {
	if s, ok := j.spec.Image.(spoolImage); ok {
		if err := s.whole(); err != nil {
			return err
		}
	}
	src, err := decode(providers.Source{Image: j.spec.Image, Format: j.spec.Format}, trust{ambiguous: true})
	if err != nil {
		return err
	}
	if src.format.Name == formatRaw {
		if err := checkWhole(src); err != nil {
			return err
		}
	}
	return j.own(src, providers.Entry{Kind: providers.Images, Name: j.spec.Name})
}

// own makes a core of a source that stays somebody else's to close.
func (j *job) own(src *source, e providers.Entry) error {
	f, err := learn(src, e)
	if err != nil {
		return err
	}
	j.src = &core{p: j.p, facts: f, seed: SeedOf(f.Disks[0].Map)}
	j.src.Ref = Ref{Entry: e, Format: f.Format}
	j.src.lease = &lease{ctx: j.p.ctx, src: src, keep: true}
	return nil
}

// SeedOf derives the seed of a layout from what the disk is, for an image that
// has no id: its virtual size and allocation map.
func SeedOf(m *layout.Map) []byte {
	enc, err := m.MarshalBinary()
	if err != nil {
		enc = nil // never happens: the encoding is in memory
	}
	sum := sha256.Sum256(enc)
	return sum[:]
}

// done lets go of the source.
func (j *job) done() {
	if j.held != nil {
		j.p.drop(j.held)
	}
}

// clean says what becomes of the guest's secrets: nothing yet. Who requires
// cleaning is refused, for an image never goes uncleaned in silence.
func (j *job) clean() error {
	policy := cmp.Or(j.spec.Clean, j.site.clean)
	if policy == "require" {
		err := disk.Errorf(disk.Unsupported, "clean image: this version cannot clean, and the policy requires it")
		return disk.Hint(err, "copy into images.verbatim/, or with --clean off")
	}
	j.skip("cleaning", "policy "+policy+": there is no cleaner yet")
	return nil
}

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

// upload sends, verifies and registers. What it made is removed unless all of it
// succeeds.
func (j *job) upload(ctx context.Context) (err error) {
	if old := j.spec.Replaces; old != nil {
		if err := j.stage("withdrawing what the same writer left unfinished", func() error { return j.withdraw(ctx, *old) }); err != nil {
			return err
		}
	}
	var up providers.Upload
	defer func() {
		if err == nil || up == nil {
			return
		}
		if e := up.Abort(context.WithoutCancel(ctx)); e != nil {
			err = errors.Join(err, fmt.Errorf("remove what was sent: %w", e))
		}
	}()
	total := j.payload.Size()
	err = j.stage("sending", func() (err error) {
		up, err = j.uploader.Begin(ctx, providers.Spec{
			Job: j.rec.ID, Name: j.spec.Name, Format: j.format, Store: j.spec.Store, Size: total, Meta: j.src.facts.Meta, Mtime: j.spec.Mtime,
		})
		if err != nil {
			return err
		}
		return up.Send(ctx, j.payload, func(done int64) { j.progress("sending", done, total) })
	})
	if err != nil {
		return err
	}
	if err = j.stage("verifying", func() error { return j.verify(ctx, up) }); err != nil {
		return err
	}
	return j.stage("registering", func() error {
		e, err := up.Commit(ctx)
		if err != nil {
			return err
		}
		j.rec.Entry = &e
		j.p.Forget(j.spec.Site)
		j.p.keepDigest(j.spec.Site, e, 0, j.rec.GuestDigest)
		return nil
	})
}

// withdraw removes an image that this writer published before it was finished.
func (j *job) withdraw(ctx context.Context, e providers.Entry) error {
	d, ok := j.site.provider.(providers.Deleter)
	if !ok {
		return disk.Errorf(disk.Exists, "replace image %q: the provider cannot delete", e.Name)
	}
	if err := d.Delete(ctx, e); err != nil && disk.KindOf(err) != disk.NotFound {
		return err
	}
	j.p.Forget(j.spec.Site)
	return nil
}

// verify compares what the destination holds with what was read here, and fixes
// the digest of the virtual disk, which reads the whole of it: damage inside a
// container that is passed on as it is shows now.
func (j *job) verify(ctx context.Context, up providers.Upload) error {
	sent, err := j.bytes.Sum(ctx)
	if err != nil {
		return err
	}
	got, err := up.Verify(ctx)
	if err != nil {
		return err
	}
	if got.Algorithm != disk.DigestAlgorithm {
		return disk.Errorf(disk.Other, "verify image: the destination gives a digest by %q, which cannot be compared", got.Algorithm)
	}
	if got.Sum != sent {
		return disk.Errorf(disk.Malformed, "verify image: the destination holds bytes of digest %s, %s was sent", got.Sum, sent)
	}
	j.rec.BytesDigest = sent
	guest, err := j.guestDigest(ctx, sent)
	if err != nil {
		return err
	}
	j.rec.GuestDigest = guest
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
	if v := j.spec.From; v != nil && v.Ref.Entry.Kind == providers.Images && v.Settled() {
		if old := j.p.KnownDigest(v.Ref); old != "" && old != now {
			err := disk.Errorf(disk.Malformed, "read source: digest %s, it was %s before", now, old)
			return "", disk.Hint(err, "the storage of the source gives other bytes than before: check it")
		}
		j.p.keepDigest(v.Ref.Site, v.Ref.Entry, v.Ref.Disk, now)
	}
	return cmp.Or(now, sent), nil
}
