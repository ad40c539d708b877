package cleaner

import (
	"bytes"
	"errors"
	iofs "io/fs"
	"os"
	"path"

	"chromogenic/disk"
)

// An owner is a file's user and group, and its mode.
type owner struct {
	uid, gid int
	mode     uint32 // permissions with set-user-ID and the like, as chmod(2) has them
}

// write makes a file with a content. One that is there keeps its owner, mode and
// attributes; a symlink is followed within the guest, also one that leads nowhere yet.
// as is for a new one.
func (g *Guest) write(p string, text []byte, as owner) error {
	where, info, err := g.resolve(p, true)
	if err == nil {
		return g.writeOver(p, node{path: where, info: info}, text)
	}
	if !errors.Is(err, iofs.ErrNotExist) {
		return pathError(p, err)
	}
	if old, planned := g.planned[where]; planned && bytes.Equal(old, text) {
		return nil
	}
	if !g.opt.Plan {
		g.forget(where)
		dir, err := g.root.OpenRoot(inRoot(path.Dir(where)))
		if err != nil {
			return pathError(p, err)
		}
		defer dir.Close()
		if err := unlocked(dir, ".", func() error { return g.create(dir, path.Base(where), text, as) }); err != nil {
			return pathError(p, err)
		}
	} else {
		g.planned[where] = text
	}
	g.did(where, "written", 1, 0)
	return nil
}

func (g *Guest) writeOver(p string, n node, text []byte) error {
	if !n.regular() {
		return pathError(p, disk.Errorf(disk.Malformed, "is no regular file (%s)", n.info.Mode().Type()))
	}
	old, planned := g.planned[n.path]
	if !planned && n.info.Size() == int64(len(text)) {
		var err error
		if old, err = g.readNode(n); err != nil {
			return pathError(p, err)
		}
		planned = true
	}
	if planned && bytes.Equal(old, text) {
		return nil
	}
	if err := g.rewrite(n, text); err != nil {
		return pathError(p, err)
	}
	g.did(n.path, "written", 1, n.info.Size())
	return nil
}

func (g *Guest) create(dir *os.Root, name string, text []byte, as owner) error {
	f, err := createNew(dir, temporary)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Write(text); err == nil {
		err = g.give(f, as)
	}
	if err == nil {
		g.label(f, dir)
		err = dir.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(temporary))
	}
	return nil
}

// mkdir makes a folder and those above it that are missing; one that is there stays as
// it is.
func (g *Guest) mkdir(p string, as owner) error {
	n, ok, err := g.lookup(p, true)
	if err != nil {
		return err
	}
	if ok {
		if !n.folder() {
			return pathError(p, disk.Errorf(disk.Exists, "is no folder (%s)", n.info.Mode().Type()))
		}
		return nil
	}
	if g.planned[path.Clean(p)] != nil {
		return nil
	}
	if err := g.mkdir(path.Dir(path.Clean(p)), owner{as.uid, as.gid, 0o755}); err != nil {
		return err
	}
	if g.opt.Plan {
		g.planned[path.Clean(p)] = []byte{}
		g.did(path.Clean(p), "made", 1, 0)
		return nil
	}
	where, _, err := g.resolve(p, true)
	if !errors.Is(err, iofs.ErrNotExist) {
		return pathError(p, err)
	}
	g.forget(where)
	dir, err := g.root.OpenRoot(inRoot(path.Dir(where)))
	if err != nil {
		return pathError(p, err)
	}
	defer dir.Close()
	if err := g.makeFolder(dir, path.Base(where), as); err != nil {
		return pathError(p, err)
	}
	g.did(where, "made", 1, 0)
	return nil
}

func (g *Guest) makeFolder(dir *os.Root, name string, as owner) error {
	if err := unlocked(dir, ".", func() error { return dir.Mkdir(name, 0o700) }); err != nil {
		return err
	}
	f, err := openQuiet(dir, name)
	if err != nil {
		return err
	}
	defer f.Close()
	g.label(f, dir)
	return g.give(f, as)
}

// link makes a symlink, in the place of a file or symlink that may be there.
func (g *Guest) link(target, p string) error {
	n, ok, err := g.lookup(p, false)
	if err != nil {
		return err
	}
	if ok && n.folder() {
		return pathError(p, disk.Errorf(disk.Exists, "is a folder"))
	}
	if ok && n.info.Mode()&iofs.ModeSymlink != 0 {
		if old, err := g.root.Readlink(inRoot(n.path)); err == nil && old == target {
			return nil
		}
	}
	parent, there, err := g.lookup(path.Dir(path.Clean(p)), true)
	if err != nil {
		return err
	}
	where := path.Clean(p)
	if there {
		where = path.Join(parent.path, path.Base(p))
	}
	if !g.opt.Plan {
		if !there || !parent.folder() {
			return pathError(p, iofs.ErrNotExist)
		}
		g.forget(where)
		dir, err := g.root.OpenRoot(inRoot(parent.path))
		if err != nil {
			return pathError(p, err)
		}
		defer dir.Close()
		if err := unlocked(dir, path.Base(p), func() error { return symlink(dir, target, path.Base(p)) }); err != nil {
			return pathError(p, err)
		}
	}
	g.did(where, "linked", 1, 0)
	return nil
}

func symlink(dir *os.Root, target, name string) error {
	err := dir.Symlink(target, temporary)
	if errors.Is(err, iofs.ErrExist) {
		if err = dir.Remove(temporary); err == nil {
			err = dir.Symlink(target, temporary)
		}
	}
	if err == nil {
		err = dir.Rename(temporary, name)
	}
	return err
}
