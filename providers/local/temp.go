package local

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// Unfinished files lie beside the finished ones, so that a rename publishes
// them, as ".chromogenic-<job>-<random>.part": dotfiles, which are not listed.
// The process that makes one holds an flock(2) on it until it is done. The lock
// goes with the process, and so tells a file in work from one that a crash has
// left behind, in this process, in another and on another host of an NFS server.
const (
	tempPrefix = ".chromogenic-"
	tempSuffix = ".part"
)

// maxJob limits the part of a job's id that goes into a temporary's name.
const maxJob = 64 // bytes

// A temp is an unfinished file, open for reading and writing.
type temp struct {
	dir  *dir // owned
	name string
	file *os.File
}

// createTemp makes an empty one; from then on it owns d, also when it fails.
func createTemp(d *dir, job string, mode os.FileMode) (*temp, error) {
	name := tempName(job)
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		d.close()
		err = explain(err)
		if errors.Is(err, fs.ErrPermission) {
			err = disk.Hint(err, "let the user that runs chromogenic write to the folder")
		}
		return nil, err
	}
	t := &temp{dir: d, name: name, file: f}
	// Without the lock the file is one that nobody is sure to own, and stays.
	if err := flock(f); errors.Is(err, unix.EWOULDBLOCK) {
		t.close()
		return nil, disk.Errorf(disk.Busy, "lock %q: %w", name, err)
	}
	return t, nil
}

// tempName is the name of a new one.
func tempName(job string) string {
	job = strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' {
			return r
		}
		return '_'
	}, job)
	return fmt.Sprintf("%s%s-%s%s", tempPrefix, job[:min(len(job), maxJob)], rand.Text()[:10], tempSuffix)
}

// flock locks f, or fails at once with EWOULDBLOCK when another has it.
func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}

// close gives the file up and leaves it where it is.
func (t *temp) close() {
	t.file.Close()
	t.dir.close()
}

// flush has the filesystem tell what it keeps for close(2), as NFS and many of FUSE
// do. The file stays open, and locked.
func (t *temp) flush() error {
	fd, err := unix.FcntlInt(t.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.Close(fd)
	}
	if err != nil {
		return &fs.PathError{Op: "close", Path: t.file.Name(), Err: err}
	}
	return nil
}

// gone makes an error of a file that has no name any longer Stale: there was one, so
// that somebody has removed it.
func (t *temp) gone(err error) error {
	if disk.KindOf(err) != disk.NotFound {
		return err
	}
	return disk.Hint(disk.Errorf(disk.Stale, "temporary %q has been removed: %w", t.name, err),
		"copy it again, and leave files that begin with %s alone until then", tempPrefix)
}

// remove removes the file and closes it, which ends the lock.
func (t *temp) remove() error {
	defer t.close()
	if err := t.dir.root.Remove(t.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove temporary: %w", err)
	}
	return nil
}

// fits refuses what is larger than the space that is left.
func (t *temp) fits(need int64) error {
	free, ok := t.dir.free()
	if !ok || need <= free {
		return nil
	}
	return disk.Hint(disk.Errorf(disk.NoSpace, "write to folder of %s: %d bytes are needed and %d are free", t.dir.folder.kind, need, free),
		"make room in %s", t.dir.folder.path)
}

// isTemp tells whether a file's name is one of createTemp's.
func isTemp(file string) bool {
	return strings.HasPrefix(file, tempPrefix) && strings.HasSuffix(file, tempSuffix)
}

// dead lists the temporaries of a folder whose makers are gone. One that cannot
// be locked for any reason counts as alive.
func (d *dir) dead() ([]string, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	var dead []string
	for _, name := range names {
		if !isTemp(name) {
			continue
		}
		if f, err := d.lockTemp(name); err == nil {
			f.Close()
			dead = append(dead, name)
		}
	}
	return dead, nil
}

// lockTemp opens a temporary and takes its lock, which fails while its maker
// lives.
func (d *dir) lockTemp(name string) (*os.File, error) {
	info, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	var f *os.File
	switch {
	case info.IsDir(): // an aside
		f, err = d.openSet(name)
	case !info.Mode().IsRegular():
		err = &os.PathError{Op: "open", Path: name, Err: errNotRegular}
	default:
		f, err = d.root.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK, 0) // NFS locks only what is open for writing
	}
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		f.Close()
		return nil, disk.Errorf(disk.Busy, "lock %q: %w", name, err)
	}
	return f, nil
}
