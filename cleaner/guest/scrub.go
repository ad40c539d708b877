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
func (j *job) scrub(ctx context.Context, v volumeOf) error {
	path := filepath.Join(diskDir, v.File)
	if !isExt(v.Type) && v.Type != "xfs" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if v.Type == "xfs" {
		err = scrubXFS(punchFile{f}, v.Used)
	} else {
		err = scrubExt(punchFile{f}, v.Used)
	}
	if disk.KindOf(err) != disk.Unsupported {
		return err
	}
	j.warn("the log of partition %d (%s) may hold names and attributes of what was removed: %v", v.Number, v.Type, err)
	if isExt(v.Type) && j.Tools.E2fsck != "" {
		_, err = j.tell(ctx, j.Tools.E2fsck, "-f", "-p", "-E", "discard", path)
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
