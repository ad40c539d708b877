package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
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
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	// Links in the path are followed up to the mountpoint, which may not answer.
	if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(dir, filepath.Base(abs))
	}
	kind, err := mountedAt(abs)
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

// mountedAt is the type of the filesystem that is mounted at exactly path, on
// top of others; empty for none.
func mountedAt(path string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	kind := ""
	// proc_pid_mountinfo(5): the mountpoint is field 5, with octal escapes; the
	// type is the first field behind " - ".
	for lines := bufio.NewScanner(f); lines.Scan(); {
		front, back, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(front)
		if !ok || len(fields) < 5 || unescape(fields[4]) != path {
			continue
		}
		kind, _, _ = strings.Cut(back, " ")
	}
	return kind, nil
}

// unescape undoes the octal escapes of the kernel's tables.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
