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

	Site, Name string           // the destination: always its images
	Store      string           // overrides the provider's store: "", "source" or a format
	Clean      string           // overrides the site's policy
	Rate       Rate             // of this copy, besides the limits of the providers
	Replace    bool             // another image of that name goes when this one, verified, takes its place
	Mtime      time.Time        // kept with the image; zero is now
	Scratch    int64            // bytes of scratch space that the source has taken
	Replaces   *providers.Entry // an image that the same writer made a moment ago, unfinished: it goes when the new one, verified, takes its name

	Until    string         // the last stage to take, a name of Stages; the job waits then, to be taken up with Resume. Empty is all
	record   *jobs.Record   // of an earlier run that is taken up
	Progress func(Progress) // may be nil; called often, from any goroutine
}

// The stages of a copy, in their order.
const (
	stageCheck    = "check"    // what can be known to fail
	stageOpen     = "open"     // the source; an instance is captured
	stageCompare  = "compare"  // with what has the name already
	stageClean    = "clean"    // the guest
	stageValidate = "validate" // that it can boot
	stageConvert  = "convert"  // its drivers
	stageLayOut   = "layout"   // the container
	stageSend     = "send"
	stageVerify   = "verify"
	stageRegister = "register"
)

// Stages are the names of the stages of a copy, in their order.
func Stages() []string {
	return []string{stageCheck, stageOpen, stageCompare, stageClean, stageValidate, stageConvert, stageLayOut, stageSend, stageVerify, stageRegister}
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
// with another it fails with Exists.
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
	if err := j.stage(stageCompare, func() error { return j.compare(ctx) }); err != nil || j.rec.Unchanged {
		return err
	}
	if err := j.clean(); err != nil {
		return err
	}
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
	if j.upload != nil {
		if err := j.upload.Abort(context.WithoutCancel(ctx)); err != nil {
			return errors.Join(taken, fmt.Errorf("remove what was sent: %w", err))
		}
		j.upload = nil
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
	for _, do := range []func() error{
		func() error { return j.check(ctx) },
		j.look,
		j.layOut,
	} {
		if err := do(); err != nil {
			return rec, err
		}
	}
	rec.State = jobs.Planned
	notes := map[string]string{stageLayOut: j.format, stageSend: fmt.Sprintf("%d bytes", rec.Bytes)}
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
