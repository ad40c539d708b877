package guest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"chromogenic/disk"
)

// The ways to get at a guest's filesystems, in the order in which they are tried.
const (
	accessUML     = "uml"
	accessFuse2fs = "fuse2fs"
	accessLoop    = "loop"
)

// A Way is one of the ways to get at a guest's filesystems.
type Way struct {
	Name        string   // "uml", "fuse2fs", "loop"
	Filesystems []string // that it mounts
	Missing     string   // why it does not work here, empty where it does
	Remedy      string   // what to do about that: a Debian package, or a right
}

// Available tells of each way whether it works here, for this user.
func Available(o Options) ([]Way, error) {
	self, err := o.program()
	if err != nil {
		return nil, err
	}
	defer self.Close()
	return ways(self, findTools()), nil
}

func ways(self *os.File, t tools) []Way {
	spaces := tryCage(self, job{})
	resident := errors.New("only root may")
	if os.Geteuid() == 0 {
		resident = tryCage(self, job{Resident: true})
	}
	return []Way{umlWay(self, t, spaces, resident), fuse2fsWay(self, t, spaces), loopWay(resident)}
}

// tryCage makes the namespaces, and nothing in them.
func tryCage(self *os.File, j job) error {
	c, err := startCage(self, j, stageTry, false)
	if err != nil {
		return err
	}
	// It ends by itself, at once.
	err = c.wait()
	c.line.Close()
	if err != nil {
		return fmt.Errorf("try sandbox: %w: %s", err, c.output)
	}
	return nil
}

const namespacesRemedy = "allow user namespaces to this user (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), or run it as root"

func umlWay(self *os.File, t tools, spaces, resident error) Way {
	w := Way{Name: accessUML, Filesystems: []string{"ext2", "ext3", "ext4", "xfs", "btrfs"}}
	if t.UMLModules != "" {
		w.Filesystems = append(w.Filesystems, "vfat")
	}
	static, err := isStatic(self)
	switch {
	case t.UML == "":
		w.Missing, w.Remedy = "linux.uml is not installed", "install the Debian package user-mode-linux"
	case err != nil:
		w.Missing = err.Error()
	case !static:
		w.Missing, w.Remedy = "this program needs libraries, and there are none in user-mode-linux", "build it with CGO_ENABLED=0, as make build does"
	case spaces != nil && resident != nil:
		w.Missing, w.Remedy = spaces.Error(), namespacesRemedy
	case fuseMissing() != "":
		w.Missing, w.Remedy = fuseMissing(), "modprobe fuse; a container needs --device /dev/fuse"
	}
	return w
}

func fuse2fsWay(self *os.File, t tools, spaces error) Way {
	w := Way{Name: accessFuse2fs, Filesystems: []string{"ext2", "ext3", "ext4"}}
	switch {
	case t.Fuse2fs == "":
		w.Missing, w.Remedy = "fuse2fs is not installed", "install the Debian package fuse2fs"
	case t.E2fsck == "":
		w.Missing, w.Remedy = "e2fsck is not installed, and fuse2fs needs it", "install the Debian package e2fsprogs"
	case spaces != nil:
		w.Missing, w.Remedy = spaces.Error(), namespacesRemedy
	case fuseMissing() != "":
		w.Missing, w.Remedy = fuseMissing(), "modprobe fuse; a container needs --device /dev/fuse"
	case os.Geteuid() != 0:
		w.Missing, w.Remedy = idsMissing(t)
	}
	return w
}

// idsMissing tells why a user other than root cannot have more ids than one.
func idsMissing(t tools) (missing, remedy string) {
	if t.NewUIDMap == "" || t.NewGIDMap == "" {
		return "newuidmap is not installed, and the owners of files would be lost", "install the Debian package uidmap"
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if _, _, err := subordinate(file); err != nil {
			return err.Error(), disk.AsError(err).Hint
		}
	}
	return "", ""
}

func loopWay(resident error) Way {
	w := Way{Name: accessLoop}
	for _, kind := range mountable {
		if kernelKnows(kind) {
			w.Filesystems = append(w.Filesystems, kind)
		}
	}
	switch {
	case resident != nil:
		w.Missing, w.Remedy = resident.Error(), "run it as root, with the right to mount"
	case fuseMissing() != "":
		w.Missing, w.Remedy = fuseMissing(), "modprobe fuse; a container needs --device /dev/fuse"
	default:
		if _, err := os.Stat("/dev/loop-control"); err != nil {
			w.Missing, w.Remedy = err.Error(), "modprobe loop"
		}
	}
	return w
}

func fuseMissing() string {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return err.Error()
	}
	f.Close()
	return ""
}

// kernelKnows tells whether the running kernel has a driver, as far as it is loaded.
func kernelKnows(kind string) bool {
	f, err := os.Open("/proc/filesystems")
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 0 && fields[len(fields)-1] == kind {
			return true
		}
	}
	return false
}

// choose takes the way that was asked for, or the first that works and mounts what
// the disk has, of those that have not failed to start.
func (j *job) choose(self *os.File, o Options, failed map[string]string) error {
	all := ways(self, j.Tools)
	var wanted []string
	switch o.Access {
	case "", "auto":
		wanted = []string{accessUML, accessFuse2fs}
		if o.Trusted {
			wanted = append(wanted, accessLoop)
		}
	case accessUML, accessFuse2fs, accessLoop:
		wanted = []string{o.Access}
	default:
		return disk.Errorf(disk.Invalid, "choose access to guest: there is no %q; it is auto, uml, fuse2fs or loop", o.Access)
	}
	held := j.held()
	if len(held) == 0 {
		s := session{job: *j}
		return s.noRoot()
	}
	var reasons, remedies []string
	for _, name := range wanted {
		w := all[slices.IndexFunc(all, func(w Way) bool { return w.Name == name })]
		if text := failed[name]; text != "" {
			w.Missing, w.Remedy = text, "find out why user-mode-linux does not start here: linux.uml --version tells whether it can at all"
		}
		if w.Missing != "" {
			reasons = append(reasons, name+": "+w.Missing)
			remedies = append(remedies, w.Remedy)
			continue
		}
		// One that mounts none of what may hold the root is of no use.
		if !slices.ContainsFunc(held, func(kind string) bool { return slices.Contains(w.Filesystems, kind) }) {
			reasons = append(reasons, fmt.Sprintf("%s: it does not mount %s", name, strings.Join(held, ", ")))
			continue
		}
		j.Access = name
		j.Resident = name == accessLoop || name == accessUML && os.Geteuid() == 0 && tryCage(self, job{}) != nil
		return nil
	}
	return disk.Hint(disk.Errorf(disk.Unsupported, "choose access to guest: %s", strings.Join(reasons, "; ")), "%s", strings.Join(remedies, ", or "))
}

// held are the types of filesystems that may hold a root.
func (j *job) held() []string {
	var held []string
	for _, v := range j.Volumes {
		if v.Reason == "" && v.Type != "vfat" && slices.Contains(mountable, v.Type) && !slices.Contains(held, v.Type) {
			held = append(held, v.Type)
		}
	}
	return held
}
