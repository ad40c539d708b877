package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// A CopySpec says what to copy where. Either From or Image is set.
type CopySpec struct {
	From   *View      // an image or instance of a site, in the format the user named; it stays the caller's
	Image  disk.Image // bytes from outside any site, which stay the caller's
	Format string     // with Image: what the user says the bytes are ("raw", "qcow2"…), from the extension
	Origin string     // where the bytes come from, for people: a path; with From, if that is not where it is
	File   string     // with Image: the absolute path of the plain file that it is, so that a copy which is cut off can go on; empty for others

	Machine    bool             // with From: all disks of its image are asked for, as with an ova, and not the one that it shows
	Site, Name string           // the destination: always its images
	Disk       int              // the number that the disk will have: 0 for an image, or a boot disk; more for a data disk of the image of that name
	Device     string           // of a data disk; empty for no name
	Role       providers.Role   // with Image: it is no disk, but a kernel or a ramdisk of the image of that name
	Note       string           // for the record: what the user should know of this copy; may be empty
	Store      string           // overrides the provider's store: "", "source" or a format
	Clean      string           // overrides the site's policy
	Rate       Rate             // of this copy, besides the limits of the providers
	Replace    bool             // another image of that name goes when this one, verified, takes its place
	Mtime      time.Time        // kept with the image; zero is now
	Scratch    int64            // bytes of scratch space that the source has taken
	Replaces   *providers.Entry // an image that the same writer made a moment ago, unfinished: it goes when the new one, verified, takes its name

	// Wait is asked when everything is verified and nothing has appeared yet: an error of
	// it undoes the copy, which cannot be resumed before that. Nil lets it go on.
	Wait func(context.Context) error

	Until    string         // the last stage to take, a name of Stages; the job waits then, to be taken up with Resume. Empty is all
	record   *jobs.Record   // of an earlier run that is taken up
	Progress func(Progress) // may be nil; called often, from any goroutine
}

// The stages of a copy, in their order.
const (
	stageCheck    = "check"    // what can be known to fail
	stageOpen     = "open"     // the source; an instance is captured
	stageClean    = "clean"    // the guest
	stageCompare  = "compare"  // with what has the name already
	stageValidate = "validate" // that it can boot
	stageConvert  = "convert"  // its drivers
	stageLayOut   = "layout"   // the container
	stageSend     = "send"
	stageVerify   = "verify"
	stageRegister = "register"
)

// Stages are the names of the stages of a copy, in their order.
func Stages() []string {
	return []string{stageCheck, stageOpen, stageClean, stageCompare, stageValidate, stageConvert, stageLayOut, stageSend, stageVerify, stageRegister}
}

// StagesOf are the names of the stages of a job.
func StagesOf(r *jobs.Record) []string {
	if r.Stage == stageRemove {
		return []string{stageRemove}
	}
	return Stages()
}

// Copy runs one copy to its end. When it returns without an error the image is
// registered under its name and verified; with one, nothing of it is there. The
// record tells more, and is returned in both cases.
//
// A name that exists already with the same disk is a success without work;
// with another it fails with Exists. Of a machine of several disks those that are
// missing in the image of the name are added to it, where the provider can
// (providers.SetKeeper).
//
// A copy that stops after the stage Until, or whose process is told to end
// (Suspend), leaves what it has made, and its record says Interrupted.
func (p *Pipeline) Copy(ctx context.Context, spec CopySpec) (rec *jobs.Record, err error) {
	j, ctx, err := p.begin(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer func() { err = j.end(ctx, err) }()
	return j.rec, j.run(ctx)
}

// run takes the stages.
func (j *job) run(ctx context.Context) error {
	if err := j.stage(stageCheck, func() error { return j.check(ctx) }); err != nil {
		return err
	}
	if err := j.stage(stageOpen, func() error { return j.open(ctx) }); err != nil {
		return err
	}
	if err := j.clean(ctx); err != nil {
		return err
	}
	if err := j.stage(stageCompare, func() error { return j.compare(ctx) }); err != nil || j.rec.Unchanged {
		return err
	}
	j.noteAlone()
	if err := j.skip(stageValidate, "there is no validation yet"); err != nil {
		return err
	}
	if err := j.skip(stageConvert, "there is no guest conversion yet"); err != nil {
		return err
	}
	if err := j.stage(stageLayOut, j.layOut); err != nil {
		return err
	}
	err := j.send(ctx)
	if disk.KindOf(err) == disk.Exists {
		return j.late(ctx, err)
	}
	return err
}

// late is the end of a copy whose name another writer has taken meanwhile. If that
// one has stored the same disk there is nothing left to do.
func (j *job) late(ctx context.Context, taken error) error {
	for _, p := range j.pieces {
		if err := j.undo(context.WithoutCancel(ctx), p); err != nil {
			return errors.Join(taken, fmt.Errorf("remove what was sent: %w", err))
		}
		p.upload, p.made = nil, nil
	}
	if err := j.undoBeside(context.WithoutCancel(ctx)); err != nil {
		return errors.Join(taken, fmt.Errorf("remove what was sent: %w", err))
	}
	j.p.Forget(j.spec.Site) // what it lists is older than the other image
	if err := j.stage(stageCompare, func() error { return j.compare(ctx) }); err != nil || j.rec.Unchanged {
		return err
	}
	return taken
}

// Plan tells what Copy would do and changes nothing.
func (p *Pipeline) Plan(ctx context.Context, spec CopySpec) (rec *jobs.Record, err error) {
	j := p.newJob(spec)
	rec = j.rec
	defer func() { rec.Finish(err) }()
	defer j.done()
	var cleaning string
	for _, do := range []func() error{
		func() error { return j.check(ctx) },
		j.look,
		func() (err error) {
			cleaning, err = j.planClean(ctx)
			return err
		},
		j.ask,
		func() error { return j.gather(ctx, nil) },
		j.layOut,
	} {
		if err := do(); err != nil {
			return rec, err
		}
	}
	j.noteAlone()
	rec.State = jobs.Planned
	notes := map[string]string{stageClean: cleaning, stageLayOut: rec.Format, stageSend: fmt.Sprintf("%d bytes", rec.Bytes)}
	if n := len(rec.Disks); n > 1 {
		notes[stageLayOut] += fmt.Sprintf(", %d disks", n)
	}
	if taken, err := j.taken(ctx); err != nil {
		return rec, err
	} else if len(taken) > 0 {
		notes[stageCompare] = "the name exists: a success without work if it holds the same disk, refused otherwise"
		if spec.Replace {
			notes[stageCompare] = "the name exists: a success without work if it holds the same disk, replaced otherwise"
		}
	}
	for _, name := range Stages() {
		rec.Stages = append(rec.Stages, jobs.Stage{Name: name, Outcome: jobs.OutcomePlanned, Note: notes[name]})
	}
	return rec, nil
}
