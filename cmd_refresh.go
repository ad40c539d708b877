package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/fs"
)

func refreshCommand() *cli.Command {
	return &cli.Command{
		Name:      "refresh",
		Usage:     "look at providers anew",
		ArgsUsage: "[PROVIDER|PATH]",
		Description: "PATH is anywhere in a mount, all of whose providers are then looked at anew. Without an\n" +
			"argument it is the mount of the configuration. A folder that has taken the place of another\n" +
			"is accepted, unless it is empty.",
		Flags: commonFlags(),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 1); err != nil {
				return err
			}
			arg := strings.TrimSuffix(c.Args().First(), ":")
			if c.NArg() == 1 && !providerName.MatchString(arg) {
				return refreshPath(c.Args().First())
			}
			s, done, err := openService(c)
			if err != nil {
				return err
			}
			defer done()
			return s.Refresh(c.Context, arg)
		},
	}
}

// refreshPath refreshes the mount that path is in.
func refreshPath(path string) error {
	abs, err := fs.MountPath(path)
	if err != nil {
		return fmt.Errorf("refresh %q: %w", path, err)
	}
	mount, err := mountOf(abs)
	if err != nil {
		return fmt.Errorf("refresh %q: %w", path, err)
	}
	if mount == "" {
		return disk.Errorf(disk.NotFound, "refresh %q: it is in no mount of chromogenic", path)
	}
	now := time.Now()
	if err := os.Chtimes(filepath.Join(mount, ".chromogenic", "refresh"), now, now); err != nil {
		return fmt.Errorf("refresh %q: %w", path, err)
	}
	return nil
}
