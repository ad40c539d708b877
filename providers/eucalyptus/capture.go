package eucalyptus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2"
)

// bundleTime is how long the cloud may take to bundle an instance: it stops it, compresses
// the whole disk, and stores it.
const bundleTime = 4 * time.Hour

// Snapshot captures an instance, for reading only: from its node where these let us in, and
// otherwise as a bundle that the cloud makes, which restarts the instance. Release removes
// it.
func (p *Provider) Snapshot(ctx context.Context, e providers.Entry, spec providers.SnapSpec) (providers.Snapshot, error) {
	s, err := p.snapshot(ctx, e, spec)
	if err != nil {
		return providers.Snapshot{}, fmt.Errorf("capture %q: %w", e.Name, err)
	}
	return s, nil
}

func (p *Provider) snapshot(ctx context.Context, e providers.Entry, spec providers.SnapSpec) (providers.Snapshot, error) {
	i, err := p.capturable(ctx, e, spec)
	if err != nil {
		return providers.Snapshot{}, err
	}
	if p.o.Nodes != nil {
		return p.snapshotOfNode(ctx, i, spec)
	}
	taken := time.Now()
	j, err := p.bundleInstance(ctx, i, spec)
	if err != nil {
		return providers.Snapshot{}, err
	}
	b, err := p.openBundle(ctx, j.manifest())
	var src providers.Source
	if err == nil {
		src, err = b.source(ctx)
	}
	if err != nil {
		return providers.Snapshot{}, errors.Join(cloudsAlone(err), p.undoNow(ctx, j))
	}
	p.hold(j)
	return providers.Snapshot{
		ID: spec.Job + "/" + j.token, Taken: taken, Disks: []providers.Source{src}, Consistency: providers.Crash, Metadata: p.inherited(ctx, i),
	}, nil
}

// cloudsAlone adds what it means that the bundle of an instance cannot be opened.
func cloudsAlone(err error) error {
	if disk.KindOf(err) != disk.Denied {
		return err
	}
	e := disk.AsError(err)
	return &disk.Error{
		Kind: disk.Denied, RequestID: e.RequestID, Err: fmt.Errorf("this cloud has made the bundle for itself alone: %w", err),
		Hint: "the cloud can still make an image of it: chromogenic capture --image NAME --clean off; or have captures read from the nodes (nodes:)",
	}
}

// capturable is an instance that can be captured as it has to be.
func (p *Provider) capturable(ctx context.Context, e providers.Entry, spec providers.SnapSpec) (ec2.Instance, error) {
	if !e.Live() {
		return ec2.Instance{}, disk.Errorf(disk.Unsupported, "it is no live instance")
	}
	i, err := p.instance(ctx, e.ID)
	if err != nil {
		return i, err
	}
	if why := instanceReason(i); why != "" {
		return i, disk.Errorf(disk.Unsupported, "%s", why)
	}
	return i, better(spec)
}

// better refuses a capture that has to be more than one as after a power failure: what the
// cloud does to an instance before it reads its disk, it does not tell.
func better(spec providers.SnapSpec) error {
	switch {
	case spec.RequireStopped:
		return disk.Errorf(disk.Unsupported, "the cloud captures instances alone that are running")
	case spec.RequireFrozen:
		return disk.Errorf(disk.Unsupported, "its filesystems cannot be frozen: this cloud has no agent for that")
	}
	return nil
}

func (p *Provider) mayRestart(spec providers.SnapSpec) bool { return p.o.MayRestart || spec.MayRestart }

// bundleInstance has the cloud bundle an instance, and waits until all is there. The journal
// is of the bundle, locked.
func (p *Provider) bundleInstance(ctx context.Context, i ec2.Instance, spec providers.SnapSpec) (*journal, error) {
	if !p.mayRestart(spec) {
		err := disk.Errorf(disk.Policy, "this cloud stops an instance to capture it, and starts it again")
		return nil, disk.Hint(err, "chromogenic capture --yes-restart does it, and so does the policy of the configuration (restart: true)")
	}
	s, err := p.session(ctx)
	if err != nil {
		return nil, err
	}
	j, err := p.newJournal(s, spec.Job, i.ID, -1)
	if err != nil {
		return nil, err
	}
	if err := p.bundleTo(ctx, s, i, j); err != nil {
		return nil, errors.Join(err, p.undoNow(ctx, j))
	}
	return j, nil
}

// bundleTo does so into the folder of a journal.
func (p *Provider) bundleTo(ctx context.Context, s *session, i ec2.Instance, j *journal) error {
	if err := s.store.bucket(ctx, j.Bucket); err != nil {
		return err
	}
	prefix := j.Folder + j.Bundle
	policy := ec2.PolicyFor(j.Bucket, prefix, time.Now().Add(bundleTime))
	_, signature := ec2.SignPolicy(s.cred.secret, policy)
	task, err := s.ec2.BundleInstance(ctx, i.ID, ec2.BundleTarget{
		Bucket: j.Bucket, Prefix: prefix, AccessKey: s.cred.access, Policy: policy, Signature: signature,
	})
	if err != nil {
		return err
	}
	j.Task = task.ID
	if err := j.write(); err != nil {
		return errors.Join(err, p.cancelTask(ctx, s, task.ID))
	}
	if err := p.awaitTask(ctx, s, task); err != nil {
		return errors.Join(err, p.cancelTask(ctx, s, task.ID))
	}
	return nil
}

// awaitTask waits for the end of a task.
func (p *Provider) awaitTask(ctx context.Context, s *session, task ec2.BundleTask) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bundleTime, disk.Errorf(disk.Timeout, "the cloud has not bundled the instance in %v", bundleTime))
	defer cancel()
	missing := 0
	for {
		switch task.State {
		case ec2.BundleComplete:
			return nil
		case ec2.BundleFailed:
			return disk.Errorf(disk.Other, "the cloud could not bundle the instance: %s", cmp.Or(strings.TrimSpace(task.ErrorCode+" "+task.ErrorMessage), "it says no reason"))
		}
		if task.Done() {
			return disk.Errorf(disk.Cancelled, "somebody has cancelled task %s of the cloud", task.ID)
		}
		providers.Waits(ctx, strings.TrimSpace(task.State+" "+task.Progress))
		if err := pause(ctx, p.o.Poll); err != nil {
			return err
		}
		found, err := s.ec2.BundleTasks(ctx, task.ID)
		if err != nil && disk.KindOf(err) != disk.NotFound {
			return err
		}
		seen := false
		for _, t := range found {
			if t.ID == task.ID {
				task, seen = t, true
			}
		}
		if missing++; seen {
			missing = 0
		}
		if missing > 5 {
			return disk.Errorf(disk.Other, "the cloud knows nothing of task %s any more", task.ID)
		}
	}
}

// cancelTask ends a task, for a cancelled context too, and waits until the cloud stores
// nothing more of it. One that has ended is none.
func (p *Provider) cancelTask(ctx context.Context, s *session, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	err := s.ec2.CancelBundle(ctx, id)
	switch disk.KindOf(err) {
	case disk.NotFound, disk.Busy:
		return nil
	}
	for err == nil {
		var found []ec2.BundleTask
		found, err = s.ec2.BundleTasks(ctx, id)
		if err != nil || !slices.ContainsFunc(found, func(t ec2.BundleTask) bool { return t.ID == id && !t.Done() }) {
			break
		}
		err = pause(ctx, p.o.Poll)
	}
	return err
}

// undoNow is undo for a cancelled context too. What cannot be removed is left over.
func (p *Provider) undoNow(ctx context.Context, j *journal) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	err := p.undo(ctx, j)
	if err != nil {
		j.close()
	}
	return err
}

// hold keeps the journal of a snapshot locked until it is released.
func (p *Provider) hold(j *journal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[j.token] = j
}

// inherited is the metadata of what is captured of an instance: that of its image.
func (p *Provider) inherited(ctx context.Context, i ec2.Instance) providers.Metadata {
	r, err := p.record(ctx, i.Image)
	if err != nil { // it may be gone
		return providers.Metadata{Meta: disk.Meta{Arch: ourArch(i.Architecture), OSType: i.Platform}}
	}
	m := r.metadata()
	m.Meta.Visibility, m.MetaTime = "", time.Time{}
	return m
}

// Leftovers are the uploads, snapshots and images about to be committed that nobody works on
// any longer, by the job and the token, or the image's id.
func (p *Provider) Leftovers(ctx context.Context) ([]string, error) {
	tokens, err := p.journals()
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	var ids []string
	var errs []error
	at := map[place]bool{}
	for _, token := range tokens {
		j, err := p.journal(token)
		switch disk.KindOf(err) {
		case disk.Busy, disk.NotFound:
			continue
		}
		if err != nil { // the others are no worse for it
			errs = append(errs, fmt.Errorf("look for leftovers: %w", err))
			continue
		}
		ids = append(ids, j.Job+"/"+token)
		at[j.manifest()] = true
		j.close()
	}
	all, err := p.ownRecords(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	for _, r := range all {
		state, job, _ := r.state()
		its, _ := r.bundle()
		if state == stateCommit && !at[its] && !p.working(&r) {
			ids = append(ids, job+"/"+r.ID)
		}
	}
	return ids, errors.Join(errs...)
}

// Release removes a snapshot, or one of Leftovers. One that is gone is released.
func (p *Provider) Release(ctx context.Context, id string) error {
	if err := p.release(ctx, id[strings.LastIndex(id, "/")+1:]); err != nil {
		return fmt.Errorf("release snapshot %q: %w", id, err)
	}
	return nil
}

func (p *Provider) release(ctx context.Context, token string) error {
	if token == nodeToken {
		return nil
	}
	p.mu.Lock()
	j := p.held[token]
	delete(p.held, token)
	p.mu.Unlock()
	if j == nil && strings.Contains(token, "-") {
		return p.releaseImage(ctx, token)
	}
	if j == nil {
		var err error
		if j, err = p.journal(token); disk.KindOf(err) == disk.NotFound {
			return nil
		} else if err != nil {
			return err
		}
		if s, err := p.session(ctx); j.Task != "" && err == nil {
			if err := p.cancelTask(ctx, s, j.Task); err != nil {
				j.close()
				return err
			}
		}
	}
	err := p.undo(ctx, j)
	if err != nil {
		j.close()
	}
	return err
}

// releaseImage removes an image that was never committed, with its bundle.
func (p *Provider) releaseImage(ctx context.Context, id string) error {
	s, err := p.session(ctx)
	if err != nil {
		return err
	}
	r, err := p.record(ctx, id)
	if disk.KindOf(err) == disk.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if state, _, _ := r.state(); state != stateCommit || !s.mine(r) {
		return disk.Errorf(disk.NotFound, "it is no snapshot")
	}
	return p.purge(ctx, s, r)
}
