package cleaner

import (
	"bytes"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// locks of a file, as chattr(1) sets them: FS_IMMUTABLE_FL and FS_APPEND_FL of
// linux/fs.h. Both keep even root from emptying a log.
const locks = 0x10 | 0x20

// unlocked does something to a name of a folder. Where it is not permitted because the
// file or the folder is locked, the locks are taken away for it, and put back on what
// is still there.
func unlocked(dir *os.Root, name string, do func() error) error {
	err := do()
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	again := false
	for _, at := range []string{".", name} {
		f, ferr := openQuiet(dir, at)
		if ferr != nil {
			continue
		}
		defer f.Close()
		flags, ferr := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if ferr != nil || flags&locks == 0 {
			continue
		}
		if unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^locks) != nil {
			continue
		}
		again = true
		defer func() { _ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags) }()
	}
	if !again {
		return err
	}
	return do()
}

// openQuiet opens a regular file or a folder for its attributes. A device is not
// opened: to do so can have an effect.
func openQuiet(dir *os.Root, name string) (*os.File, error) {
	info, err := dir.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return nil, unix.EINVAL
	}
	return dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

// maxAttr is the size of the names, and of one value, of a file's attributes: as
// much as the kernel takes, XATTR_LIST_MAX and XATTR_SIZE_MAX of linux/limits.h.
const maxAttr = 64 << 10

// selinuxLabel is the attribute in which a file's SELinux label is kept.
const selinuxLabel = "security.selinux"

// copyAttrs gives one file the attributes of another: labels, ACLs, capabilities. It
// tells of those that this kernel or user may not set; whoever calls says so.
func copyAttrs(to, from *os.File) (refused []string, err error) {
	list := make([]byte, maxAttr)
	n, err := unix.Flistxattr(int(from.Fd()), list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	value := make([]byte, maxAttr)
	for name := range bytes.SplitSeq(list[:n], []byte{0}) {
		if len(name) == 0 {
			continue
		}
		n, err := unix.Fgetxattr(int(from.Fd()), string(name), value)
		if err == nil {
			err = unix.Fsetxattr(int(to.Fd()), string(name), value[:n], 0)
		}
		switch {
		case errors.Is(err, unix.ENODATA):
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EACCES):
			refused = append(refused, string(name))
		case err != nil:
			return refused, err
		}
	}
	return refused, nil
}

// label gives a new file the label of the folder that it is in, as the guest's kernel
// would.
func (g *Guest) label(f *os.File, dir *os.Root) {
	if !g.selinux {
		return
	}
	g.relabel = true
	d, err := dir.Open(".")
	if err != nil {
		return
	}
	defer d.Close()
	value := make([]byte, maxAttr)
	n, err := unix.Fgetxattr(int(d.Fd()), selinuxLabel, value)
	if err == nil {
		_ = unix.Fsetxattr(int(f.Fd()), selinuxLabel, value[:n], 0)
	}
}

// lost notes attributes that a rewritten file could not be given.
func (g *Guest) lost(p string, refused []string) {
	for _, name := range refused {
		if name == selinuxLabel {
			g.relabel = true
		} else if !strings.HasPrefix(name, "trusted.") {
			g.warn("%s was rewritten without its attribute %s, which may not be set here", show(p), name)
		}
	}
}
