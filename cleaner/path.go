package cleaner

import (
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

const (
	// maxNames of one folder are held at once, and of one pattern: some 70 MiB at most.
	maxNames = 1 << 18
	// maxLinks of a path, as the kernel has it: path_resolution(7).
	maxLinks = 40
	// maxDepth of folders in each other that are walked: each costs a descriptor. A
	// path of the guest's own programs has PATH_MAX bytes, 2048 folders at most.
	maxDepth = 500
	// listed at a time of a folder's names, so that a folder of any size costs little.
	listed = 1024
)

// A node is what a path of the guest leads to: where it really lies, without a
// symlink on the way, and what is there.
type node struct {
	path string // absolute in the guest, clean
	info iofs.FileInfo
}

func (n node) regular() bool { return n.info.Mode().IsRegular() }
func (n node) folder() bool  { return n.info.IsDir() }

func (n node) stat() *syscall.Stat_t { return statOf(n.info) }

func statOf(info iofs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }

func deviceOf(info iofs.FileInfo) uint64 { return uint64(statOf(info).Dev) }

// inRoot is the name that os.Root has for a clean absolute path of the guest.
func inRoot(p string) string {
	if p == "/" {
		return "."
	}
	return p[1:]
}

// unreachable tells whether an error means that no program of the guest finds
// anything there, so that nothing is to be cleaned.
func unreachable(err error) bool {
	for _, e := range []error{iofs.ErrNotExist, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// resolve walks a path as the guest's kernel would: an absolute symlink begins at the
// guest's "/", and ".." ends there. os.Root, which refuses absolute symlinks, is asked
// for paths without any, and stands guard. The error is that of the first name that
// is not there; where is then what the path would be with the rest behind it.
func (g *Guest) resolve(p string, follow bool) (where string, info iofs.FileInfo, err error) {
	where = "/"
	if info, err = g.lstatAt("/"); err != nil {
		return where, nil, err
	}
	rest := strings.Split(p, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			where = path.Dir(where)
			if info, err = g.lstatAt(where); err != nil {
				return where, nil, err
			}
			continue
		}
		next := path.Join(where, name)
		if !info.IsDir() {
			return path.Join(next, path.Join(rest...)), nil, syscall.ENOTDIR
		}
		below, err := g.lstatAt(next)
		if err != nil {
			return path.Join(next, path.Join(rest...)), nil, err
		}
		if below.Mode()&iofs.ModeSymlink != 0 && (follow || slices.ContainsFunc(rest, func(s string) bool { return s != "" })) {
			if links++; links > maxLinks {
				return next, nil, syscall.ELOOP
			}
			target, err := g.root.Readlink(inRoot(next))
			if err != nil {
				return next, nil, err
			}
			if strings.HasPrefix(target, "/") {
				where = "/"
				if info, err = g.lstatAt("/"); err != nil {
					return where, nil, err
				}
			}
			rest = slices.Concat(strings.Split(target, "/"), rest)
			continue
		}
		where, info = next, below
	}
	return where, info, nil
}

// lookup finds what a path leads to; ok is false where no program of the guest would
// find anything. A symlink at its end is followed if follow is set.
func (g *Guest) lookup(p string, follow bool) (n node, ok bool, err error) {
	where, info, err := g.resolve(p, follow)
	if err != nil {
		if unreachable(err) {
			return node{}, false, nil
		}
		return node{}, false, pathError(p, err)
	}
	return node{path: where, info: info}, true, nil
}

// exists tells whether a path leads anywhere; what cannot be looked at does not.
func (g *Guest) exists(p string) bool {
	_, ok, err := g.lookup(p, true)
	return ok && err == nil
}

// glob are the paths that match a pattern, each part of it as path.Match has it, in
// order. Folders on the way may be symlinks; a match itself is not followed. A part
// that begins with a wildcard matches hidden names too: secrets are often hidden.
func (g *Guest) glob(pattern string) ([]string, error) {
	found := []string{"/"}
	for _, part := range strings.Split(strings.Trim(pattern, "/"), "/") {
		if !strings.ContainsAny(part, `*?[\`) {
			for i := range found {
				found[i] = path.Join(found[i], part)
			}
			continue
		}
		var next []string
		for _, folder := range found {
			names, err := g.names(folder)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				if ok, err := path.Match(part, name); err != nil {
					return nil, disk.Errorf(disk.Invalid, "match pattern %q: %w", pattern, err)
				} else if ok {
					next = append(next, path.Join(folder, name))
				}
			}
			if len(next) > maxNames {
				return nil, pathError(pattern, disk.Errorf(disk.TooLarge, "matches more than %d names", maxNames))
			}
		}
		found = next
	}
	var there []string
	for _, p := range found {
		if _, ok, err := g.lookup(p, false); err != nil {
			return nil, err
		} else if ok {
			there = append(there, p)
		}
	}
	slices.Sort(there)
	return there, nil
}

// names are those of a folder in order; none if it is no folder.
func (g *Guest) names(folder string) (names []string, err error) {
	n, ok, err := g.lookup(folder, true)
	if err != nil || !ok || !n.folder() {
		return nil, err
	}
	err = g.list(n.path, func(some []string) error {
		if names = append(names, some...); len(names) > maxNames {
			return disk.Errorf(disk.TooLarge, "the folder has more than %d names", maxNames)
		}
		return nil
	})
	if err != nil {
		return nil, pathError(folder, err)
	}
	slices.Sort(names)
	return names, nil
}

// An entry is one that walk comes by.
type entry struct {
	node
	dir  *branch // the folder it is in
	name string
}

// A branch is a folder that walk has come to. It is opened when something in it is read
// or changed.
type branch struct {
	g    *Guest
	path string
	root *os.Root
	fd   int // 0 for none
}

// in is the folder for what changes it.
func (b *branch) in() (*os.Root, error) {
	if b.root != nil {
		return b.root, nil
	}
	var err error
	b.root, err = b.g.root.OpenRoot(inRoot(b.path))
	return b.root, err
}

// folder is the folder for what is read in it, by single names.
func (b *branch) folder() (fd int, err error) {
	if b.fd == 0 {
		if fd, err = b.g.openFolder(b.path); err != nil {
			return 0, err
		}
		b.fd = fd
	}
	return b.fd, nil
}

func (b *branch) close() {
	if b.root != nil {
		b.root.Close()
	}
	if b.fd != 0 {
		unix.Close(b.fd)
	}
}

// errSkip tells walk not to go into a folder.
var errSkip = errors.New("skip this folder")

// walk visits everything below a folder, each folder before what is in it, in the
// folder's own order. It follows no symlink and stays on the guest's filesystems. visit
// may change and remove what it is given, and adds no names.
func (g *Guest) walk(folder string, visit func(entry) error) error {
	n, ok, err := g.lookup(folder, true)
	if err != nil || !ok || !n.folder() || !g.ownAt(n) {
		return err
	}
	return g.walkIn(n.path, 0, visit)
}

func (g *Guest) walkIn(at string, depth int, visit func(entry) error) error {
	if depth > maxDepth {
		return pathError(at, disk.Errorf(disk.TooLarge, "lies in more than %d folders", maxDepth))
	}
	b := &branch{g: g, path: at}
	defer b.close()
	err := g.list(at, func(names []string) error {
		for _, name := range names {
			if err := g.visit(b, name, depth, visit); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, iofs.ErrNotExist) && depth > 0 {
		return nil // the visit has removed it
	}
	return pathError(at, err)
}

func (g *Guest) visit(b *branch, name string, depth int, visit func(entry) error) error {
	if err := g.ctx.Err(); err != nil {
		return err
	}
	p := path.Join(b.path, name)
	info, err := g.lstatAt(p)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil // a visit before has removed it
	}
	if err != nil {
		return pathError(p, err)
	}
	n := node{path: p, info: info}
	if !g.ownAt(n) {
		g.warn("%s is left as it is: a filesystem that is not the guest's is mounted there", show(p))
		return nil
	}
	err = visit(entry{node: n, dir: b, name: name})
	if errors.Is(err, errSkip) {
		return nil
	}
	if err != nil || !info.IsDir() || g.gone[p] {
		return err
	}
	return g.walkIn(p, depth+1, visit)
}

// A failure is an error with the path of the guest that it is about.
type failure struct {
	path string
	err  error
}

func (f *failure) Error() string { return show(f.path) + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// pathError says which path of the guest an error is about, unless that is said. What
// the standard library says of a path in its root is left out; a context that has
// ended is about no path.
func pathError(p string, err error) error {
	var f *failure
	if err == nil || errors.As(err, &f) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var inner *iofs.PathError
	var link *os.LinkError
	if errors.As(err, &inner) {
		err = inner.Err
	} else if errors.As(err, &link) {
		err = link.Err
	}
	return &failure{path: p, err: err}
}
