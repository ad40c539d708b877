package eucalyptus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/ec2"
	"chromogenic/providers/internal/process"
)

// Commit stores the manifest, registers the image and gives it its name.
func (u *upload) Commit(ctx context.Context) (providers.Entry, error) {
	e, err := u.commit(ctx)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("commit upload of %.80q: %w", u.spec.Name, err)
	}
	return e, nil
}

func (u *upload) commit(ctx context.Context) (providers.Entry, error) {
	if u.spec.Role != "" {
		return u.commitCompanion(ctx)
	}
	if err := ctx.Err(); err != nil {
		return providers.Entry{}, context.Cause(ctx)
	}
	var own []string
	if old := u.spec.Replaces; old != nil {
		own = append(own, old.ID)
	}
	if err := u.p.refuseTaken(ctx, u.spec.Name, own...); err != nil {
		return providers.Entry{}, err
	}
	boots, err := u.boots(ctx)
	if err != nil {
		return providers.Entry{}, err
	}
	if err := u.register(ctx, bundle.Machine, boots); err != nil {
		return providers.Entry{}, err
	}
	c := committing{p: u.p, s: u.s, id: u.id, name: u.spec.Name, own: append(own, u.id)}
	if err := c.win(ctx); err != nil {
		return providers.Entry{}, err
	}
	if err := boots.finish(ctx, u); err != nil {
		return providers.Entry{}, err
	}
	if err := u.allow(ctx, boots); err != nil {
		return providers.Entry{}, err
	}
	description, _, err := kept(u.spec.Metadata, nil)
	if err == nil {
		err = u.s.ec2.SetDescription(ctx, u.id, description)
	}
	if err != nil {
		return providers.Entry{}, err
	}
	return u.committed(ctx)
}

// allow gives those of the configuration the permission to run the image, and what it boots
// with, as far as that is ours.
func (u *upload) allow(ctx context.Context, b boots) error {
	users := ec2.Permissions{Accounts: u.p.o.Users}
	if len(users.Accounts) == 0 {
		return nil
	}
	for _, id := range []string{b.kernel, b.ramdisk} {
		if id == "" {
			continue
		}
		r, err := u.p.record(ctx, id)
		if err == nil && u.s.mine(r) && !r.Public {
			err = u.s.ec2.ChangeLaunchPermissions(ctx, id, users, ec2.Permissions{})
		}
		if err != nil {
			return err
		}
	}
	return u.s.ec2.ChangeLaunchPermissions(ctx, u.id, users, ec2.Permissions{})
}

// committed ends an upload whose image is whole: from here on it stays.
func (u *upload) committed(ctx context.Context) (providers.Entry, error) {
	u.done = true
	u.p.own(u.id, false)
	err := u.j.remove()
	for _, c := range u.spec.Companions {
		if own, ok := c.(*upload); ok && own != nil {
			own.done = true
			own.p.own(own.id, false)
			err = errors.Join(err, own.j.remove())
		}
	}
	if err != nil {
		return providers.Entry{}, fmt.Errorf("the image is there, as %s: %w", u.id, err)
	}
	if old := u.spec.Replaces; old != nil {
		if err := u.p.delete(context.WithoutCancel(ctx), *old); err != nil && disk.KindOf(err) != disk.NotFound {
			return providers.Entry{}, fmt.Errorf("the image is there, as %s; remove the one that it replaces: %w", u.id, err)
		}
	}
	return u.p.listed(ctx, u.id)
}

// listed is an image as the listing shows it.
func (p *Provider) listed(ctx context.Context, id string) (providers.Entry, error) {
	entries, err := p.listImages(ctx)
	if err != nil {
		return providers.Entry{}, err
	}
	for _, e := range entries {
		if e.ID == id {
			return e, nil
		}
	}
	return providers.Entry{}, disk.Errorf(disk.Other, "image %s is not listed after it was registered", id)
}

// register stores the manifest and registers the image, marked as one that is about to be
// committed. One that a process before us has registered is taken up.
func (u *upload) register(ctx context.Context, kind string, b boots) error {
	if u.manifest == nil {
		return disk.Errorf(disk.Invalid, "nothing was sent")
	}
	all, err := u.p.ownRecords(ctx)
	if err != nil {
		return err
	}
	var others []record
	for _, r := range all {
		at, err := r.bundle()
		state, _, _ := r.state()
		if err != nil || at != u.j.manifest() || state != stateCommit {
			others = append(others, r)
			continue
		}
		if err := u.s.ec2.Deregister(ctx, r.ID); err != nil && disk.KindOf(err) != disk.NotFound { // of the process that this one resumes
			return err
		}
	}
	if err := u.putManifest(ctx, kind); err != nil {
		return err
	}
	wanted := u.spec.Name
	if u.spec.Role != "" {
		wanted = u.label()
	}
	reg := registration{at: u.j.manifest(), name: wanted, job: u.spec.Job, arch: cloudArch(u.spec.Meta.Arch), boots: b, kind: kind}
	r, err := u.p.register(ctx, u.s, reg, others)
	if err != nil {
		return err
	}
	u.id = r.ID
	own, err := ownTags(u.spec.Job, wanted, r.Name, u.spec.Size, u.spec.Mtime)
	if err != nil {
		return err
	}
	maps.Copy(own, b.tags())
	_, tags, err := kept(u.spec.Metadata, own)
	if err == nil {
		err = u.s.ec2.SetTags(ctx, []string{r.ID}, tags, nil)
	}
	return err
}

// putManifest completes the manifest and stores it behind all parts.
func (u *upload) putManifest(ctx context.Context, kind string) error {
	keys, err := u.s.sealing(ctx)
	if err != nil {
		return err
	}
	secret, err := u.j.secret()
	if err != nil {
		return err
	}
	m := *u.manifest
	m.Bundler = bundle.Bundler{Name: mark, Version: "1", Release: "1"}
	m.User, m.Type, m.Architecture = u.s.account, kind, defaultArch(cloudArch(u.spec.Meta.Arch))
	switch kind {
	case bundle.Kernel:
		m.KernelID = "true"
	case bundle.Ramdisk:
		m.RamdiskID = "true"
	}
	if err := m.Seal(secret, keys.cloud, keys.user); err != nil {
		return err
	}
	text, err := m.Encode(keys.signer)
	if err != nil {
		return err
	}
	return u.s.store.put(ctx, u.j.manifest(), text)
}

// defaultArch is what an image is registered as whose architecture nobody knows.
func defaultArch(s string) string {
	if s == "" {
		return "x86_64"
	}
	return s
}

// A registration is what an image is registered with.
type registration struct {
	at        place
	name, job string
	arch      string
	boots     boots
	kind      string
}

// register registers an image and makes sure that the cloud has done so: many of its
// actions answer with success and do nothing.
func (p *Provider) register(ctx context.Context, s *session, reg registration, all []record) (*record, error) {
	name := cloudName(reg.name, "")
	if slices.ContainsFunc(all, func(r record) bool { return r.Name == name }) { // of one that it replaces, or that has another name by now
		name = cloudName(reg.name, reg.at.key)
	}
	r := ec2.Registration{
		Name: name, Description: marked(stateCommit, reg.job, process.Name()), Location: reg.at.String(),
		Architecture: defaultArch(reg.arch),
	}
	switch {
	case reg.kind != bundle.Machine:
	case reg.boots.whole():
		r.Kernel, r.Ramdisk, r.Virtualization = reg.boots.kernel, reg.boots.ramdisk, "paravirtual"
	default:
		r.Virtualization = "hvm" // a whole disk: what is not said to be that, is taken for a partition
	}
	id, err := s.ec2.Register(ctx, r)
	if err != nil {
		if reg.kind != bundle.Machine && disk.KindOf(err) == disk.Denied {
			err = disk.Hint(&disk.Error{Kind: disk.Denied, RequestID: disk.AsError(err).RequestID, Err: err},
				"only the administrators of a cloud may register kernels and ramdisks: have one do it, or send a whole disk, which boots by itself")
		}
		return nil, err
	}
	p.own(id, true)
	now, err := p.record(ctx, id)
	switch {
	case err != nil:
		return nil, fmt.Errorf("look at image %s after it was registered: %w", id, err)
	case now.State != "available" && now.State != "pending":
		return nil, disk.Errorf(disk.Other, "image %s is %s after it was registered: %s", id, now.State, now.StateReason)
	case now.Type != "" && now.Type != reg.kind:
		return nil, disk.Errorf(disk.Other, "image %s was registered as a %s, not a %s", id, now.Type, reg.kind)
	case now.Location != reg.at.String():
		return nil, disk.Errorf(disk.Other, "image %s was registered of %q, not %s", id, now.Location, reg.at)
	case r.Virtualization != "" && now.Virtualization != "" && now.Virtualization != r.Virtualization:
		return nil, disk.Errorf(disk.Other, "image %s was registered as %s, not %s", id, now.Virtualization, r.Virtualization)
	}
	return now, nil
}

// rivalTime is how long a rival for a name may take to make up its mind; after that it is
// taken for dead.
const rivalTime = 30 * time.Second

// A committing is an image that wants its name.
type committing struct {
	p        *Provider
	s        *session
	id, name string
	own      []string // that are no rivals
}

// win waits until it is sure that nobody else takes the name. Several images may have one,
// as far as our tags go, so each that wants it says so first (stateCommit), and then looks.
// Of those who see each other the one of the least id goes on when all others are gone, and
// these withdraw; who sees one that has the name withdraws too. So one at most stays: of two,
// the later to say so sees the other.
func (c committing) win(ctx context.Context) error {
	for began := time.Now(); ; {
		found, err := c.p.named(ctx, c.name)
		if err != nil {
			return err
		}
		rivals := false
		for _, r := range found {
			state, _, _ := r.state()
			switch {
			case slices.Contains(c.own, r.ID):
			case state == "":
				return disk.Errorf(disk.Exists, "image %s has taken that name meanwhile", r.ID)
			case !c.p.working(&r): // a crash has left it
			case r.ID < c.id:
				return disk.Errorf(disk.Exists, "image %s is about to take that name", r.ID)
			default:
				rivals = true
			}
		}
		if !rivals || time.Since(began) > rivalTime {
			return nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
