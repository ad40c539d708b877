package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// A job is what a sandbox is told.
type job struct {
	Access   string     `json:"access"`
	Table    string     `json:"table"`
	Volumes  []volumeOf `json:"volumes"`
	ReadOnly bool       `json:"read_only"`
	Check    bool       `json:"check"` // all is done, and the filesystems are to be checked
	Order    []byte     `json:"order"`
	Memory   int64      `json:"memory"` // bytes of user-mode-linux
	Tools    tools      `json:"tools"`
	Warnings []string   `json:"warnings"`
	Resident bool       `json:"resident"` // stay root of the host: there are no user namespaces, or the host's kernel mounts
}

// A volumeOf is a filesystem with what fstab may call it, and where it is found.
type volumeOf struct {
	Filesystem
	PartUUID  string `json:"part_uuid"`
	PartLabel string `json:"part_label"`
	Used      int64  `json:"used"`    // bytes of the partition that the filesystem says it has
	File      string `json:"file"`    // of the served mount: "p1"
	Device    string `json:"device"`  // to be mounted
	Discard   bool   `json:"discard"` // its free blocks are for e2fsck to discard
}

// A result is what a sandbox tells.
type result struct {
	Volumes  []volumeOf `json:"volumes"`
	Warnings []string   `json:"warnings"`
	Reply    []byte     `json:"reply"`
	Failure  *failure   `json:"failure"`
}

// learn takes over from a result what a sandbox may know better: where volumes are
// mounted, and why not. A kernel that a hostile filesystem has taken over tells what
// it likes, and where a partition lies is not for it to say.
func (j *job) learn(r result) error {
	if len(r.Volumes) != len(j.Volumes) {
		return disk.Errorf(disk.Malformed, "take result: it tells of %d volumes instead of %d", len(r.Volumes), len(j.Volumes))
	}
	j.Volumes = slices.Clone(j.Volumes)
	for i, v := range r.Volumes {
		j.Volumes[i].Mountpoint, j.Volumes[i].Reason = v.Mountpoint, v.Reason
	}
	for _, w := range r.Warnings {
		j.Warnings = append(j.Warnings, w[:min(len(w), outputLimit)])
	}
	return nil
}

// A mounter is how a sandbox gets at filesystems.
type mounter interface {
	// mount mounts a volume at dir; subvol is a subvolume of btrfs, or empty.
	mount(v volumeOf, dir, subvol string, readOnly bool) error
	// unmount undoes it, and returns when all is written.
	unmount(dir string) error
}

// A session is one run of a work on a tree.
type session struct {
	job
	mounter   mounter
	base      string // an empty folder
	mounted   []string
	swapFiles []string // of the guest
	warnings  []string
}

// treeDir is where the guest's root is, below the base.
const treeDir = "tree"

// mountable are the filesystems with a tree, if the kernel has them.
var mountable = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat"}

// run mounts, works, trims and unmounts.
func (s *session) run(ctx context.Context, work Work) (reply []byte, err error) {
	defer func() {
		if e := s.unmountAll(); err == nil {
			err = e
		}
	}()
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if v.Reason != "" || !slices.Contains(mountable, v.Type) {
			continue
		}
		if err := s.mountAt(*v, s.dir(*v), ""); err != nil {
			v.Reason = err.Error()
		}
	}
	if err := s.buildTree(); err != nil {
		return nil, err
	}
	if reply, err = s.work(ctx, work); err != nil || s.ReadOnly {
		return reply, err
	}
	for _, name := range s.swapFiles {
		if err := wipeSwapFile(filepath.Join(s.base, treeDir), name); err != nil {
			s.warn("the swap file %s was not wiped: %v", name, err)
		}
	}
	return reply, s.settle()
}

// dir is where a volume is mounted as a whole.
func (s *session) dir(v volumeOf) string { return filepath.Join(s.base, v.File) }

func (s *session) mountAt(v volumeOf, dir, subvol string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("mount partition %d: %w", v.Number, err)
	}
	if err := s.mounter.mount(v, dir, subvol, s.ReadOnly); err != nil {
		return fmt.Errorf("mount partition %d (%s): %w", v.Number, v.Type, err)
	}
	s.mounted = append(s.mounted, dir)
	return nil
}

// isMounted tells whether a volume could be mounted.
func (s *session) isMounted(v volumeOf) bool { return slices.Contains(s.mounted, s.dir(v)) }

// work calls the Work on the tree. A panic of it is an error of the run.
func (s *session) work(ctx context.Context, work Work) (reply []byte, err error) {
	root, err := os.OpenRoot(filepath.Join(s.base, treeDir))
	if err != nil {
		return nil, fmt.Errorf("open root of the guest: %w", err)
	}
	defer root.Close()
	defer func() {
		if p := recover(); p != nil {
			reply, err = nil, disk.Errorf(disk.Other, "work on guest: %v\n%s", p, debug.Stack())
		}
	}()
	facts := factsOf(s.job, s.Volumes, append(slices.Clone(s.Warnings), s.warnings...))
	if reply, err = work(ctx, root, facts, s.Order); err != nil {
		return nil, err
	}
	if len(reply) > MaxReply {
		return nil, disk.Errorf(disk.TooLarge, "work on guest: a reply of %d bytes is more than %d", len(reply), MaxReply)
	}
	return reply, nil
}

// settle writes everything back, and gives freed space back where the filesystem's
// own driver has to do that.
func (s *session) settle() error {
	for _, v := range s.Volumes {
		if !s.isMounted(v) {
			continue
		}
		if v.Type == "btrfs" {
			s.unshare(v)
		}
		if v.Type == "xfs" {
			if err := punchUnwritten(s.dir(v)); err != nil {
				s.warn("space that files of partition %d (xfs) have reserved keeps what was there: %v", v.Number, err)
			}
		}
		if err := syncTree(s.dir(v)); err != nil {
			return fmt.Errorf("write back partition %d: %w", v.Number, err)
		}
		if v.Type != "btrfs" && v.Type != "vfat" {
			continue // of the others the scrubber knows more
		}
		if err := trim(s.dir(v)); err != nil {
			s.warn("free space of partition %d (%s) keeps what was there: %v", v.Number, v.Type, err)
		}
	}
	return nil
}

// unshare has the files of all subvolumes rewritten that show parts of extents.
func (s *session) unshare(v volumeOf) {
	top := s.topOf(v)
	if !slices.Contains(s.mounted, top) {
		if err := s.mountAt(v, top, "id=5"); err != nil {
			s.warn("what files of partition %d (btrfs) were cut from may still be there: %v", v.Number, err)
			return
		}
	}
	// What was done until now must be in the trees that are searched.
	err := syncTree(top)
	failed := 0
	if err == nil {
		failed, err = unshareTails(top)
	}
	if err != nil {
		s.warn("what %d files of partition %d (btrfs) were cut from may still be there: %v", failed, v.Number, err)
	}
	if err := syncTree(top); err != nil {
		s.warn("partition %d (btrfs): %v", v.Number, err)
	}
}

// topOf is where the top of a btrfs is mounted, if it is.
func (s *session) topOf(v volumeOf) string { return s.dir(v) + "-top" }

// syncTree is syncfs(2), which tells of errors that came before it.
func syncTree(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

// unmountAll unmounts in reverse order. What keeps a mount busy for a moment is
// waited for.
func (s *session) unmountAll() error {
	var first error
	for _, dir := range slices.Backward(s.mounted) {
		if filepath.Base(dir) == treeDir {
			// What lies within goes with it. The filesystems themselves are mounted
			// below the base too, so that this writes nothing.
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && first == nil {
				first = fmt.Errorf("unmount tree: %w", err)
			}
			continue
		}
		var err error
		for range 50 {
			if err = s.mounter.unmount(dir); err != unix.EBUSY {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil && first == nil {
			first = fmt.Errorf("unmount %s: %w", strings.TrimPrefix(dir, s.base), err)
		}
	}
	s.mounted = nil
	return first
}

func (s *session) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// factsOf are the facts as the caller and the work see them.
func factsOf(j job, volumes []volumeOf, warnings []string) Facts {
	f := Facts{Table: j.Table, Access: j.Access, Warnings: warnings, Filesystems: []Filesystem{}}
	for _, v := range volumes {
		f.Filesystems = append(f.Filesystems, v.Filesystem)
	}
	return f
}
