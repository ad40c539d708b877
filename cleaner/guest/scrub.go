package guest

import (
	"context"
	"fmt"
	"runtime/debug"

	"chromogenic/disk"
)

// scrub removes from the filesystems of img, which are unmounted and checked, what their
// drivers leave behind. It reads them here, and not in a sandbox, for that takes a tenth
// of the time: what it reads is bounded, and a structure that makes no sense ends it.
// The job that it gives is that of checking them.
func (j job) scrub(ctx context.Context, img Disk) (check job, err error) {
	defer func() { err = recovered(recover(), err) }()
	j.Check, j.Order, j.Warnings = true, nil, nil
	volumes := j.Volumes
	j.Volumes = nil
	for _, v := range volumes {
		if v.Reason == "" && (isExt(v.Type) || v.Type == "xfs") {
			err := scrubVolume(volumeDisk{ctx, img, v.Offset}, v)
			if disk.KindOf(err) == disk.Unsupported {
				j.warn("the log of partition %d (%s) may hold names and attributes of what was removed: %v", v.Number, v.Type, err)
				v.Discard, err = isExt(v.Type), nil
			}
			if err != nil {
				return j, fmt.Errorf("remove traces from partition %d (%s): %w", v.Number, v.Type, err)
			}
		}
		j.Volumes = append(j.Volumes, v)
	}
	return j, nil
}

// recovered is the error of what ended with err, or with a panic: what makes no sense in
// a filesystem may well do that.
func recovered(panicked any, err error) error {
	if panicked == nil {
		return err
	}
	return disk.Errorf(disk.Malformed, "remove traces: %v\n%s", panicked, debug.Stack())
}

func scrubVolume(d volumeDisk, v volumeOf) error {
	if v.Type == "xfs" {
		return scrubXFS(d, v.Used)
	}
	return scrubExt(d, v.Used)
}

// A volumeDisk is the part of a disk that a filesystem has. The filesystem is one that
// lies within (identify).
type volumeDisk struct {
	ctx context.Context
	img Disk
	off int64
}

func (d volumeDisk) ReadAt(p []byte, off int64) (int, error) {
	if d.ctx.Err() != nil {
		return 0, context.Cause(d.ctx)
	}
	return d.img.ReadAt(p, d.off+off)
}

func (d volumeDisk) WriteAt(p []byte, off int64) (int, error) {
	if err := writeSparse(d.img, p, d.off+off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d volumeDisk) Discard(off, n int64) error { return d.img.Discard(d.off+off, n) }
