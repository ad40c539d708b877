package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// refuseDisk fails with Exists when a data disk has the number already, and none is
// to be replaced.
func (p *Provider) refuseDisk(d *dir, spec providers.Spec) error {
	all, err := p.members(d, encodeName(spec.Name)+setExt)
	if err != nil || spec.Replaces != nil {
		return err
	}
	for _, m := range all {
		if m.number == spec.Disk {
			return disk.Hint(disk.Errorf(disk.Exists, "the number %d is taken by %q", m.number, m.file), "choose another number, or remove that disk first")
		}
	}
	return nil
}

// publishDisk gives a data disk its final name, that of its number. What it replaces
// goes then; between the two the machine cannot be read.
func (p *Provider) publishDisk(d *dir, from, file string, spec providers.Spec) (providers.Entry, error) {
	p.change.Lock()
	defer p.change.Unlock()
	if spec.Whole {
		spec.Replaces = nil // it has gone with its boot disk
	}
	if err := p.refuseDisk(d, spec); err != nil {
		return providers.Entry{}, err
	}
	sub := path.Dir(file)
	old, err := p.replaced(d, spec)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("replace disk %d: %w", spec.Disk, err)
	}
	if err := d.root.Mkdir(sub, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return providers.Entry{}, explain(err)
	}
	set, err := d.openSet(sub)
	if err != nil {
		return providers.Entry{}, explain(err)
	}
	defer set.Close()
	if old == file {
		err = d.root.Rename(from, file)
	} else if err = d.moveInto(set, from, path.Base(file)); err == nil && old != "" {
		if err = d.root.Remove(old); err != nil {
			err = errors.Join(err, d.root.Rename(file, from))
		}
	}
	if err == nil {
		err = errors.Join(syncDir(set), d.sync())
	}
	if err != nil {
		return providers.Entry{}, errors.Join(explain(err), d.dropEmpty(sub))
	}
	return p.entryOfDisk(d, file)
}

// replaced is the file of the data disk that goes for a new one; empty for none. The
// entry that has it must not have changed.
func (p *Provider) replaced(d *dir, spec providers.Spec) (string, error) {
	if spec.Replaces == nil {
		return "", nil
	}
	m, err := p.ofNumber(d, *spec.Replaces, spec.Disk)
	return m.file, err
}

// ofNumber is a data disk of an image, or the one that waits, as it was listed.
func (p *Provider) ofNumber(d *dir, e providers.Entry, number int) (member, error) {
	if e.Kind == providers.Disks {
		m, _, err := p.disk(d, e.ID)
		if err == nil && m.state.version() != e.Version {
			err = disk.Errorf(disk.Stale, "it has changed since it was listed")
		}
		return m, explain(err)
	}
	now, err := p.entry(d, e.ID)
	if err == nil && bytesOf(now.Version) != bytesOf(e.Version) {
		err = disk.Errorf(disk.Stale, "image has changed since it was listed")
	}
	if err != nil {
		return member{}, explain(err)
	}
	s, err := p.set(d, e.ID)
	if err != nil {
		return member{}, explain(err)
	}
	if number < 1 || number > len(s.members) {
		return member{}, disk.Errorf(disk.NotFound, "find disk %d: the image has %d", number, len(s.members)+1)
	}
	return s.members[number-1], nil
}

// entryOfDisk is the image that a data disk is a part of, or the disk where it
// waits for that.
func (p *Provider) entryOfDisk(d *dir, file string) (providers.Entry, error) {
	m, name, err := p.disk(d, file)
	if err != nil {
		return providers.Entry{}, explain(err)
	}
	names, err := d.names()
	if err != nil {
		return providers.Entry{}, err
	}
	slices.Sort(names)
	for _, image := range names {
		if sub, ok := p.setDir(image); !ok || sub != path.Dir(file) {
			continue
		}
		s, err := p.set(d, image)
		if err != nil {
			return providers.Entry{}, explain(err)
		}
		if slices.ContainsFunc(s.members, func(x member) bool { return x.file == file }) {
			return p.entry(d, image)
		}
	}
	return m.entry(name), nil
}

// moveInto renames a file into the folder of a set, and never replaces another.
func (d *dir) moveInto(set *os.File, from, to string) error {
	err := unix.Renameat2(int(d.self.Fd()), from, int(set.Fd()), to, unix.RENAME_NOREPLACE)
	if err == nil {
		return nil
	}
	to = path.Join(set.Name(), to)
	if err != unix.EINVAL && err != unix.ENOSYS && err != unix.ENOTSUP {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return d.link(from, to)
}

// dropEmpty removes the folder of a set, if nothing is in it.
func (d *dir) dropEmpty(sub string) error {
	err := d.root.Remove(sub)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// moveSet takes the data disks of an image along to its new name, before the image
// itself goes.
func (p *Provider) moveSet(d *dir, from, file string) (undo func() error, err error) {
	none := func() error { return nil }
	old, ok := p.setDir(from)
	sub, fits := p.setDir(file)
	all, err := p.members(d, old)
	switch {
	case !ok || err != nil || len(all) == 0 || old == sub:
		return none, err
	case !fits:
		return none, disk.Hint(disk.Errorf(disk.Invalid, "the name of the folder of its disks would be too long"), "choose a shorter name")
	}
	names, err := d.names()
	if err != nil {
		return none, err
	}
	for _, other := range names {
		if same, ok := p.setDir(other); ok && same == old && other != from {
			return none, disk.Hint(disk.Errorf(disk.Busy, "%q has the same data disks", other), "remove one of the two, or copy the image under the new name")
		}
	}
	if err := d.move(old, sub); err != nil {
		return none, err
	}
	return func() error { return d.move(sub, old) }, nil
}

// DeleteDisk removes the file of a data disk.
func (p *Provider) DeleteDisk(ctx context.Context, e providers.Entry, number int) error {
	if err := p.deleteDisk(ctx, e, number); err != nil {
		return fmt.Errorf("delete disk %d of %q: %w", number, e.ID, err)
	}
	return nil
}

func (p *Provider) deleteDisk(ctx context.Context, e providers.Entry, number int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if e.Kind != providers.Images && e.Kind != providers.Disks {
		return disk.Errorf(disk.Unsupported, "%s are not changed", e.Kind)
	}
	d, err := p.open(providers.Images)
	if err != nil {
		return err
	}
	defer d.close()
	p.change.Lock()
	defer p.change.Unlock()
	m, err := p.ofNumber(d, e, number)
	if err != nil {
		return err
	}
	if err := d.removable(m.file); err != nil {
		return err
	}
	if err := d.remove(m.file); err != nil {
		return err
	}
	if err := d.dropEmpty(path.Dir(m.file)); err != nil {
		return explain(err)
	}
	return d.sync()
}

// SetDiskMtime sets the modification time of the file of one disk, and with it the
// version of the image; the time that it has already changes nothing.
func (p *Provider) SetDiskMtime(ctx context.Context, e providers.Entry, number int, mtime time.Time) (providers.Entry, error) {
	now, err := p.setDiskMtime(ctx, e, number, mtime)
	if err != nil {
		return e, fmt.Errorf("set time of disk %d of %q: %w", number, e.ID, explain(err))
	}
	return now, nil
}

func (p *Provider) setDiskMtime(ctx context.Context, e providers.Entry, number int, mtime time.Time) (providers.Entry, error) {
	if e.Kind == providers.Disks {
		d, err := p.open(providers.Images)
		if err != nil {
			return e, err
		}
		defer d.close()
		m, err := p.ofNumber(d, e, number)
		if err != nil {
			return e, err
		}
		if err := d.retimeFile(m.file, mtime); err != nil {
			return e, err
		}
		return p.entryOfDisk(d, m.file)
	}
	if number == 0 && len(e.Disks) == 0 {
		return p.SetMtime(ctx, e, mtime)
	}
	d, err := p.openImage(ctx, e)
	if err != nil {
		return e, err
	}
	defer d.close()
	file := e.ID
	if number != 0 {
		m, err := p.ofNumber(d, e, number)
		if err != nil {
			return e, err
		}
		file = m.file
	}
	if number < len(e.Disks) && e.Disks[number].Updated.Equal(mtime) {
		return p.entry(d, e.ID)
	}
	var now providers.Entry
	err = d.folder.times.change(func(note func(before, after string)) error {
		if _, err := d.retime(file, mtime, note); err != nil {
			return err
		}
		if now, err = p.entry(d, e.ID); err == nil {
			note(bytesOf(e.Version), bytesOf(now.Version))
		}
		return err
	})
	return now, err
}

// retimeFile sets the time of one file.
func (d *dir) retimeFile(file string, mtime time.Time) error {
	return d.folder.times.change(func(note func(before, after string)) error {
		_, err := d.retime(file, mtime, note)
		return err
	})
}

// syncDir makes the names in a folder durable, where the filesystem knows such a
// thing.
func syncDir(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
