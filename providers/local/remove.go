package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Delete removes the file of an image; of a symlink, the link. With it go the files
// that it leads to and that are its own, its data disks, and the sidecar, if it is one
// of ours and no other image has its name. An image that has changed since it was listed is Stale
// and stays; one that another image is made of, or whose files are immutable, is Busy.
//
// What makes it an image goes first. So a crash on the way leaves files that are no
// image, and are treated as any such: those with the extension of an image are entries
// that cannot be read, others are ignored, and nothing takes them for leftovers.
func (p *Provider) Delete(ctx context.Context, e providers.Entry) error {
	d, err := p.openImage(ctx, e)
	if err != nil {
		return fmt.Errorf("delete %q: %w", e.ID, err)
	}
	defer d.close()
	p.change.Lock()
	defer p.change.Unlock()
	r, err := p.removal(d, e)
	if err != nil {
		return fmt.Errorf("delete %q: %w", e.ID, err)
	}
	if err := d.remove(e.ID); err != nil {
		return fmt.Errorf("delete image: %w", err)
	}
	if err := d.sync(); err != nil {
		return fmt.Errorf("delete image: %w", explain(err))
	}
	err = errors.Join(d.removeParts(r.parts), d.removeSet(r.set), d.removeCompanions(r.companions))
	if r.sidecar != "" {
		err = errors.Join(err, p.dropSidecar(d, e.ID))
	}
	if err != nil {
		return fmt.Errorf("delete %q: it is no image any more, but files of it are left: %w", e.ID, explain(err))
	}
	return d.sync()
}

// Survey tells what Delete or DeleteCapture would remove.
func (p *Provider) Survey(ctx context.Context, e providers.Entry) (providers.Removal, error) {
	open := p.openImage
	if e.Kind == providers.Instances {
		open = p.openCapture
	}
	d, err := open(ctx, e)
	if err != nil {
		return providers.Removal{}, fmt.Errorf("look at %q: %w", e.ID, err)
	}
	defer d.close()
	r, err := p.removal(d, e)
	if err != nil {
		return providers.Removal{}, fmt.Errorf("look at %q: %w", e.ID, err)
	}
	out := providers.Removal{Files: []string{e.ID}, Size: r.size, Metadata: r.sidecar, Kept: r.kept}
	for _, x := range r.parts {
		out.Files = append(out.Files, x.name)
		out.Size += x.state.size
	}
	for _, m := range r.set {
		out.Files = append(out.Files, m.file)
		out.Size += m.state.size
	}
	for _, c := range r.companions {
		out.Files = append(out.Files, c.ID)
		out.Size += c.Size
	}
	return out, nil
}

// A removal is what goes with an image.
type removal struct {
	size    int64 // bytes of its file
	parts   []part
	set     []member
	kept    []providers.Kept
	sidecar string // empty: none goes

	companions []providers.Companion
}

// removal finds out what goes with an image or a capture, and whether it may.
func (p *Provider) removal(d *dir, e providers.Entry) (r removal, err error) {
	if r, err = p.removalOfFile(d, e); err == nil {
		err = p.addSet(d, e, &r)
	}
	if err == nil {
		err = p.addCompanions(d, e, &r)
	}
	return r, err
}

// removalOfFile is removal without the data disks of a set, and without companions, which
// the next boot disk may have.
func (p *Provider) removalOfFile(d *dir, e providers.Entry) (r removal, err error) {
	_, _, format, _ := p.split(e.ID)
	own, reason, err := d.look(e.ID)
	if err != nil {
		return r, explain(err)
	}
	var parts []part
	if r.size = own.size; reason == "" {
		if parts, err = p.parts(d, e.ID, format, own); err != nil {
			return r, explain(err)
		}
	}
	// A manifest lists the descriptor too; what is not there cannot go.
	parts = slices.DeleteFunc(slices.Clone(parts), func(x part) bool { return x.name == e.ID || x.state.inode == 0 })
	names, err := d.names()
	if err != nil {
		return r, err
	}
	if err := p.divide(d, e.ID, names, parts, &r); err != nil {
		return r, err
	}
	for _, file := range append([]string{e.ID}, r.names()...) {
		if err := d.removable(file); err != nil {
			return r, err
		}
	}
	err = p.divideSidecar(d, e, &r)
	return r, err
}

// divideSidecar tells whether the sidecar goes with the image, or stays.
func (p *Provider) divideSidecar(d *dir, e providers.Entry, r *removal) error {
	name, side := p.sidecarName(e.ID), p.sidecar(d, e.ID)
	if side.sum == "" && side.reason == "" && !side.foreign {
		return nil
	}
	alone, err := p.alone(d, e.ID, append(r.names(), e.ID)...)
	switch {
	case err != nil:
		return err
	case side.foreign:
		r.kept = append(r.kept, providers.Kept{File: name, Reason: "it is no metadata of an image, so another program may need it"})
	case !alone:
		r.kept = append(r.kept, providers.Kept{File: name, Reason: "another image has the same name"})
	default:
		r.sidecar = name
	}
	return nil
}

func (r *removal) names() []string {
	var names []string
	for _, x := range r.parts {
		names = append(names, x.name)
	}
	return names
}

// divide tells the parts that go with the image of a file from those that stay. It
// fails with Busy when another image of the folder needs that file itself.
func (p *Provider) divide(d *dir, file string, names []string, parts []part, r *removal) error {
	keep := func(x part, format string, args ...any) {
		r.kept = append(r.kept, providers.Kept{File: x.name, Reason: fmt.Sprintf(format, args...)})
	}
	stem, _, _, _ := p.split(file)
	mine := []string{file}
	var rest []part
	for _, x := range parts {
		_, _, format, image := p.split(x.name)
		switch {
		case image && p.image(d, x, format):
			keep(x, "it is an image of its own")
		case !image && !derived(x.name, stem):
			keep(x, "by its name it may be anybody's")
		default:
			rest, mine = append(rest, x), append(mine, x.name)
		}
	}
	by, err := p.needed(d, names, mine)
	if err != nil {
		return err
	}
	if user, ok := by[file]; ok {
		return disk.Hint(disk.Errorf(disk.Busy, "the image %q is made of it", user), "remove that image first")
	}
	for _, x := range rest {
		if user, ok := by[x.name]; ok {
			keep(x, "%s needs it too", user)
		} else {
			r.parts = append(r.parts, x)
		}
	}
	return nil
}

// derived tells whether a file is called after the stem of an image, as those who
// split images call the pieces. What is inside an image can name any file of the
// folder, and must not have it removed.
func derived(file, stem string) bool {
	rest, ok := strings.CutPrefix(file, stem)
	next, _ := utf8.DecodeRuneInString(rest)
	return ok && !unicode.IsLetter(next) && !unicode.IsDigit(next)
}

// image tells whether a part can be read as an image by itself. In doubt it can.
func (p *Provider) image(d *dir, x part, format string) bool {
	if p.leads(format, x.state) {
		a, err := p.assembly(d, x.name, format, x.state)
		return err != nil || a.whole
	}
	img, err := d.openPinned(x.name)
	if err != nil {
		return true
	}
	defer img.Close()
	whole, err := p.read(providers.Source{Image: img, Format: format, Name: x.name})
	return whole || err != nil
}

// needed tells which files among mine an image needs that is not one of them, and
// which image that is.
func (p *Provider) needed(d *dir, names, mine []string) (map[string]string, error) {
	by := map[string]string{}
	for _, other := range names {
		_, _, format, ok := p.split(other)
		if !ok || !plainName(other) || slices.Contains(mine, other) {
			continue
		}
		st, reason, err := d.look(other)
		switch {
		case errors.Is(err, errNoEntry) || errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, explain(err)
		case !p.leads(format, st) || reason != "" && reason != reasonDenied:
			continue
		case reason == reasonDenied:
			if len(mine) > 1 {
				err := disk.Errorf(disk.Denied, "whether %q needs its files too cannot be told: %s", other, reason)
				return nil, disk.Hint(err, "let the user that runs chromogenic read that file")
			}
			continue
		}
		needs, err := p.needs(d, other, format, st)
		if err != nil {
			return nil, err
		}
		for _, file := range mine {
			if needs(file) {
				by[file] = other
			}
		}
	}
	return by, nil
}

// needs tells which files an image needs. One that cannot be opened has not asked
// for all of them: it needs what it names in quotes.
func (p *Provider) needs(d *dir, other, format string, st state) (func(file string) bool, error) {
	a, err := p.assembly(d, other, format, st)
	if err != nil {
		return nil, explain(err)
	}
	var text []byte
	if !a.whole {
		f, err := d.openRegular(other)
		if errors.Is(err, fs.ErrNotExist) {
			return func(string) bool { return false }, nil
		}
		if err != nil {
			return nil, openError(err)
		}
		defer f.Close()
		if text, err = io.ReadAll(io.LimitReader(f, p.limits[format])); err != nil {
			return nil, explain(err)
		}
		text, _, _ = bytes.Cut(text, []byte{0}) // what comes then is no descriptor, but maybe the inside of a disk
	}
	return func(file string) bool {
		return slices.ContainsFunc(a.parts, func(x part) bool { return x.name == file }) ||
			bytes.Contains(text, []byte(`"`+file+`"`)) || bytes.Contains(text, []byte(`'`+file+`'`))
	}, nil
}

// removable fails for a file that nobody may remove, not even its owner.
func (d *dir) removable(file string) error {
	var sx unix.Statx_t
	err := unix.Statx(int(d.self.Fd()), file, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &sx)
	if err != nil {
		return &fs.PathError{Op: "statx", Path: file, Err: err}
	}
	if sx.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0 {
		return disk.Hint(disk.Errorf(disk.Busy, "%q is protected: the file is immutable", file), "chattr -i -a %s, as root", file)
	}
	return nil
}

// remove removes a file of an image.
func (d *dir) remove(file string) error {
	err := explain(d.root.Remove(file))
	if errors.Is(err, fs.ErrPermission) {
		err = disk.Hint(err, "let the user that runs chromogenic write to the folder")
	}
	return err
}

// removeParts removes files that are as they were when they were looked at. What
// has been put in the place of one stays. All are tried.
func (d *dir) removeParts(parts []part) error {
	var errs []error
	for _, x := range parts {
		now, err := d.part(x.name)
		if err == nil && now.state.same(x.state) {
			err = d.remove(x.name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
