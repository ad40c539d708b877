package openstack

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"chromogenic/disk"
	"chromogenic/providers"
)

// beginCompanion is begin for the upload of a companion. Its record is made when it is
// known that no other has its bytes.
func (p *Provider) beginCompanion(ctx context.Context, spec providers.Spec) (*upload, error) {
	switch {
	case companionRole(companionProp(spec.Role)) == "":
		return nil, disk.Errorf(disk.Invalid, "there is no role %q beside an image", spec.Role)
	case spec.Size < 0:
		return nil, disk.Errorf(disk.Invalid, "size %d", spec.Size)
	}
	spec.Label = cmp.Or(spec.Label, spec.Name+"."+string(spec.Role))
	if err := checkName(spec.Label); err != nil {
		return nil, err
	}
	if free, ok := p.Room(ctx); ok && spec.Size > free {
		return nil, disk.Errorf(disk.Quota, "it has %d bytes, and %d are left of the quota", spec.Size, free)
	}
	u := &upload{p: p, spec: spec, id: newID(), late: true}
	u.token = u.id
	p.own(u.id, true)
	return u, nil
}

// prepare makes the record of a companion, or finds one of the same bytes and name that
// can be used again: reused is true then, and nothing is to be sent.
func (u *upload) prepare(ctx context.Context, img disk.Image) (reused bool, err error) {
	s := newSender(ctx, img, func(int64) {})
	err = s.hashOnly()
	s.close()
	sum, failed := s.result()
	if err = cmp.Or(failed, err); err != nil {
		return false, err
	}
	found, err := u.p.records(ctx, map[string][]string{"disk_format": {companionFormat(u.spec.Role)}, "os_hash_value": {sum}})
	if err != nil {
		return false, err
	}
	session, err := u.p.client.account(ctx)
	if err != nil {
		return false, err
	}
	for _, r := range found {
		mine := r.Owner == session.project && r.Status == "active" && r.props[propState] == ""
		if u.spec.Together && mine && r.Name == u.spec.Label && r.HashValue == sum && r.Size != nil && *r.Size == img.Size() {
			u.p.own(u.id, false)
			u.id, u.sent, u.reused, u.late = r.ID, sum, true, false
			return true, nil
		}
	}
	u.late = false
	return false, u.create(ctx)
}

// An attached companion is one that an image names.
type attached struct {
	role   providers.Role
	id     string
	upload *upload // nil for one that has waited
}

// companions are those that are sent together with the image.
func (u *upload) companions() ([]attached, error) {
	var all []attached
	for _, role := range providers.Roles() {
		up := u.spec.Companions[role]
		if up == nil {
			continue
		}
		own, ok := up.(*upload)
		if !ok || own.p != u.p || own.spec.Role != role || own.late {
			return nil, disk.Errorf(disk.Invalid, "the %s of image %q is no upload of its own that was sent", role, u.spec.Name)
		}
		all = append(all, attached{role, own.id, own})
	}
	return all, nil
}

// readyCompanions gives the companions their names. They are still marked as uploads.
func (u *upload) readyCompanions(ctx context.Context, all []attached) error {
	for _, c := range all {
		r, err := u.p.record(ctx, c.id)
		if err != nil { // one that is used again may have gone
			return fmt.Errorf("look at its %s: %w", c.role, err)
		}
		if c.upload.reused {
			continue
		}
		if _, err := u.p.patch(ctx, c.id, []change{put(r, propState, stateCommit), put(r, "name", c.upload.spec.Label)}); err != nil {
			return fmt.Errorf("name its %s: %w", c.role, err)
		}
	}
	return nil
}

// finishCompanions takes the marks from the companions of an image that is there, and
// gives it those that have waited for it. A crash before that leaves marks that nobody
// minds: see Leftovers.
func (u *upload) finishCompanions(ctx context.Context, r *record, all []attached) (*record, error) {
	for _, c := range all {
		if !c.upload.reused {
			if _, err := u.p.patch(ctx, c.id, []change{drop(propState), drop(propJob), drop(propHost)}); err != nil {
				return r, fmt.Errorf("finish its %s: %w", c.role, err)
			}
		}
	}
	waiting, err := u.p.waiting(ctx)
	if err != nil {
		return r, err
	}
	for _, w := range waiting {
		if w.props[propFor] != u.spec.Name || u.spec.Companions[w.role()] != nil {
			continue
		}
		if r, err = u.p.attach(ctx, r, &w); err != nil {
			return r, err
		}
	}
	return r, nil
}

// inherited are the companions of the image that is replaced, as far as no others come
// in their places. Where all of that image goes, they do.
func (u *upload) inherited(ctx context.Context) (all []attached, err error) {
	old := u.spec.Replaces
	if old == nil || u.spec.Whole {
		return nil, nil
	}
	r, err := u.p.record(ctx, old.ID)
	if err != nil {
		return nil, fmt.Errorf("look at the image that it replaces: %w", err)
	}
	for _, role := range providers.Roles() {
		_, comes := u.spec.Companions[role]
		if id := r.props[companionProp(role)]; id != "" && !comes {
			all = append(all, attached{role: role, id: id})
		}
	}
	return all, nil
}

// attach makes a companion that is whole a part of an image.
func (p *Provider) attach(ctx context.Context, image, companion *record) (*record, error) {
	role := companion.role()
	now, err := p.patch(ctx, image.ID, []change{put(image, companionProp(role), companion.ID)})
	if err != nil {
		return image, fmt.Errorf("give image %s its %s: %w", image.ID, role, err)
	}
	var marks []change
	for _, key := range []string{propState, propJob, propHost, propFor} {
		if _, ok := companion.props[key]; ok {
			marks = append(marks, drop(key))
		}
	}
	if _, err := p.patch(ctx, companion.ID, marks); err != nil {
		return image, fmt.Errorf("finish the %s: %w", role, err)
	}
	return now, nil
}

// commitCompanion lets a companion wait for its image, and attaches it where that is
// there, now or meanwhile.
func (u *upload) commitCompanion(ctx context.Context) (providers.Entry, error) {
	if u.spec.Together {
		return providers.Entry{}, disk.Errorf(disk.Invalid, "a %s that comes together with its image appears with that", u.spec.Role)
	}
	image, err := u.imageOf(ctx)
	if err != nil {
		return providers.Entry{}, err
	}
	r, err := u.p.record(ctx, u.id)
	if err != nil {
		return providers.Entry{}, err
	}
	changes := []change{put(r, "name", u.spec.Label), put(r, propState, stateWaiting), put(r, propFor, u.spec.Name), drop(propJob), drop(propHost)}
	if r, err = u.p.patch(ctx, u.id, changes); err != nil {
		return providers.Entry{}, err
	}
	if image == nil {
		if image, err = u.imageOf(ctx); err != nil {
			return providers.Entry{}, err
		}
	}
	if image == nil {
		return r.waitingEntry(), nil
	}
	if _, err := u.p.attach(ctx, image, r); err != nil {
		return providers.Entry{}, err
	}
	return r.companion(u.spec.Role).Entry(u.spec.Name), nil
}

// imageOf is the image that the companion is for, nil while there is none. One that has
// another companion of the role keeps that.
func (u *upload) imageOf(ctx context.Context) (*record, error) {
	found, err := u.p.named(ctx, u.spec.Name)
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(r record) bool { return r.props[propState] != "" })
	if len(found) == 0 {
		return nil, nil
	}
	if len(found) > 1 {
		return nil, disk.Errorf(disk.Invalid, "%d images have the name %q", len(found), u.spec.Name)
	}
	if id := found[0].props[companionProp(u.spec.Role)]; id != "" {
		if _, err := u.p.record(ctx, id); disk.KindOf(err) != disk.NotFound {
			return nil, disk.Errorf(disk.Exists, "image %s has the %s %s", found[0].ID, u.spec.Role, id)
		}
	}
	return &found[0], nil
}
