package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A capture that is kept is a file beside the disk of the machine, called
// <stem>@<time><extension>, and for a machine of several disks a set. Extended
// attributes say of which instance it is, for it may have another name, and in what
// state it was; that they are there tells a capture of ours from a file that somebody
// has called so. On a filesystem without them all that are called so count as ours.
const (
	consistencyAttr = "user.chromogenic.consistency"
	instanceAttr    = "user.chromogenic.instance"
)

// Keep captures the disk of a machine as Snapshot does. Of two captures in one
// second the later is called as of the next.
func (p *Provider) Keep(ctx context.Context, instance providers.Entry, spec providers.SnapSpec) (providers.Entry, error) {
	e, err := p.keep(ctx, instance, spec)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("capture %q: %w", instance.ID, err)
	}
	return e, nil
}

func (p *Provider) keep(ctx context.Context, instance providers.Entry, spec providers.SnapSpec) (providers.Entry, error) {
	c, err := p.capture(ctx, instance, spec)
	if err != nil {
		return providers.Entry{}, err
	}
	e, err := p.publishCapture(ctx, c, instance.ID, spec.Name)
	if err != nil {
		return providers.Entry{}, errors.Join(err, c.remove())
	}
	for _, t := range c.temps {
		t.close()
	}
	return e, nil
}

// publishCapture gives temporaries the names of a capture of an instance as of now.
func (p *Provider) publishCapture(ctx context.Context, c captured, instance, name string) (providers.Entry, error) {
	t, taken := c.temps[0], time.Now().UTC()
	stem, ext, _, _ := p.split(instance)
	marked, err := t.mark(instance)
	switch {
	case err != nil:
		return providers.Entry{}, err
	case name != "" && !marked:
		return providers.Entry{}, disk.Hint(disk.Errorf(disk.Unsupported, "call it %.80q: the filesystem has no extended attributes to keep of which instance it is", name),
			"capture it under the name of the instance")
	case name != "":
		stem = encodeName(name)
	}
	for _, t := range c.temps {
		if err := t.file.Sync(); err != nil {
			return providers.Entry{}, explain(err)
		}
	}
	if err := t.dir.there(); err != nil {
		return providers.Entry{}, err
	}
	for err = fs.ErrExist; errors.Is(err, fs.ErrExist); taken = taken.Add(time.Second) {
		if err := ctx.Err(); err != nil {
			return providers.Entry{}, err
		}
		file := stem + "@" + taken.Format(providers.CaptureLayout) + ext
		if len(file) > maxFileName {
			return providers.Entry{}, disk.Hint(disk.Errorf(disk.Invalid, "call it %.40q…: its file's name would take %d bytes of %d", stem, len(file), maxFileName),
				"give it a shorter name")
		}
		var undo func() error
		if undo, err = c.publishDisks(strings.TrimSuffix(file, ext) + setExt); err != nil {
			continue
		}
		if err = t.dir.move(t.name, file); err == nil {
			t.name = file
		} else if e := undo(); e != nil {
			return providers.Entry{}, errors.Join(explain(err), e)
		}
	}
	if err == nil {
		err = t.dir.sync()
	}
	if err != nil {
		return providers.Entry{}, t.gone(explain(err))
	}
	return p.entry(t.dir, t.name)
}

// mark notes of which instance a capture is, and in what state; ok is false where
// the filesystem cannot.
func (t *temp) mark(instance string) (ok bool, err error) {
	fd := int(t.file.Fd())
	err = errors.Join(
		unix.Fsetxattr(fd, instanceAttr, []byte(instance), 0),
		unix.Fsetxattr(fd, consistencyAttr, []byte(providers.Crash), 0),
	)
	if errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	return err == nil, explain(err)
}

// splitCapture takes the name of a capture's file apart; ok is false for any other
// file.
func (p *Provider) splitCapture(file string) (stem string, taken time.Time, ok bool) {
	stem, _, _, ok = p.split(file)
	at := strings.LastIndexByte(stem, '@')
	if !ok || at <= 0 {
		return "", time.Time{}, false
	}
	stem, stamp := stem[:at], stem[at+1:]
	taken, err := time.Parse(providers.CaptureLayout, stamp)
	return stem, taken, err == nil && taken.Format(providers.CaptureLayout) == stamp
}

// captured describes the capture of a stem and a time that a file is. Of one that
// does not say, the careful guess is made.
func (d *dir) captured(file, instance string, taken time.Time) *providers.Capture {
	c := &providers.Capture{Of: instance, Taken: taken, Consistency: providers.Crash}
	f, err := d.openRegular(file)
	if err != nil {
		return c // its Reason says why
	}
	defer f.Close()
	switch state, err := attribute(f, consistencyAttr); {
	case errors.Is(err, unix.ENOTSUP):
		c.Ours = true
	case err == nil:
		c.Ours = true
		if s := providers.Consistency(state); s == providers.Frozen || s == providers.Stopped {
			c.Consistency = s
		}
	}
	if of, err := attribute(f, instanceAttr); err == nil {
		c.Of = of
	}
	return c
}

// attribute is an extended attribute of a file.
func attribute(f *os.File, name string) (string, error) {
	buf := make([]byte, maxFileName)
	n, err := unix.Fgetxattr(int(f.Fd()), name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// DeleteCapture removes the files of a capture.
func (p *Provider) DeleteCapture(ctx context.Context, e providers.Entry) error {
	if err := p.deleteCapture(ctx, e); err != nil {
		return fmt.Errorf("delete capture %q: %w", e.ID, err)
	}
	return nil
}

func (p *Provider) deleteCapture(ctx context.Context, e providers.Entry) error {
	d, err := p.openCapture(ctx, e)
	if err != nil {
		return err
	}
	defer d.close()
	var r removal
	if err := errors.Join(d.removable(e.ID), p.addSet(d, e, &r)); err != nil {
		return err
	}
	if err := d.remove(e.ID); err != nil {
		return err
	}
	if err := d.removeSet(r.set); err != nil {
		return explain(err)
	}
	return d.sync()
}

// openCapture opens the folder of a capture that is about to be deleted.
func (p *Provider) openCapture(ctx context.Context, e providers.Entry) (*dir, error) {
	if _, _, ok := p.splitCapture(e.ID); !ok || e.Kind != providers.Instances || e.Live() {
		return nil, disk.Errorf(disk.Unsupported, "it is no capture")
	}
	return p.openEntry(ctx, e)
}
