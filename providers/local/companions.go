package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// What a machine boots with lies beside its image: <stem>.kernel and <stem>.ramdisk.
// They are those of all images of the stem, and their ids are the names of the files.
// Without such an image they wait for one.

// companionFile is the name of a companion of the image that a file is.
func (p *Provider) companionFile(file string, role providers.Role) string {
	stem, _, _, _ := p.split(file)
	return stem + "." + string(role)
}

// splitCompanion takes the name of a companion's file apart.
func splitCompanion(file string) (stem string, role providers.Role, ok bool) {
	for _, role := range providers.Roles() {
		if stem, ok := strings.CutSuffix(file, "."+string(role)); ok && stem != "" && plainName(file) {
			return stem, role, true
		}
	}
	return "", "", false
}

// companionAt describes the companion that a file is; ok is false where there is none.
func (d *dir) companionAt(file string, role providers.Role) (c providers.Companion, ok bool, err error) {
	st, reason, err := d.look(file)
	switch {
	case errors.Is(err, errNoEntry), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENAMETOOLONG):
		return c, false, nil
	case err != nil:
		return c, false, err
	}
	c = providers.Companion{Role: role, ID: file, Version: st.version(), Size: st.size, Updated: st.mtime(), Reason: reason}
	return c, true, nil
}

// companions are those of the image that a file is.
func (p *Provider) companions(d *dir, file string) ([]providers.Companion, error) {
	if d.folder.kind != providers.Images {
		return nil, nil
	}
	var all []providers.Companion
	for _, role := range providers.Roles() {
		name := p.companionFile(file, role)
		if d.beside != nil && !d.beside[name] {
			continue
		}
		c, ok, err := d.companionAt(name, role)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, c)
		}
	}
	return all, nil
}

// openCompanion opens the file of a companion.
func (p *Provider) openCompanion(e providers.Entry, n int) (providers.Source, error) {
	_, _, ok := splitCompanion(e.ID)
	if n != 0 || !ok {
		return providers.Source{}, disk.Errorf(disk.NotFound, "open %q: %w", e.ID, errNoEntry)
	}
	d, err := p.open(providers.Images)
	if err != nil {
		return providers.Source{}, err
	}
	defer d.self.Close()
	img, err := d.openPinned(e.ID)
	if err == nil && !d.folder.times.same(e.Version, img.state.version()) {
		img.Close()
		err = disk.Errorf(disk.Stale, "open %q: it has changed since it was listed", e.ID)
	}
	if err != nil {
		d.root.Close()
		return providers.Source{}, err
	}
	return providers.Source{Image: &rooted{pinned: img, root: d.root}, Format: "raw", Name: e.ID}, nil
}

// listCompanions lists those that wait for their image.
func (p *Provider) listCompanions(d *dir) ([]providers.Entry, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var waiting []providers.Entry
	for _, file := range names {
		e, ok, err := p.entryOfCompanion(d, file, names)
		if err != nil {
			return nil, err
		}
		if ok && e.Waiting != nil {
			waiting = append(waiting, e)
		}
	}
	return waiting, nil
}

// entryOfCompanion is the entry of a companion's file, among those of names.
func (p *Provider) entryOfCompanion(d *dir, file string, names []string) (e providers.Entry, ok bool, err error) {
	stem, role, ok := splitCompanion(file)
	if !ok {
		return e, false, nil
	}
	c, ok, err := d.companionAt(file, role)
	if err != nil || !ok {
		return e, false, err
	}
	e = c.Entry(decodeName(stem))
	if !slices.ContainsFunc(names, func(other string) bool { s, _, _, ok := p.split(other); return ok && s == stem }) {
		e.Waiting = &providers.Waiting{}
	}
	return e, true, nil
}

// commitCompanion gives a companion that comes alone its name.
func (u *upload) commitCompanion() (providers.Entry, error) {
	if u.spec.Together {
		return providers.Entry{}, disk.Errorf(disk.Invalid, "a %s that comes together with its image appears with that", u.spec.Role)
	}
	p, d := u.provider, u.temp.dir
	p.change.Lock()
	defer p.change.Unlock()
	if err := d.move(u.temp.name, u.file); err != nil {
		return providers.Entry{}, explain(err)
	}
	names, err := d.names()
	if err == nil {
		err = d.sync()
	}
	if err != nil {
		return providers.Entry{}, errors.Join(explain(err), d.move(u.file, u.temp.name))
	}
	e, _, err := p.entryOfCompanion(d, u.file, names)
	return e, err
}

// placeCompanions puts the companions that come together with an image in their places,
// before it appears. Those that an image has which is replaced change places with them,
// and wait under the names of the unfinished files for the end or for undo.
func (u *upload) placeCompanions() (undo func() error, err error) {
	var moved []*upload
	undo = func() error {
		var errs []error
		for _, c := range moved {
			if c.swapped {
				c.swapped = false
				errs = append(errs, u.temp.dir.exchange(c.file, c.temp.name))
				continue
			}
			errs = append(errs, u.temp.dir.move(c.file, c.temp.name))
		}
		return errors.Join(errs...)
	}
	for _, role := range providers.Roles() {
		c, ok := u.spec.Companions[role].(*upload)
		if !ok {
			continue
		}
		d := u.temp.dir
		err = d.move(c.temp.name, c.file)
		if u.spec.Replaces != nil && errors.Is(err, fs.ErrExist) {
			err = d.exchange(c.temp.name, c.file)
			c.swapped = err == nil
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("put its %s beside it: %w", role, explain(err)), undo())
		}
		moved = append(moved, c)
	}
	return undo, nil
}

// endCompanions lets go of the companions that have appeared, and drops those that were
// there before.
func (u *upload) endCompanions() {
	for _, up := range u.spec.Companions {
		c, ok := up.(*upload)
		if !ok {
			continue
		}
		c.done = true
		if c.swapped {
			_ = c.temp.remove() // what cannot go is left, as after a crash
			continue
		}
		c.temp.close()
	}
}

// checkCompanion refuses a companion whose name is taken.
func (d *dir) checkCompanion(spec providers.Spec, file string) error {
	if !slices.Contains(providers.Roles(), spec.Role) {
		return disk.Errorf(disk.Invalid, "there is no role %q beside an image", spec.Role)
	}
	_, ok, err := d.companionAt(file, spec.Role)
	if err == nil && ok && !spec.Together {
		err = disk.Hint(disk.Errorf(disk.Exists, "%q is there", file), "choose another name, or remove the image that it is of")
	}
	return err
}

// addCompanions adds to what goes with an image its companions, unless another image has
// them too.
func (p *Provider) addCompanions(d *dir, e providers.Entry, r *removal) error {
	all, err := p.companions(d, e.ID)
	if err != nil || len(all) == 0 {
		return err
	}
	alone, err := p.alone(d, e.ID, append(r.names(), e.ID)...)
	if err != nil {
		return err
	}
	for _, c := range all {
		if !alone {
			r.kept = append(r.kept, providers.Kept{File: c.ID, Reason: "another image has the same name"})
			continue
		}
		if err := d.removable(c.ID); err != nil {
			return err
		}
		r.companions = append(r.companions, c)
	}
	return nil
}

// removeCompanions removes those that are as they were when they were looked at.
func (d *dir) removeCompanions(all []providers.Companion) error {
	var errs []error
	for _, c := range all {
		now, ok, err := d.companionAt(c.ID, c.Role)
		if err == nil && ok && now.Version == c.Version {
			err = d.remove(c.ID)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// moveCompanions takes the companions of an image along to its new name, before the image
// itself goes.
func (p *Provider) moveCompanions(d *dir, from, file string) (undo func() error, err error) {
	var back []func() error
	undo = func() error {
		var errs []error
		for _, do := range back {
			errs = append(errs, do())
		}
		return errors.Join(errs...)
	}
	all, err := p.companions(d, from)
	if err != nil || len(all) == 0 {
		return undo, err
	}
	alone, err := p.alone(d, from, from)
	if err == nil && !alone {
		err = disk.Hint(disk.Errorf(disk.Busy, "another image boots with %q too", all[0].ID), "remove one of the two, or copy the image under the new name")
	}
	if err != nil {
		return undo, err
	}
	for _, c := range all {
		to := p.companionFile(file, c.Role)
		if to == c.ID {
			continue
		}
		if err := d.move(c.ID, to); err != nil {
			return undo, errors.Join(err, undo())
		}
		back = append(back, func() error { return d.move(to, c.ID) })
	}
	return undo, nil
}

// DeleteCompanion removes the file of a companion that waits for its image.
func (p *Provider) DeleteCompanion(ctx context.Context, e providers.Entry) error {
	_, err := p.changeCompanion(ctx, e, func(d *dir, now providers.Entry) error {
		if now.Waiting == nil {
			return disk.Errorf(disk.Unsupported, "it is a part of an image")
		}
		if err := d.removable(e.ID); err != nil {
			return err
		}
		return errors.Join(d.remove(e.ID), d.sync())
	})
	if err != nil && !errors.Is(err, errNoEntry) {
		return fmt.Errorf("delete %q: %w", e.ID, err)
	}
	return nil
}

// changeCompanion changes a companion that is as it was listed, and tells what it is
// then.
func (p *Provider) changeCompanion(ctx context.Context, e providers.Entry, do func(d *dir, now providers.Entry) error) (providers.Entry, error) {
	if err := ctx.Err(); err != nil {
		return e, err
	}
	d, err := p.open(providers.Images)
	if err != nil {
		return e, err
	}
	defer d.close()
	p.change.Lock()
	defer p.change.Unlock()
	names, err := d.names()
	if err != nil {
		return e, err
	}
	now, ok, err := p.entryOfCompanion(d, e.ID, names)
	switch {
	case err != nil:
		return e, explain(err)
	case !ok:
		return e, disk.Errorf(disk.NotFound, "there is no such file")
	case now.Version != e.Version:
		return e, disk.Errorf(disk.Stale, "it has changed since it was listed")
	}
	if err := do(d, now); err != nil {
		return e, explain(err)
	}
	if now, ok, err = p.entryOfCompanion(d, e.ID, names); err == nil && !ok {
		err = errNoEntry
	}
	return now, err
}
