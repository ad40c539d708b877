package cleaner

import (
	"bytes"
	"errors"
	iofs "io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// maxText of a file is read into memory. No file that people or programs edit comes
// near, and the cleaner has to live in 256 MiB.
const maxText = 8 << 20

// temporary is the name that a new file has until it takes the place of the old one.
const temporary = ".chromogenic-new"

// read gives a file's bytes. ok is false where there is none: a folder of that name is
// none either, for families differ (/etc/sysconfig/network is a file of Red Hat's, and
// a folder of SUSE's). Symlinks are followed within the guest. A device or the like is
// not opened, and an error, as is a file of more than maxText.
func (g *Guest) read(p string) (text []byte, ok bool, err error) {
	n, ok, err := g.lookup(p, true)
	if err != nil || !ok || n.folder() {
		return nil, false, err
	}
	text, err = g.readNode(n)
	return text, err == nil, pathError(p, err)
}

func (g *Guest) readNode(n node) ([]byte, error) {
	if text, planned := g.planned[n.path]; planned {
		return text, nil
	}
	if !n.regular() {
		return nil, disk.Errorf(disk.Malformed, "is no regular file (%s)", n.info.Mode().Type())
	}
	if n.info.Size() > maxText {
		return nil, disk.Errorf(disk.TooLarge, "has %d bytes, more than the %d that are read of a text", n.info.Size(), maxText)
	}
	fd, err := g.openBeneath(n.path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return nil, err
	}
	if was := n.stat(); now.Dev != was.Dev || now.Ino != was.Ino {
		return nil, disk.Errorf(disk.Stale, "has changed while it was opened")
	}
	text := make([]byte, min(now.Size, maxText))
	k, err := readOpen(fd, text)
	return text[:k], err
}

// openFile opens what was looked up, if it is still that.
func (g *Guest) openFile(n node, flag int) (*os.File, error) {
	if flag != os.O_RDONLY {
		g.forget(n.path)
	}
	f, err := g.root.OpenFile(inRoot(n.path), flag|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !sameFile(info, n.info) {
		err = disk.Errorf(disk.Stale, "has changed while it was opened")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// edit rewrites a file with what change makes of it; where change leaves it as it is,
// nothing is written. It tells whether there was something to change.
func (g *Guest) edit(p string, change func([]byte) []byte) (bool, error) {
	n, ok, err := g.lookup(p, true)
	if err != nil || !ok || n.folder() {
		return false, err
	}
	old, err := g.readNode(n)
	if err != nil {
		return false, pathError(p, err)
	}
	text := change(bytes.Clone(old))
	if bytes.Equal(old, text) {
		return false, nil
	}
	if err := g.rewrite(n, text); err != nil {
		return false, pathError(p, err)
	}
	g.did(n.path, "edited", 1, int64(max(len(old)-len(text), 0)))
	return true, nil
}

// editAll is edit of all files that match patterns.
func (g *Guest) editAll(change func([]byte) []byte, patterns ...string) error {
	for _, pattern := range patterns {
		paths, err := g.glob(pattern)
		if err != nil {
			return err
		}
		for _, p := range paths {
			if _, err := g.edit(p, change); err != nil {
				return err
			}
		}
	}
	return nil
}

// rewrite puts a new file in the place of one, all at once, with its owner, mode and
// attributes. The old blocks become free, and are discarded by whoever opened the
// disk. A file with several names is written in place instead: none of them may keep
// what was taken out.
func (g *Guest) rewrite(n node, text []byte) error {
	if g.opt.Plan {
		g.planned[n.path] = text
		return nil
	}
	g.forget(n.path)
	dir, err := g.root.OpenRoot(inRoot(path.Dir(n.path)))
	if err != nil {
		return err
	}
	defer dir.Close()
	name := path.Base(n.path)
	if n.stat().Nlink > 1 {
		return unlocked(dir, name, func() error { return g.overwrite(n, text) })
	}
	return unlocked(dir, name, func() error { return g.replace(dir, name, n, text) })
}

func (g *Guest) replace(dir *os.Root, name string, n node, text []byte) error {
	old, err := g.openFile(n, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer old.Close()
	f, err := createNew(dir, temporary)
	if err != nil {
		return err
	}
	defer f.Close()
	var refused []string
	if _, err = f.Write(text); err == nil {
		st := n.stat()
		err = g.give(f, owner{int(st.Uid), int(st.Gid), st.Mode & 0o7777})
	}
	if err == nil {
		refused, err = copyAttrs(f, old)
	}
	if err == nil {
		err = dir.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(temporary))
	}
	g.lost(n.path, refused)
	return nil
}

// createNew makes a file that only root can read, in the place of one that a run
// which was ended has left.
func createNew(dir *os.Root, name string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	f, err := dir.OpenFile(name, flags, 0o600)
	if errors.Is(err, iofs.ErrExist) {
		if err = dir.Remove(name); err == nil {
			f, err = dir.OpenFile(name, flags, 0o600)
		}
	}
	return f, err
}

// give gives a file its owner and mode. The owner is first: to change it takes
// set-user-ID away. Who is not root may keep the owner alone, and says so.
func (g *Guest) give(f *os.File, as owner) error {
	err := f.Chown(as.uid, as.gid)
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		g.warn("files that were made or rewritten have the owner of this process: only root can give them to others")
		err = nil
	}
	if err != nil {
		return err
	}
	return unix.Fchmod(int(f.Fd()), as.mode)
}

func (g *Guest) overwrite(n node, text []byte) error {
	f, err := g.openFile(n, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	return f.Close()
}

// truncate empties files in place: inode, owner, mode and attributes stay, and
// whoever has them open goes on. Others than regular files are left alone.
func (g *Guest) truncate(patterns ...string) error {
	for _, pattern := range patterns {
		paths, err := g.glob(pattern)
		if err != nil {
			return err
		}
		for _, p := range paths {
			n, ok, err := g.lookup(p, true)
			if err != nil {
				return err
			}
			if ok && n.regular() {
				if err := g.truncateNode(n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (g *Guest) truncateNode(n node) error {
	dir := &branch{g: g, path: path.Dir(n.path)}
	defer dir.close()
	return g.truncateEntry(entry{node: n, dir: dir, name: path.Base(n.path)})
}

func (g *Guest) truncateEntry(e entry) error {
	if text, planned := g.planned[e.path]; e.info.Size() == 0 && e.stat().Blocks == 0 || planned && len(text) == 0 {
		return nil
	}
	if g.opt.Plan {
		g.planned[e.path] = nil
	} else {
		dir, err := e.dir.in()
		if err == nil {
			err = unlocked(dir, e.name, func() error { return truncateIn(dir, e) })
		}
		if err != nil {
			return pathError(e.path, err)
		}
	}
	g.did(e.path, "truncated", 1, e.info.Size())
	return nil
}

func truncateIn(dir *os.Root, e entry) error {
	const flag = os.O_WRONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW
	f, err := dir.OpenFile(e.name, flag, 0)
	if errors.Is(err, unix.EACCES) && dir.Chmod(e.name, 0o600) == nil {
		f, err = dir.OpenFile(e.name, flag, 0) // who is not root, and owns it
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || !sameFile(info, e.info) {
		return disk.Errorf(disk.Stale, "has changed while it was opened")
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if info, err = f.Stat(); err != nil || info.Mode() == e.info.Mode() {
		return err
	}
	return unix.Fchmod(int(f.Fd()), e.stat().Mode&0o7777) // to change a file can take set-user-ID away
}
