package local

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A captured machine is its disks, each in a temporary, the boot disk first.
type captured struct {
	files []string // that they are captures of
	temps []*temp
}

func (c captured) remove() error {
	var errs []error
	for _, t := range c.temps {
		if sub := path.Dir(t.name); sub != "." { // of a capture that was about to appear
			errs = append(errs, t.dir.root.Remove(t.name), t.dir.dropEmpty(sub))
		}
		errs = append(errs, t.remove())
	}
	return errors.Join(errs...)
}

// capturable is the files of the disks of a machine, the boot disk first.
func (p *Provider) capturable(file, format string) ([]string, error) {
	d, err := p.open(providers.Instances)
	if err != nil {
		return nil, err
	}
	defer d.close()
	if err := p.refuseParts(d, file, format); err != nil {
		return nil, err
	}
	s, err := p.set(d, file)
	if err != nil {
		return nil, explain(err)
	}
	if s.reason != "" {
		return nil, disk.Errorf(disk.Unsupported, "%s", s.reason)
	}
	files := []string{file}
	for _, m := range s.members {
		files = append(files, m.file)
	}
	return files, nil
}

// fill fills the temporaries with the content of the files, as of one moment, and
// reads back what was copied.
func (c captured) fill(ctx context.Context) error {
	var stale error
	for range copyAttempts {
		sums, err := c.clone(ctx)
		switch kind := disk.KindOf(err); {
		case kind == disk.Stale:
			stale = err
			continue
		case kind == disk.NotFound && stale != nil: // that was why
			return stale
		}
		for i, sum := range sums {
			if err == nil && sum != "" {
				err = c.temps[i].compare(ctx, sum)
			}
		}
		return err
	}
	if n := len(c.files); n > 1 {
		return disk.Hint(disk.Errorf(disk.Busy, "one of its %d disks was written to during each of %d copies, so that they are not of one moment", n, copyAttempts),
			"stop the machine; a folder cannot capture several disks of one that keeps writing")
	}
	return disk.Hint(disk.Errorf(disk.Busy, "the disk was written to during each of %d copies", copyAttempts),
		"stop the machine, or keep its disk on a filesystem with reflinks (btrfs, xfs)")
}

// clone takes all files once, and gives the digest of each that was copied. It is
// Stale when they are not of one moment.
func (c captured) clone(ctx context.Context) (sums []string, err error) {
	var sources []*pinned
	defer func() {
		for _, src := range sources {
			src.Close()
		}
	}()
	for i, file := range c.files {
		src, err := c.temps[i].dir.openPinned(file)
		if err != nil {
			return nil, err
		}
		sources = append(sources, src)
	}
	several := len(sources) > 1
	if several {
		for _, src := range sources {
			src.calm()
		}
	}
	for i, src := range sources {
		sum, err := c.temps[i].clone(ctx, src)
		if err != nil {
			return nil, err
		}
		sums = append(sums, sum)
	}
	for _, src := range sources {
		if err := src.check(); several && err != nil {
			return nil, fmt.Errorf("copy %q: %w", src.file.Name(), err)
		}
	}
	return sums, nil
}

// calm waits until a later write will show in the time of the file.
func (p *pinned) calm() {
	if wait := quiet - time.Since(p.state.mtime()); wait > 0 && wait <= quiet {
		time.Sleep(wait)
	}
}

// publishDisks puts the data disks of a capture into their folder, before the boot
// disk, which alone makes it one, has its name.
func (c captured) publishDisks(sub string) (undo func() error, err error) {
	moved := 0
	undo = func() error { return nil }
	if len(c.temps) < 2 {
		return undo, nil
	}
	d := c.temps[0].dir
	if err := d.root.Mkdir(sub, 0o755); err != nil {
		return undo, err
	}
	names := make([]string, len(c.temps))
	undo = func() error {
		var errs []error
		for i := moved; i > 0; i-- {
			errs = append(errs, d.root.Rename(c.temps[i].name, names[i]))
			c.temps[i].name = names[i]
		}
		return errors.Join(append(errs, d.root.Remove(sub))...)
	}
	set, err := d.openSet(sub)
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	defer set.Close()
	for i, t := range c.temps {
		if i == 0 {
			continue
		}
		names[i] = t.name
		if err := d.moveInto(set, t.name, path.Base(c.files[i])); err != nil {
			return nil, errors.Join(err, undo())
		}
		t.name, moved = sub+"/"+path.Base(c.files[i]), i
	}
	if err := syncDir(set); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}
