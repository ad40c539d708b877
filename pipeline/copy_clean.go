package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"chromogenic/cleaner"
	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// cleaning is whether the guest is cleaned: the policy, and why it is cleanOff.
func (j *job) cleaning() (policy, why string) {
	v := j.spec.From
	policy = cmp.Or(j.spec.Clean, j.site.clean)
	switch {
	case policy == cleanOff:
		return cleanOff, "policy off"
	case v != nil && v.Ref.Cleaned != "":
		return cleanOff, "the source is cleaned already"
	case j.spec.Role != "":
		return cleanOff, "a " + string(j.spec.Role) + " is no guest"
	case isAlone(j.src.facts.Format):
		return cleanOff, "a disc is no guest"
	case policy != cleanAuto:
		return policy, ""
	}
	if v == nil {
		return cleanOff, "policy auto, from outside of the providers"
	}
	from, err := j.p.site(v.Ref.Site)
	switch {
	case err != nil || !from.made.Cloud:
		return cleanOff, "policy auto, from a folder"
	case !j.site.made.Cloud:
		return cleanOff, "policy auto, into a folder"
	case v.Ref.Entry.Kind == providers.Instances:
		return cleanRequire, ""
	case v.Ref.Site == j.spec.Site:
		return cleanOff, "policy auto, within one cloud"
	}
	return cleanRequire, ""
}

// clean takes the stage: it puts the cleaned disk in the place of the source. Under
// cleanBestEffort a guest that cannot be cleaned is copied as it is, and the record says
// so; under no other policy.
func (j *job) clean(ctx context.Context) error {
	policy, why := j.cleaning()
	if policy == cleanOff {
		if v := j.spec.From; v != nil && v.Ref.Cleaned != "" {
			j.cleaned(v.Ref)
		}
		return j.skip(stageClean, why)
	}
	return j.stage(stageClean, func() error {
		err := j.cleanBy(ctx, policy)
		if err == nil || policy != cleanBestEffort || ctx.Err() != nil {
			return err
		}
		j.note("the guest is NOT cleaned: %v", err)
		return nil
	})
}

// cleanBy cleans the source. That of an image is kept, for the next copy of it and for
// who takes this one up again: it is the view of images.cleaned/.
func (j *job) cleanBy(ctx context.Context, policy string) error {
	if n := j.diskOf(); n > 0 || j.spec.Disk > 0 {
		err := disk.Errorf(disk.Unsupported, "clean image: disk %d is a data disk, and only a boot disk can be cleaned", max(n, j.spec.Disk))
		return disk.Hint(err, waysOn)
	}
	if v := j.spec.From; v != nil && !v.Ref.Entry.Live() {
		return j.cleanImage(ctx, policy)
	}
	src, err := j.src.lease.get(ctx)
	if err != nil {
		return err
	}
	o, report, err := j.p.cleanSource(ctx, src, policy)
	if err != nil {
		return err
	}
	j.closers = append(j.closers, o.Close)
	e := j.src.Ref.Entry
	if err := j.own(src.with(o), e); err != nil {
		return err
	}
	j.src.facts = j.src.facts.cleaned()
	j.report(report)
	return nil
}

// cleanImage takes the cleaned view of the image for the source.
func (j *job) cleanImage(ctx context.Context, policy string) error {
	ref := j.p.cleanedRef(j.spec.From.Ref, policy)
	v, err := j.p.View(ctx, ref)
	if err != nil {
		return err
	}
	j.closers = append(j.closers, v.Close)
	j.src, j.spec.From = v.core, v
	j.pace(ctx)
	j.cleaned(ref)
	return nil
}

// cleaned notes that the source is a cleaned view.
func (j *job) cleaned(r Ref) {
	if rec, ok := j.p.knownPatch(r.versionKey()); ok {
		j.report(rec.Report)
	}
}

// report keeps what the cleaner has told.
func (j *job) report(report json.RawMessage) {
	j.live.Note(func(r *jobs.Record) { r.Cleaned, r.Cleaning = true, report })
	var said cleaner.Report
	if json.Unmarshal(report, &said) == nil {
		for _, w := range said.Warnings {
			j.note("cleaning: %s", w)
		}
	}
}

// planClean tells what cleaning would touch, which it looks for in the guest.
func (j *job) planClean(ctx context.Context) (note string, err error) {
	policy, why := j.cleaning()
	if policy == cleanOff {
		return "not cleaned: " + why, nil
	}
	if v := j.spec.From; v != nil && v.Ref.Entry.Live() {
		return "policy " + policy + ": what is touched shows when the machine is captured", nil
	}
	src, err := j.src.lease.get(ctx)
	if err != nil {
		return "", err
	}
	said, err := j.p.planCleaning(ctx, src, policy)
	if err != nil {
		if policy == cleanBestEffort {
			return fmt.Sprintf("policy %s: not cleaned: %v", policy, err), nil
		}
		return "", err
	}
	files, bytes := said.Totals()
	return fmt.Sprintf("policy %s: %d files, %d bytes", policy, files, bytes), nil
}
