package guest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"chromogenic/disk"
)

// repair has ext2, ext3, ext4 and vfat checked before they are mounted, and what is
// safely mended mended: a driver is not to meet what its checker would have found, and
// vfat stays marked as in use once it was not unmounted. The others' drivers replay
// their logs themselves. What cannot be mended is not mounted.
func (j *job) repair(ctx context.Context) error {
	for i := range j.Volumes {
		v := &j.Volumes[i]
		path, args, install := j.Tools.E2fsck, []string{"-f", "-p"}, "e2fsprogs"
		if v.Type == "vfat" {
			path, args, install = j.Tools.FsckVfat, []string{"-a"}, "dosfstools"
		}
		if !isExt(v.Type) && v.Type != "vfat" || v.Reason != "" {
			continue
		}
		if path == "" {
			j.warn("partition %d (%s) was not checked: install the Debian package %s", v.Number, v.Type, install)
			continue
		}
		// e2fsck(8): 1 and 2 are mended, 4 and above is not; fsck.fat(8): 1 is mended.
		told, err := j.tell(ctx, path, append(args, filepath.Join(diskDir, v.File))...)
		if err != nil {
			return fmt.Errorf("check partition %d: %w", v.Number, err)
		}
		if told.status&^3 != 0 || v.Type == "vfat" && told.status > 1 {
			v.Reason = fmt.Sprintf("%s cannot mend it by itself (exit status %d): %s", filepath.Base(path), told.status, lastLines(told.text, 4))
		}
	}
	return nil
}

// finish has all filesystems that were mounted checked. One that is not clean fails the
// run.
func (j *job) finish(ctx context.Context) error {
	for _, v := range j.Volumes {
		if v.Reason != "" {
			continue
		}
		if v.Discard && j.Tools.E2fsck != "" {
			if _, err := j.tell(ctx, j.Tools.E2fsck, "-f", "-p", "-E", "discard", filepath.Join(diskDir, v.File)); err != nil {
				return fmt.Errorf("remove traces from partition %d: %w", v.Number, err)
			}
		}
		if err := j.verify(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// verify has a filesystem checked without changes.
func (j *job) verify(ctx context.Context, v volumeOf) error {
	for _, c := range []struct {
		types   []string
		path    string
		args    []string
		install string
	}{
		{[]string{"ext2", "ext3", "ext4"}, j.Tools.E2fsck, []string{"-f", "-n"}, "e2fsprogs"},
		{[]string{"xfs"}, j.Tools.XFSRepair, []string{"-f", "-n"}, "xfsprogs"},
		{[]string{"btrfs"}, j.Tools.Btrfs, []string{"check", "--readonly"}, "btrfs-progs"},
		{[]string{"vfat"}, j.Tools.FsckVfat, []string{"-n"}, "dosfstools"},
	} {
		if !slices.Contains(c.types, v.Type) {
			continue
		}
		if c.path == "" {
			j.warn("partition %d (%s) was not checked afterwards: install the Debian package %s", v.Number, v.Type, c.install)
			return nil
		}
		told, err := j.tell(ctx, c.path, append(c.args, filepath.Join(diskDir, v.File))...)
		if err != nil {
			return fmt.Errorf("check partition %d: %w", v.Number, err)
		}
		if told.status != 0 {
			return disk.Errorf(disk.Malformed, "check partition %d (%s): it is not clean after the work, %s exits with status %d: %s",
				v.Number, v.Type, filepath.Base(c.path), told.status, lastLines(told.text, 8))
		}
	}
	return nil
}

func isExt(kind string) bool { return slices.Contains([]string{"ext2", "ext3", "ext4"}, kind) }

func (j *job) warn(format string, args ...any) {
	j.Warnings = append(j.Warnings, fmt.Sprintf(format, args...))
}
