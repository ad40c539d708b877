package local

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Accepts gives the one format in which an image is kept: that of the spec's
// store, else of the provider's, or the one that is handed over.
func (p *Provider) Accepts(spec providers.Spec) ([]string, error) {
	if p.images == nil {
		return nil, disk.Errorf(disk.Unsupported, "take image: provider %q has no folder of images", p.name)
	}
	format := cmp.Or(spec.Store, p.store)
	if format == storeSource {
		format = spec.Format
	}
	if p.extension(format) == "" {
		return nil, disk.Errorf(disk.Unsupported, "take image: format %q has no extension here", format)
	}
	return []string{format}, nil
}

// Room is what is free on the filesystem of the images.
func (p *Provider) Room(context.Context) (int64, bool) {
	d, err := p.open(providers.Images)
	if err != nil {
		return 0, false
	}
	defer d.close()
	return d.free()
}

// Begin starts an upload into a hidden file of the folder. The image's file will
// have mode 0644 less the umask, as cp makes it. Metadata that says nothing writes no
// sidecar, and leaves one that is there.
func (p *Provider) Begin(ctx context.Context, spec providers.Spec) (providers.Upload, error) {
	u, err := p.begin(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("begin upload of %.80q: %w", spec.Name, err)
	}
	return u, nil
}

func (p *Provider) begin(ctx context.Context, spec providers.Spec) (*upload, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	accepted, err := p.Accepts(spec)
	if err != nil {
		return nil, err
	}
	if spec.Role == "" && !slices.Contains(accepted, spec.Format) {
		return nil, disk.Errorf(disk.Invalid, "format %q is not %q, which is stored here", spec.Format, accepted[0])
	}
	if spec.Size < 0 {
		return nil, disk.Errorf(disk.Invalid, "size %d", spec.Size)
	}
	file, err := p.uploaded(spec)
	if err != nil {
		return nil, err
	}
	d, err := p.open(providers.Images)
	if err != nil {
		return nil, err
	}
	if err := p.refuse(d, spec); err != nil {
		d.close()
		return nil, err
	}
	if !spec.Metadata.Empty() {
		if _, err := p.ownSidecar(d, file); err != nil {
			d.close()
			return nil, err
		}
	}
	t, err := createTemp(d, spec.Job, 0o644)
	if err != nil {
		return nil, err
	}
	if err := t.file.Truncate(spec.Size); err != nil { // says EFBIG before any byte is sent
		return nil, errors.Join(explain(err), t.remove())
	}
	return &upload{provider: p, spec: spec, file: file, temp: t}, nil
}

// uploaded is the name of the file that an upload will have.
func (p *Provider) uploaded(spec providers.Spec) (string, error) {
	switch {
	case spec.Role != "":
		return fileName(spec.Name, "."+string(spec.Role))
	case spec.Disk == 0:
		return fileName(spec.Name, "."+p.extension(spec.Format))
	case spec.Disk < 0 || spec.Disk >= providers.MaxDisks:
		return "", disk.Errorf(disk.Invalid, "disk %d: a machine has at most %d", spec.Disk, providers.MaxDisks)
	case slices.Contains(p.machines, spec.Format):
		return "", disk.Errorf(disk.Invalid, "a file of format %q holds a machine, and no data disk", spec.Format)
	}
	return diskFile(spec.Name, spec.Disk, spec.Device, p.extension(spec.Format))
}

// refuse fails with Exists when the name, or the number, of an upload is taken.
func (p *Provider) refuse(d *dir, spec providers.Spec) error {
	if spec.Role != "" {
		file, err := p.uploaded(spec)
		if err != nil {
			return err
		}
		return d.checkCompanion(spec, file)
	}
	if spec.Disk > 0 {
		return p.refuseDisk(d, spec)
	}
	var own []string
	if spec.Replaces != nil {
		own = append(own, spec.Replaces.ID)
	}
	return p.refuseTaken(d, spec.Name, own...)
}

// Resume takes up the hidden file of an upload whose process is gone.
func (p *Provider) Resume(_ context.Context, spec providers.Spec, token []byte) (providers.Upload, error) {
	u, err := p.resume(spec, string(token))
	if err != nil {
		return nil, fmt.Errorf("resume upload of %.80q: %w", spec.Name, err)
	}
	return u, nil
}

func (p *Provider) resume(spec providers.Spec, name string) (*upload, error) {
	if !isTemp(name) || strings.Contains(name, "/") {
		return nil, disk.Errorf(disk.NotFound, "no such upload")
	}
	u := &upload{provider: p, spec: spec, again: true}
	if spec.Name != "" {
		var err error
		if u.file, err = p.uploaded(spec); err != nil {
			return nil, err
		}
	}
	d, err := p.open(providers.Images)
	if err != nil {
		return nil, err
	}
	f, err := d.lockTemp(name)
	if err != nil {
		d.close()
		return nil, explain(err)
	}
	u.temp = &temp{dir: d, name: name, file: f}
	info, err := f.Stat()
	if err == nil && spec.Name != "" && info.Size() != spec.Size {
		err = disk.Errorf(disk.Invalid, "it has %d bytes, not %d", info.Size(), spec.Size)
		return nil, errors.Join(err, u.temp.remove())
	}
	if err != nil {
		u.temp.close()
		return nil, explain(err)
	}
	return u, nil
}

// An upload is a hidden file on its way to become an image.
type upload struct {
	provider *Provider
	spec     providers.Spec
	file     string // its name to be
	temp     *temp
	again    bool // an earlier process has begun it
	done     bool // committed, aborted or suspended
	swapped  bool // of a companion: the hidden file is the one that was there before
}

// Token is the name of the hidden file.
func (u *upload) Token() []byte { return []byte(u.temp.name) }

// Suspend closes the hidden file and leaves it.
func (u *upload) Suspend() error {
	if !u.done {
		u.done = true
		u.temp.close()
	}
	return nil
}

// Send copies img, leaving out its holes. It refuses before the first byte when
// the rest does not fit.
func (u *upload) Send(ctx context.Context, img disk.Image, progress func(done int64)) error {
	if img.Size() != u.spec.Size {
		return disk.Errorf(disk.Invalid, "send %.80q: it has %d bytes, not %d as announced", u.spec.Name, img.Size(), u.spec.Size)
	}
	if err := u.temp.fill(ctx, img, u.again, progress); err != nil {
		return fmt.Errorf("send %.80q: %w", u.spec.Name, err)
	}
	return nil
}

// fill copies img into the temporary, which has its size and is all hole, and
// leaves out zeros that are none in img too. Again says that an earlier process
// has filled some of it: what is there and right is not written again.
func (t *temp) fill(ctx context.Context, img disk.Image, again bool, progress func(done int64)) error {
	need, err := disk.Allocated(img)
	if err != nil {
		return err
	}
	if err := t.fits(need); err != nil {
		return err
	}
	o := disk.CopyOptions{Progress: progress, SkipZeros: !again}
	if again {
		return explain(disk.Copy(ctx, differing{t.file}, img, o))
	}
	return explain(disk.Copy(ctx, t.file, img, o))
}

// differing writes what is not there yet. It is safe for concurrent use, as far as
// writes do not overlap.
type differing struct{ file *os.File }

func (d differing) WriteAt(p []byte, off int64) (int, error) {
	have := make([]byte, len(p))
	if n, err := d.file.ReadAt(have, off); n == len(p) && err == nil && bytes.Equal(have, p) {
		return n, nil
	}
	return d.file.WriteAt(p, off)
}

// Verify makes the file durable and reads it back, from the disk and not from
// the page cache as far as the kernel obeys.
func (u *upload) Verify(ctx context.Context) (providers.Digest, error) {
	sum, err := u.temp.sum(ctx)
	if err != nil {
		return providers.Digest{}, fmt.Errorf("verify %.80q: %w", u.spec.Name, err)
	}
	return providers.Digest{Algorithm: disk.DigestAlgorithm, Sum: sum}, nil
}

func (t *temp) sum(ctx context.Context) (string, error) {
	if err := t.file.Sync(); err != nil {
		return "", explain(err)
	}
	if err := t.flush(); err != nil {
		return "", explain(err)
	}
	unix.Fadvise(int(t.file.Fd()), 0, 0, unix.FADV_DONTNEED) // advice: its failure changes nothing
	img, err := t.read()
	if err != nil {
		return "", err
	}
	defer img.Close()
	return disk.Sum(ctx, img, nil)
}

// read opens the temporary once more, for reading.
func (t *temp) read() (disk.Image, error) {
	f, err := t.dir.openRegular(t.name)
	if err != nil {
		return nil, t.gone(explain(err))
	}
	a, err := f.Stat()
	if err == nil {
		var b os.FileInfo
		if b, err = t.file.Stat(); err == nil && !os.SameFile(a, b) {
			err = disk.Errorf(disk.Stale, "temporary %q has been replaced", t.name)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return disk.OpenFile(f)
}

// Commit gives the file its time and its name. When it returns, both survive a
// power failure.
func (u *upload) Commit(ctx context.Context) (providers.Entry, error) {
	e, err := u.commit(ctx)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("commit upload of %.80q: %w", u.spec.Name, err)
	}
	return e, nil
}

func (u *upload) commit(ctx context.Context) (providers.Entry, error) {
	if err := ctx.Err(); err != nil {
		return providers.Entry{}, err
	}
	t := u.temp
	if err := t.dir.there(); err != nil {
		return providers.Entry{}, err
	}
	if !u.spec.Mtime.IsZero() {
		if err := t.dir.root.Chtimes(t.name, time.Time{}, u.spec.Mtime); err != nil {
			return providers.Entry{}, t.gone(explain(err))
		}
	}
	if err := t.file.Sync(); err != nil {
		return providers.Entry{}, explain(err)
	}
	beside := func() (func() error, error) {
		back, err := u.placeCompanions()
		if err != nil {
			return nil, err
		}
		undo, err := u.provider.newSidecar(t.dir, u.file, u.spec.Name, u.spec.Metadata)
		if err != nil {
			return nil, errors.Join(err, back())
		}
		return func() error { return errors.Join(undo(), back()) }, nil
	}
	var e providers.Entry
	var err error
	if u.spec.Role != "" {
		e, err = u.commitCompanion()
	} else if u.spec.Disk > 0 {
		e, err = u.provider.publishDisk(t.dir, t.name, u.file, u.spec)
	} else if u.spec.Replaces != nil {
		e, err = u.provider.replace(t.dir, t.name, u.file, u.spec, beside)
	} else {
		e, err = u.provider.publish(t.dir, t.name, u.file, u.spec.Name, beside)
	}
	if err != nil {
		return providers.Entry{}, t.gone(err)
	}
	u.done = true
	u.endCompanions()
	t.close()
	return e, nil
}

// Abort removes the hidden file. It does so for a cancelled context too.
func (u *upload) Abort(context.Context) error {
	if u.done {
		return nil
	}
	u.done = true
	if err := u.temp.remove(); err != nil {
		return fmt.Errorf("abort upload of %.80q: %w", u.spec.Name, err)
	}
	return nil
}
