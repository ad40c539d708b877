package guest

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// releaseFiles are what a Linux says its name with: os-release(5), and what there
// was before it.
var releaseFiles = []string{
	"etc/os-release", "usr/lib/os-release", "etc/lsb-release", "etc/redhat-release", "etc/debian_version",
	"etc/SuSE-release", "etc/system-release", "etc/alpine-release", "etc/arch-release", "etc/gentoo-release",
}

// maxSubvolumes bounds the top-level folders of a btrfs in which a root is looked for.
const maxSubvolumes = 64

// A candidate is a place that may be the root.
type candidate struct {
	volume int
	subvol string
	fstab  bool
}

// buildTree finds the root, and puts it and the other filesystems in their places.
func (s *session) buildTree() error {
	root, err := s.findRoot()
	if err != nil {
		return err
	}
	v := &s.Volumes[root.volume]
	tree := filepath.Join(s.base, treeDir)
	if err := s.place(*v, root.subvol, func(fd int) error {
		if err := os.Mkdir(tree, 0o700); err != nil {
			return err
		}
		return attach(fd, unix.AT_FDCWD, tree)
	}); err != nil {
		return fmt.Errorf("mount root of the guest: %w", err)
	}
	s.mounted = append(s.mounted, tree)
	v.Mountpoint = "/"
	text, err := readBounded(tree, "etc/fstab", maxFstab)
	if err != nil {
		if !errors.Is(err, iofs.ErrNotExist) {
			s.warn("the guest's fstab cannot be read: %v", err)
		}
		return nil
	}
	for _, line := range parseFstab(text) {
		s.mountLine(tree, line)
	}
	return nil
}

// findRoot looks for the one place with an fstab and a release file. Where none has
// an fstab, as in images of containers, the release file has to do.
func (s *session) findRoot() (candidate, error) {
	var found []candidate
	for i, v := range s.Volumes {
		if !s.isMounted(v) || v.Type == "vfat" {
			continue
		}
		here := s.rootsIn(i, v)
		found = append(found, here...)
	}
	if slices.ContainsFunc(found, func(c candidate) bool { return c.fstab }) {
		found = slices.DeleteFunc(found, func(c candidate) bool { return !c.fstab })
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return candidate{}, s.noRoot()
	}
	var places []string
	for _, c := range found {
		place := fmt.Sprintf("partition %d", s.Volumes[c.volume].Number)
		if c.subvol != "" {
			place += fmt.Sprintf(" (subvolume %q)", c.subvol)
		}
		places = append(places, place)
	}
	return candidate{}, disk.Hint(disk.Errorf(disk.Unsupported, "find root of the guest: %s each have an fstab and a release file", strings.Join(places, " and ")),
		"remove the system that is not wanted from the image, or clean it by hand")
}

// noRoot says what was there instead.
func (s *session) noRoot() error {
	var held []string
	for _, v := range s.Volumes {
		kind := v.Type
		if kind == "" {
			kind = "unknown"
		}
		if v.Reason != "" {
			kind += ": " + v.Reason
		}
		held = append(held, fmt.Sprintf("partition %d (%s)", v.Number, kind))
	}
	if held == nil {
		held = []string{"no partition at all"}
	}
	return disk.Errorf(disk.Unsupported, "find root of the guest: no filesystem has an etc/fstab and an etc/os-release among %s", strings.Join(held, ", "))
}

// rootsIn looks into a filesystem, and where it is a btrfs whose default subvolume is
// no root, into those at its top.
func (s *session) rootsIn(volume int, v volumeOf) []candidate {
	if fstab, ok := looksLikeRoot(s.dir(v), "."); ok {
		return []candidate{{volume, "", fstab}}
	}
	if v.Type != "btrfs" {
		return nil
	}
	top := s.topOf(v)
	if err := s.mountAt(v, top, "id=5"); err != nil {
		return nil
	}
	dir, err := os.Open(top)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxSubvolumes)
	slices.Sort(names)
	var found []candidate
	for _, name := range names {
		if strings.Contains(name, ",") {
			continue // it would end the mount option
		}
		if fstab, ok := looksLikeRoot(top, name); ok {
			found = append(found, candidate{volume, name, fstab})
		}
	}
	return found
}

func looksLikeRoot(dir, below string) (fstab, ok bool) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, false
	}
	defer root.Close()
	// A link counts, for it may lead into another filesystem.
	there := func(name string) bool {
		_, err := root.Lstat(filepath.Join(below, name))
		return err == nil
	}
	return there("etc/fstab"), slices.ContainsFunc(releaseFiles, there)
}

// mountLine mounts what a line of fstab asks for, where it is of this disk.
func (s *session) mountLine(tree string, line mountLine) {
	if line.Type == "swap" {
		if path.IsAbs(line.Source) && !strings.HasPrefix(line.Source, "/dev/") {
			s.swapFiles = append(s.swapFiles, path.Clean(line.Source))
		}
		return
	}
	i := slices.IndexFunc(s.Volumes, func(v volumeOf) bool { return v.named(line.Source) })
	if i < 0 || line.Path == "/" {
		return
	}
	v := &s.Volumes[i]
	if !s.isMounted(*v) {
		if v.Mountpoint == "" {
			v.Mountpoint = line.Path
			if v.Reason == "" {
				v.Reason = "it could not be mounted"
			}
		}
		return
	}
	if v.Mountpoint != "" && line.Subvol == "" {
		return // fstab has it twice
	}
	if strings.Contains(line.Subvol, ",") || strings.Contains(line.Subvol, "\\") {
		return
	}
	err := s.place(*v, line.Subvol, func(fd int) error { return attachWithin(fd, tree, line.Path) })
	if err != nil {
		s.warn("%s of the guest's fstab could not be mounted: %v", line.Path, err)
		return
	}
	if v.Mountpoint == "" {
		v.Mountpoint = line.Path
	}
}

// place makes a copy of a volume's mount and gives it to put.
func (s *session) place(v volumeOf, subvol string, put func(fd int) error) error {
	dir := s.dir(v)
	if subvol != "" && v.Type == "btrfs" {
		dir = filepath.Join(s.base, fmt.Sprintf("%s-subvol%d", v.File, len(s.mounted)))
		if err := s.mountAt(v, dir, subvol); err != nil {
			return err
		}
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(fd)
	return put(fd)
}

// attach mounts a tree of open_tree(2) at a path.
func attach(fd, dirfd int, place string) error {
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH
	if place == "" {
		flags |= unix.MOVE_MOUNT_T_EMPTY_PATH
	}
	if err := unix.MoveMount(fd, "", dirfd, place, flags); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// attachWithin mounts a tree at a path of the guest, which no link leads out of.
func attachWithin(fd int, tree, place string) error {
	root, err := unix.Open(tree, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	target, err := unix.Openat2(root, place, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(target)
	return attach(fd, target, "")
}

// readBounded reads a regular file of the guest, up to limit bytes.
func readBounded(dir, name string, limit int64) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// A fifo must not hold us.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is no regular file", name))
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
