package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Open opens a file, through a symlink only if that stays inside the folder. A
// fifo, a socket or a device is never opened. The source holds the folder open
// until it is closed. The disk of a machine is not pinned, for that may write to it
// at any time; a capture of it is.
func (p *Provider) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	if err := ctx.Err(); err != nil {
		return providers.Source{}, err
	}
	if e.Kind == providers.Disks {
		return p.openWaiting(e, n)
	}
	if e.Kind == providers.Companions {
		return p.openCompanion(e, n)
	}
	_, _, format, ok := p.split(e.ID)
	if !ok || !plainName(e.ID) {
		return providers.Source{}, disk.Errorf(disk.NotFound, "open %q: %w", e.ID, errNoEntry)
	}
	d, err := p.open(e.Kind)
	if err != nil {
		return providers.Source{}, err
	}
	defer d.self.Close() // the root stays open, for the files beside this one
	img, err := d.openPinned(e.ID)
	if err != nil {
		d.root.Close()
		return providers.Source{}, err
	}
	_, _, kept := p.splitCapture(e.ID)
	img.live = e.Kind == providers.Instances && !kept
	parts, err := p.parts(d, e.ID, format, img.state)
	var s set
	if err == nil {
		s, err = p.set(d, e.ID)
	}
	if err == nil && !img.live && !d.folder.times.same(bytesOf(e.Version), versionOf(img.state, s.parts(parts))) {
		err = disk.Errorf(disk.Stale, "open %q: image has changed since it was listed", e.ID)
	}
	if err != nil {
		img.Close()
		d.root.Close()
		return providers.Source{}, explain(err)
	}
	if n != 0 {
		defer img.Close()
		return s.open(d, n, img.live)
	}
	return providers.Source{
		Image:   &rooted{pinned: img, root: d.root},
		Format:  format,
		Name:    e.ID,
		Resolve: p.resolver(d, e.ID, format, img.state, parts),
	}, nil
}

var errNotRegular = disk.Errorf(disk.Unsupported, "%s", reasonNotRegular)

// openRegular opens a regular file for reading. The state is looked at first,
// since opening a device may do something to it, and again behind the opening.
func (d *dir) openRegular(file string) (*os.File, error) {
	info, err := d.root.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "open", Path: file, Err: errNotRegular}
	}
	f, err := d.root.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: file, Err: errNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openPinned opens a regular file as an image that is Stale after any change.
func (d *dir) openPinned(file string) (*pinned, error) {
	f, err := d.openRegular(file)
	if err != nil {
		return nil, openError(err)
	}
	st, err := fileState(f)
	if err != nil {
		f.Close()
		return nil, explain(err)
	}
	img, err := disk.OpenFile(f)
	if err != nil {
		return nil, explain(err)
	}
	return &pinned{Image: img, file: f, state: st, times: &d.folder.times}, nil
}

// openError gives the error of an opening its kind: os.Root has no name for the
// one by which it refuses a symlink.
func openError(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return disk.ErrClosed
	}
	switch linkReason(err) {
	case reasonEscapes:
		return disk.Errorf(disk.Policy, "%s: %w", reasonEscapes, err)
	case reasonDangling:
		return disk.Errorf(disk.NotFound, "%w", err)
	}
	if errors.Is(err, os.ErrPermission) {
		return disk.Hint(err, "let the user that runs chromogenic read the file")
	}
	return explain(err)
}

// pinned is a file as it was when it was opened. After each read, and each look
// at the extents, the file's state is compared: a writer sets the modification
// time before it changes the bytes, so what was read before the comparison is
// of the version that it confirms.
type pinned struct {
	disk.Image
	file  *os.File // of Image, which owns it
	state state
	times *retimed
	live  bool // it changes, and that is all right
}

var _ disk.Allocator = (*pinned)(nil)

func (p *pinned) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.Image.ReadAt(b, off)
	if errors.Is(err, disk.ErrClosed) {
		return 0, err
	}
	if changed := p.check(); changed != nil {
		return 0, cause(err, changed, "read", p.file.Name(), off)
	}
	return n, err
}

func (p *pinned) Extent(off, n int64) (disk.Extent, error) {
	e, err := p.Image.Extent(off, n)
	if errors.Is(err, disk.ErrClosed) {
		return disk.Extent{}, err
	}
	if changed := p.check(); changed != nil {
		return disk.Extent{}, cause(err, changed, "find extent of", p.file.Name(), off)
	}
	return e, err
}

// cause is why a look at a file at off has come to nothing: that it has changed, or
// else what the look itself has met, where the file's state could not be had either.
func cause(err, changed error, verb, file string, off int64) error {
	if err != nil && !errors.Is(err, io.EOF) && disk.KindOf(changed) != disk.Stale {
		return err
	}
	return fmt.Errorf("%s %q at offset %d: %w", verb, file, off, changed)
}

// Allocated is what the filesystem has allocated, in bytes.
func (p *pinned) Allocated() int64 {
	if n, err := disk.Allocated(p.Image); err == nil {
		return n
	}
	return p.Size()
}

// check fails when the file is not as it was when it was opened.
func (p *pinned) check() error {
	now, err := fileState(p.file)
	if errors.Is(err, os.ErrClosed) {
		return disk.ErrClosed
	}
	if err != nil {
		return err
	}
	if now.links == 0 {
		return disk.Errorf(disk.Stale, "image was deleted or replaced while it was open")
	}
	if !p.live && !now.same(p.state) && !p.times.same(p.state.version(), now.version()) {
		return disk.Errorf(disk.Stale, "image changed on disk while it was open")
	}
	return nil
}

// rooted is an image that closes its folder with it.
type rooted struct {
	*pinned
	root *os.Root
	once sync.Once
}

func (r *rooted) Close() error {
	err := r.pinned.Close()
	r.once.Do(func() { r.root.Close() })
	return err
}
