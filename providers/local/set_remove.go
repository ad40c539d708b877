package local

import (
	"errors"
	"io/fs"
	"path"

	"chromogenic/providers"
)

// addSet adds to what goes with an image, or a capture, its data disks: those that
// are a part of the machine, in whatever formats. The others wait on, and where
// another image has the same all stay.
func (p *Provider) addSet(d *dir, e providers.Entry, r *removal) error {
	sub, ok := p.setDir(e.ID)
	if !ok {
		return nil
	}
	all, err := p.members(d, sub)
	if errors.Is(err, errLinkedSet) {
		r.kept = append(r.kept, providers.Kept{File: sub, Reason: "it is a symlink, which could lead anywhere"})
		return nil
	}
	if err != nil {
		return explain(err)
	}
	_, _, format, _ := p.split(e.ID)
	disks := held(all, format)
	if len(disks) == 0 {
		return nil
	}
	shared, err := p.sharesSet(d, e.ID, sub)
	if err != nil {
		return err
	}
	if shared {
		for _, m := range disks {
			r.kept = append(r.kept, providers.Kept{File: m.file, Reason: "another image has the same name"})
		}
		return nil
	}
	if err := d.removable(sub); err != nil {
		return err
	}
	for _, m := range disks {
		if err := d.removable(m.file); err != nil {
			return err
		}
	}
	r.set = disks
	return nil
}

// sharesSet tells whether another image than that of a file has the data disks in a
// folder.
func (p *Provider) sharesSet(d *dir, file, sub string) (bool, error) {
	names, err := d.names()
	if err != nil {
		return false, err
	}
	for _, other := range names {
		if same, ok := p.setDir(other); ok && same == sub && other != file {
			return true, nil
		}
	}
	return false, nil
}

// removeSet removes data disks that are as they were when they were looked at, and
// their folder if nothing is left in it. What has been put in the place of one stays.
// All are tried.
func (d *dir) removeSet(disks []member) error {
	if len(disks) == 0 {
		return nil
	}
	var errs []error
	for _, m := range disks {
		now, _, err := d.look(m.file)
		if errors.Is(err, errNoEntry) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && now.same(m.state) {
			err = d.remove(m.file)
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, d.dropEmpty(path.Dir(disks[0].file)))...)
}
