package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

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
		err = scrubExt(punchFile{f}, v.Used)
		if disk.KindOf(err) == disk.Unsupported && j.Tools.E2fsck != "" {
			r.warn("the journal and the folders of partition %d (%s) may hold names of what was removed: %v", v.Number, v.Type, err)
			_, err = j.tell(ctx, j.Tools.E2fsck, "-f", "-p", "-E", "discard", path)
		}
		return err
	}
	return nil
}

// A punchFile is a served file, which takes holes.
type punchFile struct{ *os.File }

func (f punchFile) Discard(off, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if err != nil {
		return fmt.Errorf("discard %d bytes at offset %d: %w", n, off, err)
	}
	return nil
}
