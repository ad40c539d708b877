package cleaner

import (
	"errors"
	iofs "io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Operations look at the same folders again and again, and in a small kernel every
// question takes long. So what was looked up is known until it is changed: nobody else
// changes the tree meanwhile.
type lookups struct {
	known  map[string]looked   // by paths without symlinks
	lists  map[string][]string // the names of folders, in their own order
	missed map[string]int      // paths in a folder that were asked for one by one
	change int                 // counts the changes
	full   bool                // there were more than there is room for
}

// looked is what a look at a path has told.
type looked struct {
	info iofs.FileInfo
	err  error
}

const (
	// maxKnown is how many paths are known at a time: some 20 MiB.
	maxKnown = 1 << 16
	// missedMost is how many paths in a folder are asked for until all of it is listed, once.
	missedMost = 3
)

func newLookups() lookups {
	return lookups{known: map[string]looked{}, lists: map[string][]string{}, missed: map[string]int{}}
}

// forget forgets what is known of a path that is about to change, or has: of what is
// below it too, of folders above that were not there, and the names beside it.
func (l *lookups) forget(p string) {
	l.change++
	// What is below a path is known only while that is, or was before there was no room.
	if was, ok := l.known[p]; l.full || ok && was.err == nil && was.info.IsDir() {
		below := strings.TrimSuffix(p, "/") + "/"
		for q := range l.known {
			if strings.HasPrefix(q, below) {
				delete(l.known, q)
			}
		}
		for q := range l.lists {
			if q == p || strings.HasPrefix(q, below) {
				delete(l.lists, q)
			}
		}
	}
	delete(l.known, p)
	delete(l.lists, path.Dir(p))
	for q := path.Dir(p); q != "/"; q = path.Dir(q) {
		if was, ok := l.known[q]; ok && was.err != nil {
			delete(l.known, q)
			delete(l.lists, path.Dir(q))
		}
	}
}

func (l *lookups) learn(p string, info iofs.FileInfo, err error) {
	if err == nil && !info.IsDir() && statOf(info).Nlink > 1 {
		return // it changes by its other names too
	}
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return
	}
	if len(l.known) >= maxKnown {
		clear(l.known)
		clear(l.lists)
		l.full = true
	}
	l.known[p] = looked{info, err}
}

// lstatAt is of a path without symlinks. What a plan has removed is not there.
func (g *Guest) lstatAt(p string) (iofs.FileInfo, error) {
	if g.gone[p] {
		return nil, iofs.ErrNotExist
	}
	if l, ok := g.known[p]; ok {
		return l.info, l.err
	}
	if p == "/" {
		info, err := g.root.Lstat(".")
		g.learn(p, info, err)
		return info, err
	}
	parent, name := path.Split(p)
	parent = path.Clean(parent)
	names, listed := g.lists[parent]
	if g.missed[parent]++; !listed && g.missed[parent] == missedMost {
		_ = g.list(parent, func([]string) error { return errSkip }) // only a small one comes of it
		names, listed = g.lists[parent]
		if l, ok := g.known[p]; ok {
			return l.info, l.err
		}
	}
	if listed && !slices.Contains(names, name) {
		g.learn(p, nil, iofs.ErrNotExist)
		return nil, iofs.ErrNotExist
	}
	info, err := g.statBeneath(p)
	if err != nil {
		g.learn(p, nil, err)
		return nil, err
	}
	g.learn(p, info, nil)
	return info, nil
}

// list gives the names of a folder without symlinks on its way, some at a time, so that a
// folder of any size costs little. With those of a small one comes what they are.
func (g *Guest) list(at string, some func(names []string) error) error {
	if names, ok := g.lists[at]; ok {
		return some(slices.Clone(names)) // which may change it
	}
	fd, err := g.openFolder(at)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	change := g.change
	for first := true; ; first = false {
		if err := g.ctx.Err(); err != nil {
			return err
		}
		names, ended, err := g.namesOf(fd)
		if err != nil {
			return err
		}
		if first && ended {
			g.lookAll(fd, at, names)
			if g.change == change {
				g.lists[at] = slices.Clone(names)
			}
			return some(names)
		}
		if err := some(names); err != nil || ended {
			return err
		}
	}
}

// lookAll learns what all names of an open folder are.
func (g *Guest) lookAll(fd int, at string, names []string) {
	for _, name := range names {
		p := path.Join(at, name)
		if _, ok := g.known[p]; ok {
			continue
		}
		if info, err := statAt(fd, name); err == nil {
			g.learn(p, info, nil)
		}
	}
}

// statAt is what a name in an open folder is.
func statAt(dir int, name string) (*statInfo, error) {
	info := &statInfo{name: name}
	return info, uninterrupted(func() error { return syscallStat(dir, name, &info.st) })
}

func syscallStat(dir int, name string, st *syscall.Stat_t) error {
	var u unix.Stat_t
	if err := unix.Fstatat(dir, name, &u, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	st.Dev, st.Ino, st.Nlink, st.Mode, st.Uid, st.Gid, st.Rdev = u.Dev, u.Ino, u.Nlink, u.Mode, u.Uid, u.Gid, u.Rdev
	st.Size, st.Blksize, st.Blocks = u.Size, u.Blksize, u.Blocks
	st.Atim, st.Mtim, st.Ctim = syscall.Timespec(u.Atim), syscall.Timespec(u.Mtim), syscall.Timespec(u.Ctim)
	return nil
}

// statInfo is what fstatat(2) has told of a name, without the others that os asks.
type statInfo struct {
	name string
	st   syscall.Stat_t
}

func (f *statInfo) Name() string       { return f.name }
func (f *statInfo) Size() int64        { return f.st.Size }
func (f *statInfo) ModTime() time.Time { return time.Unix(f.st.Mtim.Sec, f.st.Mtim.Nsec) }
func (f *statInfo) IsDir() bool        { return f.st.Mode&unix.S_IFMT == unix.S_IFDIR }
func (f *statInfo) Sys() any           { return &f.st }

func (f *statInfo) Mode() iofs.FileMode {
	mode := iofs.FileMode(f.st.Mode & 0o777)
	for bit, as := range map[uint32]iofs.FileMode{unix.S_ISUID: iofs.ModeSetuid, unix.S_ISGID: iofs.ModeSetgid, unix.S_ISVTX: iofs.ModeSticky} {
		if f.st.Mode&bit != 0 {
			mode |= as
		}
	}
	switch f.st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= iofs.ModeDir
	case unix.S_IFLNK:
		mode |= iofs.ModeSymlink
	case unix.S_IFIFO:
		mode |= iofs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= iofs.ModeSocket
	case unix.S_IFBLK:
		mode |= iofs.ModeDevice
	case unix.S_IFCHR:
		mode |= iofs.ModeDevice | iofs.ModeCharDevice
	}
	return mode
}

// sameFile tells whether two looks were at the same file.
func sameFile(a, b iofs.FileInfo) bool {
	x, y := statOf(a), statOf(b)
	return x.Dev == y.Dev && x.Ino == y.Ino
}
