package fs

import (
	"context"
	"strings"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Rename publishes an unfinished file, moves it, or gives an image another name.
func (k *kindNode) Rename(ctx context.Context, name string, to gofuse.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	key := ""
	if strings.HasPrefix(name, ".") {
		key = name
	}
	return k.rename(ctx, &k.dirNode, key, name, to, newName, flags)
}

// rename is that of a directory at; key is that of an unfinished file, empty for
// a public name.
func (k *kindNode) rename(ctx context.Context, at *dirNode, key, name string, to gofuse.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	folder, newKey, newPath := destination(to, newName)
	path := join(at.path, name)
	if err := k.t.carryOut(ctx, func() error { return k.move(ctx, key, name, to, newName, flags) }); err != nil {
		if folder == k.folder && key != "" && newKey == "" {
			path = newPath // it is the image that has failed; the copy is removed now
		}
		return k.t.fail("rename", path, err)
	}
	k.t.solve(path)
	k.t.solve(newPath)
	return 0
}

func (k *kindNode) move(ctx context.Context, key, name string, to gofuse.InodeEmbedder, newName string, flags uint32) error {
	if err := k.writable(); err != nil {
		return err
	}
	if flags&^unix.RENAME_NOREPLACE != 0 {
		return disk.Errorf(disk.Invalid, "rename %q: nothing can be exchanged here", name)
	}
	folder, newKey, newPath := destination(to, newName)
	if folder != k.folder {
		// Never EXDEV: mv would copy the image and then remove it.
		err := disk.Errorf(disk.Policy, "rename %q: it cannot leave its directory", name)
		return disk.Hint(err, "copy it with cp, and remove the original where it lives")
	}
	noReplace := flags&unix.RENAME_NOREPLACE != 0
	if _, dir := disksStem(name); dir && key == "" {
		err := disk.Errorf(disk.Policy, "rename %q: the directory has the name of its image", name)
		return disk.Hint(err, "rename the image; its disks go with it")
	}
	switch {
	case key != "" && newKey != "":
		return folder.rename(key, newKey, newPath, noReplace)
	case key != "":
		return k.publish(ctx, key, to, newName, noReplace)
	case newKey != "", k.inDisks(to):
		err := disk.Errorf(disk.Policy, "rename %q to %q: an image keeps a public name", name, newName)
		return disk.Hint(err, "names with a leading dot are for unfinished copies")
	}
	return k.renameImage(ctx, name, newName)
}

// destination is the folder that a directory belongs to, and the key and path of
// a name in it; the key is empty for a public name.
func destination(to gofuse.InodeEmbedder, name string) (f *folder, key, path string) {
	switch d := to.(type) {
	case *kindNode:
		if strings.HasPrefix(name, ".") {
			key = name
		}
		return d.folder, key, join(d.path, name)
	case *dotDir:
		return d.kind.folder, d.key(name), join(d.path, name)
	case *disksNode:
		if strings.HasPrefix(name, ".") {
			key = d.key(name)
		}
		return d.kind.folder, key, join(d.path, name)
	}
	return nil, "", ""
}

// rename moves an unfinished file within the folder.
func (f *folder) rename(from, to, path string, noReplace bool) error {
	old, err := f.rekey(from, to, path, noReplace)
	if old != nil {
		old.drop()
	}
	return err
}

// rekey gives the file of a key another one, and whose it was, to be dropped.
func (f *folder) rekey(from, to, path string, noReplace bool) (old *staged, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, old := f.files[from], f.files[to]
	switch {
	case g == nil:
		return nil, disk.Errorf(disk.NotFound, "rename: there is no unfinished file of that name")
	case g == old:
		return nil, nil
	case f.dirs[to] != nil, old != nil && noReplace:
		return nil, disk.Errorf(disk.Exists, "rename: the name is taken")
	}
	delete(f.files, from)
	f.files[to] = g
	g.mu.Lock()
	g.key, g.path = to, path
	g.mu.Unlock()
	return old, nil
}

// publish makes an image of an unfinished file: what rsync, and everybody who
// writes carefully, ends with.
func (k *kindNode) publish(ctx context.Context, key string, dir gofuse.InodeEmbedder, newName string, noReplace bool) error {
	to, there, err := k.target(ctx, dir, newName)
	if err != nil {
		return err
	}
	g, _ := k.folder.hidden(key)
	if g == nil {
		return disk.Errorf(disk.NotFound, "rename: there is no unfinished file of that name")
	}
	if noReplace && there {
		return disk.Errorf(disk.Exists, "rename to %q: the image exists", newName)
	}
	if err := g.commit(ctx, to); err != nil {
		return err
	}
	k.folder.remove(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.path = to.path
	if g.opens == 0 {
		g.spool.Close()
	}
	return nil
}

// target is what a public name in a directory will be, and whether it is there.
func (k *kindNode) target(ctx context.Context, dir gofuse.InodeEmbedder, name string) (to goal, there bool, err error) {
	if d, ok := dir.(*disksNode); ok {
		return d.target(ctx, name)
	}
	stem, f, err := target(name)
	if err == nil && roleOf(f) != "" {
		err = k.companionsWritable()
	}
	if err != nil {
		return to, false, err
	}
	n, err := k.find(ctx, stem)
	if role := roleOf(f); role != "" && err == nil {
		_, there, err = k.companion(ctx, stem, n, role)
		return goal{name: Decode(stem), format: f, path: join(k.path, name)}, there, err
	}
	return goal{name: Decode(stem), format: f, path: join(k.path, name)}, n != nil, err
}

// ready tells why an unfinished file is not to be published by a rename. It is
// called under mu.
func (g *staged) ready() error {
	switch {
	case g.public():
	case g.timed && g.mtime.Unix() == 0:
		// What rsync --partial does with what it has when it is killed.
		err := disk.Errorf(disk.Interrupted, "publish file: its modification time is 1970, by which rsync marks a copy that was cut off")
		return disk.Hint(err, "copy it again; an image that is really so old can be copied with rsync --inplace or without --times")
	case g.unflushed:
		return disk.Errorf(disk.Busy, "publish file: it is still being written")
	case g.spool.Size() == 0:
		return disk.Errorf(disk.Invalid, "publish file: it is empty")
	}
	return nil
}

// renameImage gives an image another name, where the provider can.
func (k *kindNode) renameImage(ctx context.Context, name, newName string) error {
	newStem, newFormat, err := target(newName)
	if err != nil {
		return err
	}
	stem, f, ok := parseFile(name)
	if !ok {
		return disk.Errorf(disk.NotFound, "rename %q: there is no such file", name)
	}
	if f.Name == JSONName {
		err := disk.Errorf(disk.Policy, "rename %q: metadata has the name of its image", name)
		return disk.Hint(err, "rename the image, or copy the metadata with cp")
	}
	if roleOf(f) != "" {
		err := disk.Errorf(disk.Policy, "rename %q: a %s has the name of its image", name, f.Name)
		return disk.Hint(err, "rename the image, or copy the file with cp")
	}
	if f.Name != newFormat.Name {
		err := disk.Errorf(disk.Unsupported, "rename %q to %q: a rename does not convert", name, newName)
		return disk.Hint(err, "every image is there in every format: read it as %s", stem+"."+newFormat.Exts[0])
	}
	if k.folder.unfinished(publicKey(Decode(stem), f), callerProcess(ctx)) != nil {
		return disk.Errorf(disk.Busy, "rename %q: it is still being written", name)
	}
	n, err := k.find(ctx, stem)
	if err != nil {
		return err
	}
	if n == nil {
		return disk.Errorf(disk.NotFound, "rename %q: there is no such image", name)
	}
	newTrue := Decode(newStem)
	if err := k.free(ctx, newTrue, n.Entry.ID); err != nil {
		return err
	}
	p, _ := k.t.p.Provider(k.site)
	r, ok := p.(providers.Renamer)
	if !ok {
		return disk.Errorf(disk.Policy, "rename %q: provider %q renames no images", name, k.site)
	}
	_, err = r.Rename(context.WithoutCancel(ctx), n.Entry, newTrue)
	k.t.p.Forget(k.site)
	return err
}

// free tells whether no other image has a name, for a rename replaces none.
func (k *kindNode) free(ctx context.Context, name, id string) error {
	x, err := k.index(ctx)
	if err != nil {
		return err
	}
	if n, ok := x.Find(Encode(name)); ok && n.Entry.ID != id {
		return disk.Errorf(disk.Exists, "rename to %q: the image exists", name)
	}
	return nil
}
