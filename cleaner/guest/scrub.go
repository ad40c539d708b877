package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"chromogenic/disk"
)

// scrub removes from an unmounted filesystem what its driver leaves behind.
func (j job) scrub(ctx context.Context, v volumeOf, r *result) error {
	path := filepath.Join(diskDir, v.File)
	switch v.Type {
	case "xfs":
		if j.Tools.XFSRepair == "" {
			r.warn("the log of partition %d (xfs) keeps what was there: install the Debian package xfsprogs", v.Number)
			return nil
		}
		// -L formats the log, which is empty after an unmount.
		told, err := j.tell(ctx, j.Tools.XFSRepair, "-f", "-L", path)
		if err != nil {
			return err
		}
		if told.status != 0 {
			return disk.Errorf(disk.Malformed, "xfs_repair -L exits with status %d: %s", told.status, lastLines(told.text, 8))
		}
	case "ext2", "ext3", "ext4":
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := scrubExt(f); err != nil {
			return fmt.Errorf("%s: %w", v.Type, err)
		}
	}
	return nil
}

func scrubExt(f *os.File) error { return nil }
