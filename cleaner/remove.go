package cleaner

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"syscall"

	"chromogenic/disk"
)

// remove takes away what the patterns match: files, symlinks (never what they lead
// to), folders with all that is in them. What is not there is no error.
func (g *Guest) remove(patterns ...string) error {
	for _, pattern := range patterns {
		paths, err := g.glob(pattern)
		if err != nil {
			return err
		}
		for _, p := range paths {
			if err := g.removePath(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *Guest) removePath(p string) error {
	n, ok, err := g.lookup(p, false)
	if err != nil || !ok {
		return err
	}
	if n.path == "/" {
		return pathError(p, disk.Errorf(disk.Invalid, "the root is not to be removed"))
	}
	dir := &branch{g: g, path: path.Dir(n.path)}
	defer dir.close()
	return g.removeEntry(entry{node: n, dir: dir, name: path.Base(n.path)})
}

// removeEntry removes what walk came by.
func (g *Guest) removeEntry(e entry) error {
	top, err := e.dir.in()
	if err != nil {
		return pathError(e.path, err)
	}
	g.forget(e.path)
	r := removal{g: g, top: top}
	if err := r.tree(e.path, e.name); err != nil {
		return err
	}
	g.did(e.path, "removed", r.files, r.bytes)
	return nil
}

// empty removes what is in folders, but for what keep says by its path, and leaves the
// folders as they are. lost+found belongs to the filesystem, and is emptied.
func (g *Guest) empty(keep func(string) bool, patterns ...string) error {
	for _, pattern := range patterns {
		folders, err := g.glob(pattern)
		if err != nil {
			return err
		}
		for _, folder := range folders {
			if err := g.emptyPath(folder, keep); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *Guest) emptyPath(folder string, keep func(string) bool) error {
	return g.walk(folder, func(e entry) error {
		switch {
		case keep != nil && keep(e.path):
			return errSkip
		case e.name == "lost+found" && e.folder():
			return nil
		}
		return g.removeEntry(e)
	})
}

// A removal of one tree, however deep: folders deeper than maxDepth are lifted to the
// folder that the tree is in, and removed from there in their turn.
type removal struct {
	g      *Guest
	top    *os.Root // the folder that the tree is in
	lifted []string // names in top
	files  int64
	bytes  int64
}

// tree removes what name in top is.
func (r *removal) tree(at, name string) error {
	if err := r.entry(r.top, at, name, name, 0); err != nil {
		return err
	}
	for len(r.lifted) > 0 {
		last := len(r.lifted) - 1
		lifted := r.lifted[last]
		r.lifted = r.lifted[:last]
		if err := r.entry(r.top, path.Join(path.Dir(at), lifted), lifted, lifted, 0); err != nil {
			return err
		}
	}
	return nil
}

// entry removes one name of a folder. rel is its path from top.
func (r *removal) entry(dir *os.Root, at, name, rel string, depth int) error {
	if r.g.gone[at] {
		return nil
	}
	info, err := dir.Lstat(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return pathError(at, err)
	}
	if !r.g.own(dir, name, info) {
		return pathError(at, disk.Errorf(disk.Busy, "a filesystem that is not the guest's is mounted here"))
	}
	if info.IsDir() {
		err = r.folder(dir, at, name, rel, depth, info)
	} else {
		err = r.file(dir, at, name, info)
	}
	if err == nil && r.g.opt.Plan && depth == 0 && len(r.g.gone) < maxNames {
		r.g.gone[at] = true // what is not noted is counted twice, if another operation finds it
	}
	return err
}

func (r *removal) file(dir *os.Root, at, name string, info iofs.FileInfo) error {
	r.files++
	if info.Mode().IsRegular() {
		if links := statOf(info).Nlink; links == 1 {
			r.bytes += info.Size()
		} else {
			r.g.warn("%s has other names (%d in all), under which its content stays", show(at), links)
		}
	}
	if r.g.opt.Plan {
		return nil
	}
	return pathError(at, unlocked(dir, name, func() error { return dir.Remove(name) }))
}

func (r *removal) folder(dir *os.Root, at, name, rel string, depth int, info iofs.FileInfo) error {
	if depth > maxDepth {
		return r.lift(at, rel)
	}
	if !r.g.opt.Plan && destroySubvolume(dir, name, info) {
		r.files++
		return nil
	}
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return pathError(at, err)
	}
	defer sub.Close()
	// Names that a pass misses, because the folder changes under it, are found by the
	// next.
	for before := int64(-1); before != r.files; {
		before = r.files
		if err := r.pass(sub, at, rel, depth); err != nil {
			return err
		}
		if r.g.opt.Plan {
			return nil
		}
	}
	err = unlocked(dir, name, func() error { return dir.Remove(name) })
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOTEMPTY) && onlyFolders(sub) {
		return nil // a filesystem of the guest is mounted here or below: that folder stays
	}
	return pathError(at, err)
}

func (r *removal) pass(dir *os.Root, at, rel string, depth int) error {
	f, err := dir.Open(".")
	if err != nil {
		return pathError(at, err)
	}
	defer f.Close()
	for {
		if err := r.g.ctx.Err(); err != nil {
			return err
		}
		names, err := f.Readdirnames(listed)
		for _, name := range names {
			if err := r.entry(dir, path.Join(at, name), name, rel+"/"+name, depth+1); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return pathError(at, err)
		}
	}
}

// onlyFolders tells whether folders alone are left in one.
func onlyFolders(dir *os.Root) bool {
	f, err := dir.Open(".")
	if err != nil {
		return false
	}
	defer f.Close()
	left, err := f.ReadDir(listed)
	for _, e := range left {
		if !e.IsDir() {
			return false
		}
	}
	return err == nil
}

// lift moves a folder that lies too deep into top. A plan counts no deeper.
func (r *removal) lift(at, rel string) error {
	if r.g.opt.Plan {
		return nil
	}
	for n := len(r.lifted); ; n++ {
		name := fmt.Sprintf("%s-%d", temporary, n)
		if _, err := r.top.Lstat(name); err == nil {
			continue
		}
		if err := r.top.Rename(rel, name); err != nil {
			return pathError(at, err)
		}
		r.lifted = append(r.lifted, name)
		return nil
	}
}
