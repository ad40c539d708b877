package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// copyAttempts is how often the disk of a machine is copied anew, because it was
// written to meanwhile, before the copy is refused.
const copyAttempts = 3

// quiet is how long ago the last write must be before a copy begins: more than
// the grain of the kernel's clock, so that a later write gives another time.
const quiet = 20 * time.Millisecond

// Snapshot captures the disks of a machine into hidden files beside them. On a
// filesystem with reflinks (btrfs, xfs) that takes a moment and no space, and
// the capture is of one instant. On others the file is copied, and the copy
// holds only if nothing was written meanwhile; with a machine that keeps writing
// it fails as Busy. The disks of a set are captured one after the other, so there
// too nothing may be written to any of them meanwhile, reflinks or not.
//
// A folder cannot tell whether a machine is stopped, so the consistency is
// always that of a crash. A disk that is made of several files is refused.
func (p *Provider) Snapshot(ctx context.Context, instance providers.Entry, spec providers.SnapSpec) (providers.Snapshot, error) {
	s, err := p.snapshot(ctx, instance, spec)
	if err != nil {
		return providers.Snapshot{}, fmt.Errorf("capture %q: %w", instance.ID, err)
	}
	return s, nil
}

func (p *Provider) snapshot(ctx context.Context, instance providers.Entry, spec providers.SnapSpec) (providers.Snapshot, error) {
	c, err := p.capture(ctx, instance, spec)
	if err != nil {
		return providers.Snapshot{}, err
	}
	s := providers.Snapshot{ID: snapshotID(providers.Instances, c.temps[0].name), Taken: time.Now(), Consistency: providers.Crash}
	for i, t := range c.temps {
		img, err := t.read()
		if err != nil {
			for _, d := range s.Disks {
				d.Close()
			}
			return providers.Snapshot{}, errors.Join(err, c.remove())
		}
		_, _, format, _ := p.split(path.Base(c.files[i]))
		s.Disks = append(s.Disks, providers.Source{Image: img, Format: format})
	}
	p.mu.Lock()
	p.live[s.ID] = c.temps
	p.mu.Unlock()
	return s, nil
}

// capture captures the disks of a machine into temporaries.
func (p *Provider) capture(ctx context.Context, instance providers.Entry, spec providers.SnapSpec) (c captured, err error) {
	_, _, format, ok := p.split(instance.ID)
	_, _, kept := p.splitCapture(instance.ID)
	switch {
	case spec.RequireStopped || spec.RequireFrozen:
		return c, disk.Hint(disk.Errorf(disk.Unsupported, "a folder can neither freeze the machine nor tell whether it is stopped"),
			"stop the machine yourself, and capture with the policy auto and without --freeze")
	case instance.Kind != providers.Instances || !ok || !plainName(instance.ID):
		return c, disk.Errorf(disk.NotFound, "it is no instance")
	case kept:
		return c, disk.Hint(disk.Errorf(disk.Unsupported, "it is a capture already"), "read it as it is")
	}
	if c.files, err = p.capturable(instance.ID, format); err != nil {
		return c, err
	}
	for range c.files {
		d, err := p.open(providers.Instances)
		if err != nil {
			return c, errors.Join(err, c.remove())
		}
		// The owner alone may read what a running machine has on its disk.
		t, err := createTemp(d, spec.Job, 0o600)
		if err != nil {
			err = disk.Hint(err, "a capture is made beside the disk, so the folder of instances must be writable")
			return c, errors.Join(err, c.remove())
		}
		c.temps = append(c.temps, t)
	}
	if err := c.fill(ctx); err != nil {
		return c, errors.Join(err, c.remove())
	}
	return c, nil
}

// refuseParts refuses a disk that lies in several files: they cannot be captured at
// one moment.
func (p *Provider) refuseParts(d *dir, file, format string) error {
	st, err := d.target(file)
	if err != nil {
		return openError(err)
	}
	parts, err := p.parts(d, file, format, st)
	if err == nil && len(parts) > 0 {
		err = disk.Hint(disk.Errorf(disk.Unsupported, "its disk lies in several files, which cannot be captured as one"),
			"keep the machine's disk in one file: raw, qcow2, or a vmdk that is not split")
	}
	return explain(err)
}

// clone clones the file, or copies it and gives the digest of what was read. It is
// Stale when the file was written to during the copy.
func (t *temp) clone(ctx context.Context, src *pinned) (sum string, err error) {
	if unix.IoctlFileClone(int(t.file.Fd()), int(src.file.Fd())) == nil {
		return "", nil
	}
	src.calm()
	if err := src.check(); err != nil {
		return "", fmt.Errorf("copy %q: %w", src.file.Name(), err)
	}
	if err := t.file.Truncate(0); err != nil {
		return "", explain(err)
	}
	if err := t.file.Truncate(src.Size()); err != nil {
		return "", explain(err)
	}
	copied := disk.NewDigester(src)
	if err := t.fill(ctx, copied, false, nil); err != nil {
		return "", err
	}
	if sum, err = copied.Sum(ctx); err != nil {
		return "", err
	}
	if err := src.check(); err != nil {
		return "", fmt.Errorf("copy %q: %w", src.file.Name(), err)
	}
	return sum, nil
}

// compare reads the file back.
func (t *temp) compare(ctx context.Context, want string) error {
	got, err := t.sum(ctx)
	if err == nil && got != want {
		err = disk.Errorf(disk.Malformed, "the copy holds bytes of digest %s, %s was read", got, want)
	}
	if err != nil {
		return fmt.Errorf("verify copy: %w", err)
	}
	return nil
}

// snapshotID names a temporary of any folder.
func snapshotID(kind providers.Kind, temp string) string {
	return string(kind) + "/" + temp
}

// Release removes a snapshot, or one of Leftovers. One that is gone is released.
func (p *Provider) Release(_ context.Context, id string) error {
	p.mu.Lock()
	temps := p.live[id]
	delete(p.live, id)
	p.mu.Unlock()
	if temps != nil {
		return captured{temps: temps}.remove()
	}
	kind, name, ok := strings.Cut(id, "/")
	if !ok || !isTemp(name) || strings.Contains(name, "/") {
		return disk.Errorf(disk.NotFound, "release snapshot %q: no such snapshot", id)
	}
	d, err := p.open(providers.Kind(kind))
	if err != nil {
		return fmt.Errorf("release snapshot %q: %w", id, err)
	}
	defer d.close()
	f, err := d.lockTemp(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release snapshot %q: %w", id, explain(err))
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return explain(p.clearAside(d, name, f))
	}
	defer f.Close()
	return d.root.Remove(name)
}

// Leftovers lists what crashes have left behind in both folders: unfinished
// uploads too. What a living process is working on is not among it.
func (p *Provider) Leftovers(context.Context) ([]string, error) {
	var ids []string
	for _, f := range p.folders() {
		d, err := f.open()
		if err != nil {
			return nil, err
		}
		dead, err := d.dead()
		d.close()
		if err != nil {
			return nil, err
		}
		for _, name := range dead {
			ids = append(ids, snapshotID(f.kind, name))
		}
	}
	return ids, nil
}
