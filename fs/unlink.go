package fs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// Unlink drops an unfinished file. Images and captures go only where the mount
// allows it, with all their names, and live machines never.
func (k *kindNode) Unlink(ctx context.Context, name string) syscall.Errno {
	if err := k.t.carryOut(ctx, func() error { return k.unlink(ctx, name) }); err != nil {
		return k.fail("unlink", name, err)
	}
	if !strings.HasPrefix(name, ".") {
		k.t.solve(join(k.path, name))
	}
	return 0
}

func (k *kindNode) unlink(ctx context.Context, name string) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	if k.t.o.ReadOnly {
		return errReadOnly()
	}
	if k.folder != nil && strings.HasPrefix(name, ".") {
		return k.folder.unlink(name)
	}
	stem, f, ok := k.parse(name)
	if !ok {
		return disk.Errorf(disk.NotFound, "remove %q: there is no such file", name)
	}
	if k.folder != nil {
		if g := k.folder.unfinished(publicKey(Decode(stem), f), callerProcess(ctx)); g != nil {
			return k.unlinkWriting(ctx, name, stem, g)
		}
	}
	if f.Name == JSONName {
		return k.unlinkJSON(ctx, name, Decode(stem))
	}
	if roleOf(f) != "" {
		return k.unlinkCompanion(ctx, name, stem, f)
	}
	n, err := k.find(ctx, stem)
	switch {
	case err != nil:
		return err
	case n == nil:
		return disk.Errorf(disk.NotFound, "remove %q: there is no such image", name)
	case n.Entry.Live():
		err := disk.Errorf(disk.Policy, "remove %q: a live machine is never removed here", name)
		return disk.Hint(err, "remove it where it runs; its captures can be removed, by a mount with --allow-delete, or chromogenic rm")
	case k.view.cleans:
		err := disk.Errorf(disk.Policy, "remove %q: it is a view of an image, which would go too", name)
		return disk.Hint(err, "remove the image itself, in images/")
	case !k.t.o.AllowDelete:
		return k.errNoDelete(name, n)
	}
	return k.remove(ctx, name, n, f)
}

// unlinkWriting drops what the program is writing. Of an image that has the name
// nothing was overwritten, and the program is told that it stays.
func (k *kindNode) unlinkWriting(ctx context.Context, name, stem string, g *staged) error {
	if err := k.folder.unlink(g.key); err != nil || g.format.Name == JSONName {
		return err
	}
	n, err := k.find(ctx, stem)
	switch {
	case err != nil || n == nil:
		return err
	case !k.t.o.AllowDelete:
		return k.errNoDelete(name, n)
	}
	err = disk.Errorf(disk.Busy, "remove %q: what was being written is dropped; the image of that name is as it was, and stays", name)
	return disk.Hint(err, "remove it once more, if it is to go too")
}

// errNoDelete refuses the removal of an image.
func (k *kindNode) errNoDelete(name string, n *Named) error {
	err := disk.Errorf(disk.Policy, "remove %q: the mount deletes no images", name)
	return disk.Hint(err, "chromogenic rm %s:%s/%s, or mount with --allow-delete: either removes it in all its formats", k.site, k.view.kind, n.Name)
}

// A removable is what goes with a name, and with all others that it has: an image, or
// one disk of it.
type removable struct {
	path    string                   // without the extension of a format
	formats func() ([]string, error) // in which its directory lists it
	remove  func(by string) error    // for good
}

// remove removes an image by one of its names, for the program that asks.
func (k *kindNode) remove(ctx context.Context, name string, n *Named, f formats.Format) error {
	return k.t.removeFor(callerProcess(ctx), name, f, removable{
		path: join(k.path, n.Name),
		formats: func() ([]string, error) {
			return k.listedIn(ctx, k.lister().rowsOf(&n.Entry), pipeline.Ref{Site: k.site, Entry: n.Entry})
		},
		remove: func(by string) error {
			_, err := k.t.p.Remove(ctx, k.site, n.Entry, by, false)
			if err == nil && k.folder != nil {
				_, _ = k.folder.rmdir(disksKey(trueName(n.Entry))) // where something is being written it stays
			}
			return err
		},
	})
}

// removeFor removes something by one of its names, for a program.
func (t *tree) removeFor(by process, name string, f formats.Format, what removable) error {
	spree := t.sprees.of(by)
	defer spree.done()
	r := spree.image(what.path)
	fresh := !slices.Contains(r.names, f.Name)
	r.names = append(r.names, f.Name)
	switch {
	case r.gone && fresh:
		err := disk.Errorf(disk.Busy, "remove %q: it is of an image that has come since this program removed the one of that name", name)
		return disk.Hint(err, "remove it once more, if that one is to go too")
	case r.gone:
		*r = removal{names: []string{f.Name}}
	}
	if by.syncs() {
		all, err := what.formats()
		if err != nil {
			return err
		}
		for _, other := range all {
			if slices.Contains(r.names, other) {
				continue
			}
			if len(r.names) == 1 {
				t.log.Info("an image stays until all its names are removed", "path", what.path, "for", by.String())
			}
			return nil
		}
	}
	err := what.remove(by.String())
	r.gone = err == nil
	return err
}

// listedIn are the formats among rows in which a directory lists an image, or one
// disk of it.
func (k *kindNode) listedIn(ctx context.Context, rows []formats.Format, ref pipeline.Ref) ([]string, error) {
	var names []string
	for _, f := range rows {
		ref.Format = f.Name
		show, err := k.shows(ctx, &ref, &f, k.cheap())
		if err != nil {
			return nil, err
		}
		if show {
			names = append(names, f.Name)
		}
	}
	return names, nil
}

// unlinkJSON removes what was set of the metadata of an image, where the image may
// be removed, and what waits for an image.
func (k *kindNode) unlinkJSON(ctx context.Context, file, name string) error {
	n, err := k.named(ctx, name)
	if err != nil {
		return err
	}
	_, held := k.t.p.HeldMeta(k.site, name)
	switch {
	case n == nil && held:
		return k.t.p.DropMeta(k.site, name)
	case n == nil:
		return disk.Errorf(disk.NotFound, "remove %q: there is no such image", file)
	case !k.t.o.AllowDelete:
		err := disk.Errorf(disk.Policy, "remove %q: the mount deletes no metadata", file)
		return disk.Hint(err, "write other metadata instead, or mount with --allow-delete, which removes what was set")
	}
	if by := callerProcess(ctx); by.syncs() { // the other side may know no such names
		k.t.log.Info("metadata stays with its image", "path", join(k.path, file), "for", by.String())
		return nil
	}
	// Whoever removes all names of an image that stays must not take this from it.
	if _, err := k.t.p.PlanRemoval(ctx, k.site, n.Entry, false); err != nil {
		return fmt.Errorf("remove its metadata: %w", err)
	}
	_, err = k.t.p.SetMeta(context.WithoutCancel(ctx), k.site, n.Entry, providers.Metadata{})
	return err
}

// unlink drops the file of a key.
func (f *folder) unlink(key string) error {
	f.mu.Lock()
	g := f.files[key]
	delete(f.files, key)
	f.mu.Unlock()
	if g == nil {
		return disk.Errorf(disk.NotFound, "remove file: there is none of that name")
	}
	g.drop()
	return nil
}

// drop ends a file that will be no image. Who has it open may go on with it.
func (g *staged) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = dropped
	if g.opens == 0 {
		g.spool.Close()
	}
}
