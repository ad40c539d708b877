package fs

import (
	"context"
	"strconv"
	"strings"
	"syscall"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// Unlink drops an unfinished file. Data disks go only where the mount allows it, with
// all their names.
func (d *disksNode) Unlink(ctx context.Context, name string) syscall.Errno {
	if err := d.t.carryOut(ctx, func() error { return d.unlink(ctx, name) }); err != nil {
		return d.fail("unlink", name, err)
	}
	if !strings.HasPrefix(name, ".") {
		d.t.solve(join(d.path, name))
	}
	return 0
}

func (d *disksNode) unlink(ctx context.Context, name string) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	k := d.kind
	switch {
	case k.t.o.ReadOnly:
		return errReadOnly()
	case k.folder == nil:
		err := disk.Errorf(disk.Policy, "remove %q: a machine, or a capture of it, keeps its disks", name)
		return disk.Hint(err, "a capture is removed as a whole, by a mount with --allow-delete, or chromogenic rm")
	case strings.HasPrefix(name, "."):
		return k.folder.unlink(d.key(name))
	}
	n, device, f, ok := ParseDisk(name)
	if !ok {
		return disk.Errorf(disk.NotFound, "remove %q: there is no such disk", name)
	}
	m, err := d.machine(ctx)
	if err != nil {
		return err
	}
	ref, there := m.ref(k.site, n, f)
	to := goal{name: m.name, disk: n, device: device, format: f}
	if g := k.folder.unfinished(to.key(), callerProcess(ctx)); g != nil {
		return d.unlinkWriting(name, g, there)
	}
	switch {
	case !there:
		return disk.Errorf(disk.NotFound, "remove %q: there is no such disk", name)
	case !k.t.o.AllowDelete:
		return d.errNoDelete(name)
	case !k.keepsSets() || ref.Entry.Kind == providers.Images && (n == 0 || n >= len(ref.Entry.Disks)):
		err := disk.Errorf(disk.Unsupported, "remove %q: it is a part of the image", name)
		return disk.Hint(err, "remove the image")
	}
	return d.remove(ctx, name, n, ref)
}

// unlinkWriting drops what the program is writing. Of a disk that has the number
// nothing was overwritten, and the program is told that it stays.
func (d *disksNode) unlinkWriting(name string, g *staged, there bool) error {
	err := d.kind.folder.unlink(g.key)
	switch {
	case err != nil || !there:
		return err
	case !d.t.o.AllowDelete:
		return d.errNoDelete(name)
	}
	err = disk.Errorf(disk.Busy, "remove %q: what was being written is dropped; the disk of that number is as it was, and stays", name)
	return disk.Hint(err, "remove it once more, if it is to go too")
}

// errNoDelete refuses the removal of a disk.
func (d *disksNode) errNoDelete(name string) error {
	err := disk.Errorf(disk.Policy, "remove %q: the mount deletes no disks", name)
	return disk.Hint(err, "chromogenic rm %s:%s, or mount with --allow-delete: either removes it in all its formats", d.kind.site, join(join(string(d.kind.view.kind), d.stem+disksExt), name))
}

// remove removes a data disk by one of its names, for the program that asks.
func (d *disksNode) remove(ctx context.Context, name string, n int, ref pipeline.Ref) error {
	_, _, f, _ := ParseDisk(name)
	return d.t.removeFor(callerProcess(ctx), name, f, removable{
		path:    join(d.path, strconv.Itoa(n)),
		formats: func() ([]string, error) { return d.kind.listedIn(ctx, d.t.diskRows(), ref) },
		remove: func(by string) error {
			_, err := d.t.p.RemoveDisk(ctx, ref.Site, ref.Entry, ref.Disk, by)
			return err
		},
	})
}
