package eucalyptus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/ec2"
)

// An EMI may boot with an EKI and an ERI: images themselves, which it names when it is
// registered, and not later. So a ramdisk that comes after its image and its kernel has that
// registered anew. The cloud takes both or none: one alone is noted in a tag of the image.

// boots are the ids of what an image boots with, empty for none.
type boots struct {
	kernel, ramdisk string
	waited          []record // those that have waited for this image
}

// whole tells whether the cloud takes them. Otherwise tags note them.
func (b boots) whole() bool { return b.kernel != "" && b.ramdisk != "" }

// tags are those of an image that the cloud does not take with them.
func (b boots) tags() map[string]string {
	tags := map[string]string{}
	if !b.whole() && b.kernel != "" {
		tags[tagKernel] = b.kernel
	}
	if !b.whole() && b.ramdisk != "" {
		tags[tagRamdisk] = b.ramdisk
	}
	return tags
}

func (b *boots) of(role providers.Role) *string {
	if role == providers.Kernel {
		return &b.kernel
	}
	return &b.ramdisk
}

// boots registers the companions that are sent together with the image, and finds those
// that wait for it, those of the image that it replaces, and those that its metadata names,
// where this cloud has them.
func (u *upload) boots(ctx context.Context) (b boots, err error) {
	waiting, err := u.p.waiting(ctx)
	if err != nil {
		return b, err
	}
	for _, role := range providers.Roles() {
		id := b.of(role)
		sent, comes := u.spec.Companions[role]
		if sent != nil {
			own, ok := sent.(*upload)
			if !ok || own.p != u.p || own.spec.Role != role {
				return b, disk.Errorf(disk.Invalid, "the %s of image %q is no upload of its own", role, u.spec.Name)
			}
			if err := own.register(ctx, kindOf(role), boots{}); err != nil {
				return b, fmt.Errorf("its %s: %w", role, err)
			}
			*id = own.id
			continue
		}
		for _, w := range waiting {
			if w.role() == role && w.Tags[tagFor] == u.spec.Name {
				*id = w.ID
				b.waited = append(b.waited, w)
				break
			}
		}
		if old := u.spec.Replaces; *id == "" && old != nil && !u.spec.Whole && !comes {
			r, err := u.p.record(ctx, old.ID)
			if err != nil {
				return b, fmt.Errorf("look at the image that it replaces: %w", err)
			}
			*id = r.boots(role)
		}
		if *id == "" {
			if *id, err = u.namedCompanion(ctx, role); err != nil {
				return b, err
			}
		}
	}
	return b, nil
}

// namedCompanion is the one that the metadata names, if it is one of this cloud. Another's
// id is only noted.
func (u *upload) namedCompanion(ctx context.Context, role providers.Role) (string, error) {
	field := &u.spec.Meta.Kernel
	if role == providers.Ramdisk {
		field = &u.spec.Meta.Ramdisk
	}
	id := *field
	if id == "" {
		return "", nil
	}
	*field = ""
	r, err := u.p.record(ctx, id)
	if err == nil && r.role() == role && r.State == "available" {
		return id, nil
	}
	if err != nil && disk.KindOf(err) != disk.NotFound {
		return "", fmt.Errorf("look for its %s: %w", role, err)
	}
	u.spec.Props = maps.Clone(u.spec.Props)
	if u.spec.Props == nil {
		u.spec.Props = map[string]string{}
	}
	u.spec.Props[providers.SourcePrefix+string(role)+"_id"] = id
	return "", nil
}

// finish takes the marks from the companions of an image that is about to be there.
func (b boots) finish(ctx context.Context, u *upload) error {
	for _, w := range b.waited {
		if err := u.p.settle(ctx, u.s, w.ID); err != nil {
			return err
		}
	}
	for _, c := range u.spec.Companions {
		if own, ok := c.(*upload); ok && own != nil {
			if err := u.p.settle(ctx, u.s, own.id); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle makes a companion a part of its image.
func (p *Provider) settle(ctx context.Context, s *session, id string) error {
	err := s.ec2.SetTags(ctx, []string{id}, nil, []string{tagFor})
	if err == nil {
		err = s.ec2.SetDescription(ctx, id, noDescription)
	}
	if err != nil {
		return fmt.Errorf("finish companion %s: %w", id, err)
	}
	return nil
}

// kindOf is the type of image of a role.
func kindOf(role providers.Role) string {
	if role == providers.Kernel {
		return bundle.Kernel
	}
	return bundle.Ramdisk
}

// label is the name of a companion.
func (u *upload) label() string { return cmp.Or(u.spec.Label, u.spec.Name+"."+string(u.spec.Role)) }

// commitCompanion lets a companion wait for its image, or registers that anew where it is
// there.
func (u *upload) commitCompanion(ctx context.Context) (providers.Entry, error) {
	if u.spec.Together {
		return providers.Entry{}, disk.Errorf(disk.Invalid, "a %s that comes together with its image appears with that", u.spec.Role)
	}
	image, err := u.imageOf(ctx)
	if err != nil {
		return providers.Entry{}, err
	}
	if err := u.register(ctx, kindOf(u.spec.Role), boots{}); err != nil {
		return providers.Entry{}, err
	}
	if image == nil {
		err := u.s.ec2.SetTags(ctx, []string{u.id}, map[string]string{tagFor: u.spec.Name}, nil)
		if err == nil {
			err = u.s.ec2.SetDescription(ctx, u.id, marked(stateWaiting))
		}
		if err == nil {
			image, err = u.imageOf(ctx) // it may have come meanwhile
		}
		if err != nil {
			return providers.Entry{}, err
		}
	}
	if image != nil {
		if err := u.attach(ctx, image); err != nil {
			return providers.Entry{}, err
		}
	}
	u.done = true
	u.p.own(u.id, false)
	if err := u.j.remove(); err != nil {
		return providers.Entry{}, err
	}
	r, err := u.p.record(ctx, u.id)
	if err != nil {
		return providers.Entry{}, err
	}
	if image == nil {
		return r.waitingEntry(), nil
	}
	return r.companion().Entry(u.spec.Name), nil
}

// imageOf is the image that the companion is for, nil while there is none. One that has
// another companion of the role keeps that.
func (u *upload) imageOf(ctx context.Context) (*record, error) {
	found, err := u.p.named(ctx, u.spec.Name)
	if err != nil {
		return nil, err
	}
	var image *record
	for i := range found {
		if found[i].hidden() {
			continue
		}
		if image != nil {
			return nil, disk.Errorf(disk.Invalid, "several images have the name %q", u.spec.Name)
		}
		image = &found[i]
	}
	if image == nil {
		return nil, nil
	}
	if id := image.boots(u.spec.Role); id != "" {
		if _, err := u.p.record(ctx, id); disk.KindOf(err) != disk.NotFound {
			return nil, disk.Errorf(disk.Exists, "image %s has the %s %s", image.ID, u.spec.Role, id)
		}
	}
	return image, nil
}

// attach gives an image one companion more. When it has both, it is registered anew, from
// the bundle that it has, and the one that was there goes when the new one is whole.
func (u *upload) attach(ctx context.Context, old *record) error {
	b := boots{kernel: old.boots(providers.Kernel), ramdisk: old.boots(providers.Ramdisk)}
	*b.of(u.spec.Role) = u.id
	if !b.whole() {
		if err := u.s.ec2.SetTags(ctx, []string{old.ID}, b.tags(), nil); err != nil {
			return err
		}
		return u.p.settle(ctx, u.s, u.id)
	}
	at, err := old.bundle()
	if err != nil {
		return err
	}
	all, err := u.p.ownRecords(ctx)
	if err != nil {
		return err
	}
	reg := registration{at: at, name: old.name(), job: u.spec.Job, arch: old.Architecture, boots: b, kind: bundle.Machine}
	r, err := u.p.register(ctx, u.s, reg, all)
	if err != nil {
		return fmt.Errorf("register image %s with it: %w", old.ID, err)
	}
	defer u.p.own(r.ID, false)
	if err := u.replace(ctx, r, old); err != nil {
		return errors.Join(err, u.s.ec2.Deregister(context.WithoutCancel(ctx), r.ID))
	}
	return u.s.ec2.Deregister(ctx, old.ID)
}

// replace gives the new registration of an image all that the old one has.
func (u *upload) replace(ctx context.Context, r, old *record) error {
	tags := maps.Clone(old.Tags)
	if tags == nil {
		tags = map[string]string{}
	}
	if old.name() != r.Name {
		tags[tagName] = old.name()
	}
	delete(tags, tagKernel)
	delete(tags, tagRamdisk)
	tags[tagMtime] = old.updated().Format(time.RFC3339Nano)
	if err := u.s.ec2.SetTags(ctx, []string{r.ID}, tags, nil); err != nil {
		return err
	}
	may, err := u.s.ec2.LaunchPermissions(ctx, old.ID)
	if err == nil && (may.Everybody || len(may.Accounts) > 0) {
		err = u.s.ec2.ChangeLaunchPermissions(ctx, r.ID, may, ec2.Permissions{})
	}
	if err != nil {
		return err
	}
	if err := u.p.settle(ctx, u.s, u.id); err != nil {
		return err
	}
	return u.s.ec2.SetDescription(ctx, r.ID, cmp.Or(old.Description, noDescription))
}

// listWaiting lists the companions that wait for their image.
func (p *Provider) listWaiting(ctx context.Context) ([]providers.Entry, error) {
	found, err := p.waiting(ctx)
	var entries []providers.Entry
	for _, r := range found {
		entries = append(entries, r.waitingEntry())
	}
	return entries, err
}

// waiting are the records of those.
func (p *Provider) waiting(ctx context.Context) ([]record, error) {
	all, err := p.ownRecords(ctx)
	var found []record
	for _, r := range all {
		if state, _, _ := r.state(); state == stateWaiting && r.role() != "" && r.Tags[tagFor] != "" {
			found = append(found, r)
		}
	}
	return found, err
}

func (r *record) waitingEntry() providers.Entry {
	e := r.companion().Entry(r.Tags[tagFor])
	e.Waiting = &providers.Waiting{}
	return e
}

// DeleteCompanion removes a kernel or a ramdisk that waits for its image, with its bundle.
func (p *Provider) DeleteCompanion(ctx context.Context, e providers.Entry) error {
	s, r, err := p.mine(ctx, e)
	if err == nil {
		if state, _, _ := r.state(); state != stateWaiting {
			err = disk.Errorf(disk.Unsupported, "it is a part of an image")
		}
	}
	if err == nil {
		err = p.purge(ctx, s, r)
	}
	if err != nil {
		return fmt.Errorf("delete %s of %q: %w", e.Role, e.Name, err)
	}
	return nil
}
