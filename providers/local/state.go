package local

import (
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A state is what the version of a file is made of, and its birth.
type state struct {
	size      int64
	sec, nsec int64 // mtime
	inode     uint64
	made      int64     // birth in nanoseconds since 1970; 0 where the filesystem does not record it
	links     uint32    // names that it has
	born      time.Time // birth, of the directory entry for a symlink; mtime where it is not recorded
}

func (s state) mtime() time.Time { return time.Unix(s.sec, s.nsec) }

// version is the text that changes whenever the bytes may have changed. The birth
// tells a file from one that was made anew: a filesystem gives the inode number
// out again, and who builds reproducibly sets the time.
func (s state) version() string {
	return fmt.Sprintf("%d-%d.%09d-%d-%d", s.size, s.sec, s.nsec, s.inode, s.made)
}

// identity is the text that tells a file from all others, whatever is written to it.
func (s state) identity() string { return fmt.Sprintf("%d-%d", s.inode, s.made) }

// same tells whether two states are of one version.
func (s state) same(o state) bool {
	return s.size == o.size && s.sec == o.sec && s.nsec == o.nsec && s.inode == o.inode && s.made == o.made
}

const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

func stateOf(sx *unix.Statx_t) state {
	s := state{size: int64(sx.Size), sec: sx.Mtime.Sec, nsec: int64(sx.Mtime.Nsec), inode: sx.Ino, links: sx.Nlink}
	s.born = s.mtime()
	if sx.Mask&unix.STATX_BTIME != 0 {
		s.born = time.Unix(sx.Btime.Sec, int64(sx.Btime.Nsec))
		s.made = s.born.UnixNano()
	}
	return s
}

// state describes what has the name in the folder, a symlink itself; mode is its
// type, as in st_mode.
func (d *dir) state(file string) (s state, mode uint16, err error) {
	var sx unix.Statx_t
	if err := unix.Statx(int(d.self.Fd()), file, unix.AT_SYMLINK_NOFOLLOW, statxMask, &sx); err != nil {
		return state{}, 0, &fs.PathError{Op: "statx", Path: file, Err: err}
	}
	return stateOf(&sx), sx.Mode & unix.S_IFMT, nil
}

// target describes the regular file that a name in the folder leads to.
func (d *dir) target(file string) (state, error) {
	s, mode, err := d.state(file)
	if err != nil || mode == unix.S_IFREG {
		return s, err
	}
	f, err := d.openRegular(file)
	if err != nil {
		return state{}, err
	}
	defer f.Close()
	return fileState(f)
}

// fileState describes a file that is open; it fails with os.ErrClosed for one that
// is not.
func fileState(f *os.File) (state, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return state{}, err
	}
	var sx unix.Statx_t
	var failed error
	if err := conn.Control(func(fd uintptr) {
		failed = unix.Statx(int(fd), "", unix.AT_EMPTY_PATH, statxMask, &sx)
	}); err != nil {
		return state{}, err
	}
	if failed != nil {
		return state{}, &fs.PathError{Op: "statx", Path: f.Name(), Err: failed}
	}
	return stateOf(&sx), nil
}
