package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// patchBeside is the file that holds what is to be changed of a raw file, while it is
// being changed.
func patchBeside(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".chromogenic-patch")
}

// cleanInPlace makes a plain file the cleaned one. A qcow2 is written anew and takes
// the place of the old one; a raw file is changed where it differs, by way of a patch
// beside it, so that what is cut off can be finished by the next run.
func cleanInPlace(ctx context.Context, path string, src *source, o *disk.Overlay) error {
	m := *src.Machine
	m.Disks = []disk.Disk{m.Disks[0]}
	m.Disks[0].Image = o
	switch src.Format.Name {
	case "qcow2":
		img, err := layOut(&m, src.Format)
		if err != nil {
			return fmt.Errorf("clean %q in place: %w", path, err)
		}
		return writeFile(ctx, img, path, output{Force: true, Verify: true})
	case "raw":
	default:
		err := disk.Errorf(disk.Unsupported, "clean %q in place: it is a %s", path, src.Format.Name)
		return disk.Hint(err, "write a new file, of any format, with -o")
	}
	if _, err := disk.WritePatch(patchBeside(path), o); err != nil {
		return fmt.Errorf("clean %q in place: %w", path, err)
	}
	return finishInPlace(path)
}

// finishInPlace changes a raw file by the patch that lies beside it, if there is one.
func finishInPlace(path string) error {
	patch := patchBeside(path)
	if _, err := os.Lstat(patch); errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("clean in place: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = disk.Errorf(disk.Unsupported, "it is not a regular file")
	}
	if err == nil {
		_, err = disk.ApplyPatch(patch, rawFile{f, info.Size()})
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return disk.Hint(fmt.Errorf("clean %q in place: %w", path, err), "run the same again: it goes on with %q, without which the file is of no use", patch)
	}
	return os.Remove(patch)
}

// rawFile is a plain file that a patch is applied to.
type rawFile struct {
	*os.File
	size int64
}

func (f rawFile) Size() int64 { return f.size }

// Discard punches a hole, or writes zeros where that cannot be.
func (f rawFile) Discard(off, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	zeros := make([]byte, min(n, 1<<20))
	for end := off + n; off < end; {
		k, err := f.WriteAt(zeros[:min(int64(len(zeros)), end-off)], off)
		if err != nil {
			return err
		}
		off += int64(k)
	}
	return nil
}
