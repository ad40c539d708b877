package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/pipeline"
)

// output says how writeFile writes.
type output struct {
	Force    bool      // replaces a file that is there
	Verify   bool      // verifies what is copied (disk.Verifier), reads the file back and compares
	Mtime    time.Time // of the file; zero is now
	Progress func(pipeline.Progress)
}

// refuseTarget tells early what writeFile would refuse in the end: a path that
// is taken, or is no regular file.
func (o output) refuseTarget(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		_, err = os.Stat(filepath.Dir(path))
		return err
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return disk.Errorf(disk.Unsupported, "write %q: it is not a regular file", path)
	case !o.Force:
		return disk.Hint(disk.Errorf(disk.Exists, "write %q: it exists", path), "say --force to replace it")
	}
	return nil
}

// writeFile makes path a copy of img, sparse and all at once: the bytes go to a
// hidden file beside it, which gets the name when they are on the disk. Whatever
// goes wrong, the hidden file is removed and path is as it was.
func writeFile(ctx context.Context, img disk.Image, path string, o output) error {
	if err := o.refuseTarget(path); err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(path), ".chromogenic-"+rand.Text()[:10]+".part")
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	err = o.fill(ctx, f, img)
	made, e := f.Stat()
	if err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e // a network filesystem tells here that the disk is full
	}
	if err == nil {
		err = o.publish(temp, path, made)
	}
	if gone := own(temp, made); errors.Is(err, iofs.ErrNotExist) && gone != nil {
		err = gone
	}
	if err != nil {
		if e := os.Remove(temp); e != nil && !errors.Is(e, iofs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return fmt.Errorf("write %q: %w", path, err)
	}
	return nil
}

// own fails unless the hidden file is still the one that was made.
func own(temp string, made os.FileInfo) error {
	now, err := os.Lstat(temp)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return disk.Errorf(disk.Stale, "temporary %q has been removed: %w", temp, err)
	case err != nil:
		return err
	case !os.SameFile(now, made):
		return disk.Errorf(disk.Stale, "temporary %q has been replaced", temp)
	}
	return nil
}

// fill copies img into f, which is empty, until it is on the disk.
func (o output) fill(ctx context.Context, f *os.File, img disk.Image) error {
	source := img
	var digester *disk.Digester
	if o.Verify {
		digester = disk.NewDigester(img)
		img = digester
	}
	if err := f.Truncate(img.Size()); err != nil {
		return err
	}
	err := disk.Copy(ctx, f, img, disk.CopyOptions{SkipZeros: true, Progress: o.stage("writing", img.Size())})
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if digester != nil {
		if err := disk.Verify(ctx, source); err != nil {
			return err
		}
		want, err := digester.Sum(ctx)
		if err != nil {
			return err
		}
		if err := o.verify(ctx, f, want); err != nil {
			return err
		}
	}
	if o.Mtime.IsZero() {
		return nil
	}
	return os.Chtimes(f.Name(), time.Time{}, o.Mtime)
}

// verify reads the file back, from the disk as far as the kernel obeys.
func (o output) verify(ctx context.Context, f *os.File, want string) error {
	dropCache(f)
	again, err := os.Open(f.Name())
	if err != nil {
		return err
	}
	img, err := disk.OpenFile(again)
	if err != nil {
		return err
	}
	defer img.Close()
	got, err := disk.Sum(ctx, img, o.stage("verifying", img.Size()))
	if err != nil {
		return err
	}
	if got != want {
		return disk.Errorf(disk.Malformed, "verify: digest of the file is %s, of its source %s", got, want)
	}
	return nil
}

// dropCache asks the kernel to forget the pages of a file.
func dropCache(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // advice: its failure changes nothing
}

// stage reports the progress of one stage.
func (o output) stage(name string, total int64) func(int64) {
	if o.Progress == nil {
		return nil
	}
	return func(done int64) { o.Progress(pipeline.Progress{Stage: name, Done: done, Total: total}) }
}

// publish gives the file that was made its name. Without Force a file that has come
// there meanwhile is kept.
func (o output) publish(temp, path string, made os.FileInfo) error {
	if err := own(temp, made); err != nil {
		return err
	}
	flags := uint(unix.RENAME_NOREPLACE)
	if o.Force {
		flags = 0
	}
	err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, flags)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A filesystem without RENAME_NOREPLACE: the check is a moment old.
		if err = o.refuseTarget(path); err == nil {
			err = os.Rename(temp, path)
		}
	}
	if err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		if !o.Force { // with it, what was there is gone
			err = errors.Join(err, os.Rename(path, temp))
		}
		return err
	}
	return nil
}

// syncDir makes a rename in the folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some filesystems cannot sync a folder, and say so in these two ways.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}
