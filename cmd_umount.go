package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/fs"
)

func umountCommand() *cli.Command {
	return &cli.Command{
		Name:      "umount",
		Usage:     "end a mount",
		ArgsUsage: "MOUNTPOINT",
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			return unmount(c.Args().First())
		},
	}
}

// unmount takes the mount away that is on top at path. Only one of ours; whose
// server has died counts too.
func unmount(path string) error {
	abs, err := fs.MountPath(path)
	if err != nil {
		return err
	}
	kind, err := fs.MountedAt(abs)
	switch {
	case err != nil:
		return err
	case kind == "":
		return disk.Errorf(disk.NotFound, "unmount %q: nothing is mounted there", path)
	case !strings.HasSuffix(kind, ".chromogenic"):
		return disk.Errorf(disk.Invalid, "unmount %q: a %s filesystem is mounted there, which is not ours", path, kind)
	}
	switch err := unix.Unmount(abs, unix.UMOUNT_NOFOLLOW); {
	case errors.Is(err, unix.EPERM):
		err = fusermount(abs)
		if err != nil {
			return fmt.Errorf("unmount %q: %w", path, err)
		}
	case errors.Is(err, unix.EBUSY):
		return disk.Hint(disk.Errorf(disk.Busy, "unmount %q: a program is using it", path), "fuser -vm %s tells which", path)
	case err != nil:
		return fmt.Errorf("unmount %q: %w", path, err)
	}
	return nil
}

// fusermount asks the helper of FUSE, which may do it for the mount's owner.
func fusermount(path string) error {
	tool, err := exec.LookPath("fusermount3")
	if err != nil {
		return disk.Hint(disk.Errorf(disk.Denied, "only root may do that without fusermount3"), "install the package fuse3")
	}
	out, err := exec.Command(tool, "-u", "--", path).CombinedOutput()
	if err == nil {
		return nil
	}
	if bytes.Contains(out, []byte("busy")) {
		return disk.Hint(disk.Errorf(disk.Busy, "a program is using it"), "fuser -vm %s tells which", path)
	}
	return fmt.Errorf("fusermount3: %s", bytes.TrimSpace(out))
}
