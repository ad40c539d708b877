package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// List lists the folder of a kind, in the order of the files' names. Each file
// costs four calls to the kernel, and each part of an image, each data disk of a
// machine and each companion one or two more. No file is
// opened but captures, and sidecars and small ones that may be descriptors, once, and
// again when they or their parts have changed. What cannot be read, by its nature or by its
// permissions, has a Reason; a file whose state cannot be had at all makes the
// listing fail.
func (p *Provider) List(ctx context.Context, kind providers.Kind) ([]providers.Entry, error) {
	if p.folder(kind) == nil {
		return nil, nil
	}
	d, err := p.open(kind)
	if err != nil {
		return nil, err
	}
	defer d.close()
	if kind == providers.Disks {
		waiting, err := p.listDisks(d)
		var companions []providers.Entry
		if err == nil {
			companions, err = p.listCompanions(d)
		}
		if err != nil {
			return nil, d.folder.unreachable("read", err)
		}
		return append(waiting, companions...), nil
	}
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	d.beside = map[string]bool{}
	for _, file := range names {
		if _, _, ok := splitCompanion(file); ok {
			d.beside[file] = true
		}
	}
	entries := make([]providers.Entry, 0, len(names))
	for _, file := range names {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read folder of %s: %w", kind, err)
		}
		e, err := p.entry(d, file)
		switch {
		case errors.Is(err, errNoEntry) || errors.Is(err, fs.ErrNotExist): // removed since
		case err != nil:
			return nil, d.folder.unreachable("read", err)
		default:
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b providers.Entry) int { return cmp.Compare(a.ID, b.ID) })
	d.folder.parts.prune(entries)
	d.folder.sidecars.prune(names)
	return entries, nil
}

// errNoEntry says that a file is none that is listed: a folder, or of no known
// extension.
var errNoEntry = disk.Errorf(disk.NotFound, "not an image")

// entry describes a file as it is now.
func (p *Provider) entry(d *dir, file string) (providers.Entry, error) {
	if !plainName(file) {
		return providers.Entry{}, errNoEntry
	}
	stem, ext, format, ok := p.split(file)
	if !ok {
		return providers.Entry{}, errNoEntry
	}
	st, reason, err := d.look(file)
	if err != nil {
		return providers.Entry{}, err
	}
	var parts []part
	if reason == "" {
		if parts, err = p.parts(d, file, format, st); err != nil {
			return providers.Entry{}, err
		}
	}
	set, err := p.set(d, file)
	if err != nil {
		return providers.Entry{}, err
	}
	companions, err := p.companions(d, file)
	if err != nil {
		return providers.Entry{}, err
	}
	all := set.parts(parts)
	side := p.sidecar(d, file)
	reason = cmp.Or(reason, set.reason)
	e := providers.Entry{
		Kind: d.folder.kind, ID: file, Version: side.version(versionOf(st, all)), Name: decodeName(stem),
		Created: st.born, Updated: newest(st, all), Status: "active", Reason: reason,
		Format: format, Size: st.size, VirtualSize: -1, Metadata: side.Metadata, MetaReason: side.reason,
		Disks: set.disks(st, parts), Companions: companions,
	}
	if e.Kind == providers.Instances {
		if of, taken, ok := p.splitCapture(file); ok {
			e.Name, e.Created = decodeName(of), taken
			e.Capture = d.captured(file, of+ext, taken)
		} else {
			e.Status = "running" // a folder cannot tell; this is the careful guess
		}
	}
	if reason != "" {
		e.Size = -1
	}
	return e, nil
}

// look describes the file, through a symlink that stays inside the folder, and
// says why it cannot be read.
func (d *dir) look(file string) (st state, reason string, err error) {
	st, mode, err := d.state(file)
	if err != nil {
		return state{}, "", err
	}
	switch mode {
	case unix.S_IFDIR:
		return state{}, "", errNoEntry
	case unix.S_IFLNK:
		return d.follow(file, st)
	case unix.S_IFREG:
	default:
		return st, reasonNotRegular, nil
	}
	err = unix.Faccessat(int(d.self.Fd()), file, unix.R_OK, unix.AT_EACCESS|unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return st, reasonDenied, nil
	case err != nil:
		return state{}, "", &fs.PathError{Op: "access", Path: file, Err: err}
	}
	return st, "", nil
}

// The reasons for which a file cannot be read.
const (
	reasonNotRegular = "not a regular file"
	reasonDenied     = "permission denied"
	reasonDangling   = "symlink leads nowhere"
	reasonEscapes    = "symlink is absolute or leads out of the folder"
)

// follow describes what a symlink leads to; link is the state of itself.
func (d *dir) follow(file string, link state) (state, string, error) {
	if info, err := d.root.Stat(file); err == nil && info.IsDir() {
		return state{}, "", errNoEntry
	}
	// Only by opening it is it known that it may be read.
	st, err := d.target(file)
	if reason := linkReason(err); reason != "" {
		return link, reason, nil
	}
	if err != nil {
		return state{}, "", err
	}
	st.born = link.born
	return st, "", nil
}

// linkReason tells why a symlink cannot be followed; it is empty for errors that
// are not the link's fault.
func linkReason(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil || errors.Is(err, fs.ErrClosed):
	case errors.Is(err, errNotRegular):
		return reasonNotRegular
	case !errors.As(err, &errno): // os.Root's own, which has no exported name
		return reasonEscapes
	case errno == unix.ENOENT || errno == unix.ENOTDIR || errno == unix.ELOOP:
		return reasonDangling
	case errors.Is(err, fs.ErrPermission):
		return reasonDenied
	}
	return ""
}
