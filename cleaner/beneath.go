package cleaner

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// beneath is how paths of the guest are opened: no symlink is followed, and nothing
// outside is reached (openat2(2), Linux 5.6).
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openBeneath opens a path without symlinks, by one call where os.Root makes two for each
// folder on the way: in a small kernel that is what takes the time.
func (g *Guest) openBeneath(p string, flags int) (fd int, err error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	how := &unix.OpenHow{Flags: uint64(flags), Resolve: beneath}
	err = uninterrupted(func() (err error) {
		fd, err = unix.Openat2(int(g.top.Fd()), inRoot(p), how)
		return err
	})
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM): // not there, or not allowed
	case errors.Is(err, unix.ENAMETOOLONG) && len(p) >= unix.PathMax:
	default:
		return fd, err
	}
	return openInSteps(int(g.top.Fd()), inRoot(p), flags)
}

// openInSteps is openBeneath of one name after the other.
func openInSteps(top int, p string, flags int) (int, error) {
	at := top
	for {
		name, rest, more := strings.Cut(p, "/")
		how := flags
		if more {
			how = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		}
		var fd int
		err := uninterrupted(func() (err error) {
			fd, err = unix.Openat(at, name, how, 0)
			return err
		})
		if at != top {
			unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, p = fd, rest
	}
}

// uninterrupted calls again what a signal of Go's own has interrupted.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openFolder opens a folder for what is asked of it by single names, and for its names.
func (g *Guest) openFolder(p string) (fd int, err error) {
	return g.openBeneath(p, unix.O_RDONLY|unix.O_DIRECTORY)
}

// namesOf are the next names of an open folder, listed or more unless they end.
func (g *Guest) namesOf(fd int) (names []string, ended bool, err error) {
	if g.buf == nil {
		g.buf = make([]byte, 32<<10)
	}
	for len(names) < listed {
		var n int
		err := uninterrupted(func() (err error) {
			n, err = unix.ReadDirent(fd, g.buf)
			return err
		})
		if err != nil || n <= 0 {
			return names, true, err
		}
		_, _, names = unix.ParseDirent(g.buf[:n], -1, names)
	}
	return names, false, nil
}

// statBeneath looks at one name of a folder.
func (g *Guest) statBeneath(p string) (*statInfo, error) {
	fd, err := g.openBeneath(path.Dir(p), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return statAt(fd, path.Base(p))
}

// readOpen reads p from an open file, less where that ends before.
func readOpen(fd int, p []byte) (n int, err error) {
	for n < len(p) {
		var k int
		err := uninterrupted(func() (err error) {
			k, err = unix.Read(fd, p[n:])
			return err
		})
		if err != nil || k <= 0 {
			return n, err
		}
		n += k
	}
	return n, nil
}
