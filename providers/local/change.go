package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Rename gives the file of an image another name and keeps its extension. Its data
// disks, its companions and its sidecar go with it.
func (p *Provider) Rename(ctx context.Context, e providers.Entry, name string) (providers.Entry, error) {
	renamed, err := p.rename(ctx, e, name)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("rename %q to %.80q: %w", e.ID, name, err)
	}
	return renamed, nil
}

func (p *Provider) rename(ctx context.Context, e providers.Entry, name string) (providers.Entry, error) {
	d, err := p.openImage(ctx, e)
	if err != nil {
		return providers.Entry{}, err
	}
	defer d.close()
	_, ext, _, _ := p.split(e.ID)
	file, err := fileName(name, ext)
	if err != nil {
		return providers.Entry{}, err
	}
	if file == e.ID {
		return p.entry(d, file)
	}
	return p.publish(d, e.ID, file, name, func() (func() error, error) {
		back, err := p.moveSet(d, e.ID, file)
		if err != nil {
			return nil, err
		}
		home, err := p.moveCompanions(d, e.ID, file)
		if err != nil {
			return nil, errors.Join(err, back())
		}
		undo, err := p.moveSidecar(d, e.ID, file, name)
		if err != nil {
			return nil, errors.Join(err, home(), back())
		}
		return func() error { return errors.Join(undo(), home(), back()) }, nil
	})
}

// SetMtime sets the modification time of the image's file, and of its parts that
// are newer, and with it the version; the time that it has already changes
// nothing.
func (p *Provider) SetMtime(ctx context.Context, e providers.Entry, mtime time.Time) (providers.Entry, error) {
	if e.Kind == providers.Companions {
		now, err := p.changeCompanion(ctx, e, func(d *dir, _ providers.Entry) error { return d.retimeFile(e.ID, mtime) })
		if err != nil {
			err = fmt.Errorf("set time of %q: %w", e.ID, err)
		}
		return now, err
	}
	d, err := p.openImage(ctx, e)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("set time of %q: %w", e.ID, err)
	}
	defer d.close()
	if !e.Updated.Equal(mtime) {
		if err := p.retime(d, e, mtime); err != nil {
			return e, fmt.Errorf("set time of image: %w", explain(err))
		}
	}
	return p.entry(d, e.ID)
}

// openImage opens the folder of an image that is about to be changed, and checks
// that it is still the one that was listed.
func (p *Provider) openImage(ctx context.Context, e providers.Entry) (*dir, error) {
	if e.Kind != providers.Images {
		return nil, disk.Errorf(disk.Unsupported, "%s are not changed", e.Kind)
	}
	return p.openEntry(ctx, e)
}

// openEntry opens the folder of an entry, which must still be the one that was
// listed.
func (p *Provider) openEntry(ctx context.Context, e providers.Entry) (*dir, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := p.open(e.Kind)
	if err != nil {
		return nil, err
	}
	now, err := p.entry(d, e.ID)
	if err == nil && bytesOf(now.Version) != bytesOf(e.Version) {
		err = disk.Errorf(disk.Stale, "image has changed since it was listed")
	}
	if err != nil {
		d.close()
		return nil, explain(err)
	}
	return d, nil
}

// publish gives the file from its final name, which nothing may have, nor may
// the image's name be that of another file, of whatever format. Of two programs
// that take one image's name in two formats at the same moment, neither keeps
// it. Beside puts what lies beside the file in its place first, and can undo it.
func (p *Provider) publish(d *dir, from, file, name string, beside func() (undo func() error, err error)) (providers.Entry, error) {
	p.change.Lock()
	defer p.change.Unlock()
	if err := p.refuseTaken(d, name, from); err != nil {
		return providers.Entry{}, err
	}
	undo, err := beside()
	if err != nil {
		return providers.Entry{}, explain(err)
	}
	if err := d.move(from, file); err != nil {
		return providers.Entry{}, errors.Join(explain(err), undo())
	}
	err = p.refuseTaken(d, name, file)
	if err == nil {
		err = d.sync()
	}
	var e providers.Entry
	if err == nil {
		e, err = p.entry(d, file)
	}
	if err != nil {
		return providers.Entry{}, errors.Join(err, d.move(file, from), undo())
	}
	return e, nil
}

// replace gives the file from its final name in the place of the image old, which
// must not have changed. There is no moment at which neither is there. Beside is that
// of publish. The data disks of a set stay, and its companions, unless all of it is
// replaced.
func (p *Provider) replace(d *dir, from, file string, spec providers.Spec, beside func() (undo func() error, err error)) (providers.Entry, error) {
	name, old := spec.Name, *spec.Replaces
	p.change.Lock()
	defer p.change.Unlock()
	now, err := p.entry(d, old.ID)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("replace %q: %w", old.ID, explain(err))
	}
	if bytesOf(now.Version) != bytesOf(old.Version) {
		return providers.Entry{}, disk.Errorf(disk.Stale, "replace %q: it has changed meanwhile", old.ID)
	}
	if err := p.refuseTaken(d, name, from, old.ID); err != nil {
		return providers.Entry{}, err
	}
	gone, err := p.removalOfFile(d, now)
	if err == nil && spec.Whole {
		if err = p.addSet(d, now, &gone); err == nil {
			err = p.addCompanions(d, now, &gone)
		}
	}
	if err != nil {
		return providers.Entry{}, fmt.Errorf("replace %q: %w", old.ID, err)
	}
	undo, err := beside()
	if err != nil {
		return providers.Entry{}, explain(err)
	}
	var disks *aside
	if spec.Whole {
		if disks, err = p.setAside(d, old.ID, spec.Job); err != nil {
			return providers.Entry{}, errors.Join(explain(err), undo())
		}
	}
	if file == old.ID {
		err = d.root.Rename(from, file)
	} else if err = d.move(from, file); err == nil {
		if err = d.root.Remove(old.ID); err != nil {
			err = errors.Join(err, d.move(file, from))
		}
	}
	if err != nil {
		return providers.Entry{}, errors.Join(explain(err), disks.undo(), undo())
	}
	if err := errors.Join(d.sync(), disks.remove()); err != nil {
		return providers.Entry{}, explain(err)
	}
	_ = d.removeCompanions(gone.companions) // as far as no others have taken their places
	_ = d.removeParts(gone.parts)           // the new image is there: what cannot go is left, as after a crash
	return p.entry(d, file)
}

// refuseTaken fails with Exists when a file that is not among own has the name.
func (p *Provider) refuseTaken(d *dir, name string, own ...string) error {
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, file := range names {
		stem, _, _, ok := p.split(file)
		if ok && !slices.Contains(own, file) && decodeName(stem) == name {
			return disk.Hint(disk.Errorf(disk.Exists, "the name is taken by %q", file), "choose another name, or remove that image first")
		}
	}
	return nil
}

// move renames a file and never replaces another.
func (d *dir) move(from, to string) error {
	fd := int(d.self.Fd())
	err := unix.Renameat2(fd, from, fd, to, unix.RENAME_NOREPLACE)
	if err == nil {
		return nil
	}
	if err != unix.EINVAL && err != unix.ENOSYS && err != unix.ENOTSUP {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return d.link(from, to)
}

// exchange has two files change names. Where the filesystem cannot do it at once, the
// name b is nobody's for a moment.
func (d *dir) exchange(a, b string) error {
	fd := int(d.self.Fd())
	err := unix.Renameat2(fd, a, fd, b, unix.RENAME_EXCHANGE)
	if err != unix.EINVAL && err != unix.ENOSYS && err != unix.ENOTSUP {
		if err != nil {
			err = &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
		}
		return err
	}
	return d.exchangeBySteps(a, b)
}

func (d *dir) exchangeBySteps(a, b string) error {
	aside := tempName("aside")
	if err := d.move(b, aside); err != nil {
		return err
	}
	if err := d.move(a, b); err != nil {
		return errors.Join(err, d.move(aside, b))
	}
	if err := d.move(aside, a); err != nil {
		return errors.Join(err, d.move(b, a), d.move(aside, b))
	}
	return nil
}

// link renames a file as move does, where the filesystem has no such rename but
// has links: NFS, some FUSE filesystems.
func (d *dir) link(from, to string) error {
	err := d.root.Link(from, to)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return disk.Hint(disk.Errorf(disk.Unsupported, "%w", err),
			"the filesystem can neither rename without replacing nor link; keep images on another")
	}
	if err != nil {
		return err
	}
	return d.root.Remove(from)
}

// sync makes the names in the folder durable, where the filesystem knows such a
// thing.
func (d *dir) sync() error {
	err := d.self.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
