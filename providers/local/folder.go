package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A folder is a path, and what was found behind it when files were seen there
// first.
type folder struct {
	kind  providers.Kind
	path  string // absolute
	times retimed
	parts assemblies

	sidecars sidecars

	mu   sync.Mutex
	pin  *identity // nil while nothing has been seen there
	past *identity // of an earlier process, or before a Reset: an empty folder must not be taken for it
}

// An identity tells one folder from another behind the same path. The filesystem
// is known by its own id where it has one (ext4 and btrfs derive it from the
// UUID, so a disk that comes back under another device number is the same), else
// by its device number.
type identity struct {
	fsid   [2]int32
	device uint64 // zero where fsid is not
	inode  uint64
}

// newFolder makes the folder of a path and pins what is there now, if anything.
func newFolder(kind providers.Kind, path string) (*folder, error) {
	if path == "" {
		return nil, nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, disk.Errorf(disk.Invalid, "find folder of %s: %w", kind, err)
	}
	f := &folder{kind: kind, path: abs}
	if d, err := f.open(); err == nil {
		defer d.close()
		_, _ = d.names() // for the pin; whatever is wrong now will be so at the first listing
	}
	return f, nil
}

// see pins the folder that has files now. An empty one is not pinned, for nothing
// in it can be lost: so a disk that is mounted over its empty mountpoint later
// needs no refresh. But where files were seen before, an empty folder that is
// another one is the mountpoint of a disk that is missing.
func (f *folder) see(id identity, files int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if files == 0 && f.past != nil && *f.past != id {
		return disk.Hint(disk.Errorf(disk.Unreachable, "read folder of %s: %q is empty, and not the folder that had images", f.kind, f.path),
			"mount its disk; if it is meant to be empty, put a file into it (touch .keep)")
	}
	f.pin, f.past = &id, nil
	if files == 0 {
		f.pin = nil
	}
	return nil
}

// reset lets another folder take the place of the one that is pinned.
func (f *folder) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pin != nil {
		f.pin, f.past = nil, f.pin
	}
}

// token is the pin as text for another process, with the path: a folder that is
// configured elsewhere is another matter.
func (f *folder) token() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pin == nil {
		return ""
	}
	return fmt.Sprintf(tokenFormat, f.pin.fsid[0], f.pin.fsid[1], f.pin.device, f.pin.inode, f.path)
}

const tokenFormat = "%d %d %d %d %q"

// setToken takes the pin of an earlier process; one that means nothing here is
// left aside.
func (f *folder) setToken(token string) {
	var id identity
	var path string
	_, err := fmt.Sscanf(token, tokenFormat, &id.fsid[0], &id.fsid[1], &id.device, &id.inode, &path)
	if err != nil || path != f.path {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pin == nil {
		f.past = &id
	}
}

// refuseMountpoint fails when the folder is inside mountpoint, or it in the
// folder.
func (f *folder) refuseMountpoint(mountpoint string) error {
	abs, err := filepath.Abs(mountpoint)
	if err != nil {
		return disk.Errorf(disk.Invalid, "find mountpoint: %w", err)
	}
	own, other := resolvePath(f.path), resolvePath(abs)
	if !within(own, other) && !within(other, own) {
		return nil
	}
	return disk.Hint(disk.Errorf(disk.Invalid, "serve folder %q: the mountpoint %q is inside it, or around it", f.path, mountpoint),
		"choose a mountpoint elsewhere")
}

// within tells whether path is folder or below it.
func within(folder, path string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// resolvePath follows the symlinks of the part of path that exists.
func resolvePath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if parent := filepath.Dir(path); parent != path {
		return filepath.Join(resolvePath(parent), filepath.Base(path))
	}
	return path
}

// A dir is a folder that is open, for the time of one operation.
type dir struct {
	folder *folder
	root   *os.Root
	self   *os.File // the folder itself, for the calls that os.Root lacks
	id     identity
	beside map[string]bool // files that may be companions, where all names were read; nil where they were not
}

// open opens the folder, and fails with Unreachable when it is not there or
// another is in its place.
func (f *folder) open() (*dir, error) {
	d, err := openDir(f)
	if err != nil {
		return nil, f.unreachable("open", err)
	}
	f.mu.Lock()
	changed := f.pin != nil && *f.pin != d.id
	f.mu.Unlock()
	if changed {
		d.close()
		return nil, disk.Hint(disk.Errorf(disk.Unreachable, "open folder of %s: another folder is in the place of %q", f.kind, f.path),
			"mount its disk again; if the new folder is meant, accept it with chromogenic refresh")
	}
	return d, nil
}

func openDir(f *folder) (*dir, error) {
	root, err := os.OpenRoot(f.path)
	if err != nil {
		return nil, err
	}
	self, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	d := &dir{folder: f, root: root, self: self}
	var st unix.Stat_t
	if err := unix.Fstat(int(self.Fd()), &st); err != nil {
		d.close()
		return nil, &fs.PathError{Op: "fstat", Path: f.path, Err: err}
	}
	d.id.inode = st.Ino
	var sf unix.Statfs_t
	if err := unix.Fstatfs(int(self.Fd()), &sf); err == nil { // some FUSE filesystems have no statfs
		d.id.fsid = sf.Fsid.Val
	}
	if d.id.fsid == [2]int32{} {
		d.id.device = uint64(st.Dev)
	}
	return d, nil
}

// there fails with Unreachable when the folder is not behind its path any longer:
// nobody would see what is published in it.
func (d *dir) there() error {
	now, err := d.folder.open()
	if err != nil {
		return err
	}
	defer now.close()
	if now.id != d.id {
		return disk.Hint(disk.Errorf(disk.Unreachable, "open folder of %s: another folder is in the place of %q", d.folder.kind, d.folder.path),
			"put it back, or mount its disk again, and copy anew")
	}
	return nil
}

// close closes the folder. It may be called twice.
func (d *dir) close() {
	d.self.Close()
	d.root.Close()
}

// names reads the names of all files, and pins the folder as the one that has
// them.
func (d *dir) names() ([]string, error) {
	if _, err := d.self.Seek(0, 0); err != nil {
		return nil, d.folder.unreachable("read", err)
	}
	names, err := d.self.Readdirnames(-1)
	if err != nil {
		return nil, d.folder.unreachable("read", err)
	}
	return names, d.folder.see(d.id, len(names))
}

// unreachable is the error for a folder of which nothing can be said: whatever
// err is of, no image in it is known to be gone.
func (f *folder) unreachable(verb string, err error) error {
	hint := "is its disk plugged in and mounted?"
	if errors.Is(err, fs.ErrPermission) {
		hint = "let the user that runs chromogenic read the folder"
	}
	if e := disk.AsError(explain(err)); e.Hint != "" {
		hint = e.Hint
	}
	return disk.Hint(disk.Errorf(disk.Unreachable, "%s folder of %s: %w", verb, f.kind, err), "%s", hint)
}

// free is the number of bytes that an ordinary user may still write; ok is false
// where the filesystem does not tell.
func (d *dir) free() (free int64, ok bool) {
	var sf unix.Statfs_t
	if err := unix.Fstatfs(int(d.self.Fd()), &sf); err != nil || sf.Blocks == 0 {
		return 0, false
	}
	return int64(min(sf.Bavail, 1<<62/uint64(sf.Bsize))) * sf.Bsize, true
}

// explain adds advice to errors that do not speak for themselves, and a kind
// where the standard classification has none.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE):
		return disk.Hint(err, "too many files are open: raise the limit (ulimit -n, LimitNOFILE= of the unit)")
	case errors.Is(err, unix.ENAMETOOLONG):
		return disk.Errorf(disk.Invalid, "%w", err)
	case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ETXTBSY):
		return disk.Errorf(disk.Busy, "%w", err)
	}
	return err
}
