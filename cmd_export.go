package main

import (
	"slices"

	"github.com/urfave/cli/v2"
)

func exportCommand() *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "write an image of a provider to a plain file",
		ArgsUsage: "PLACE FILE|DIR",
		Description: "PLACE is PROVIDER:images/NAME[.FORMAT] or PROVIDER:instances/NAME[.FORMAT]. FILE has the format of\n" +
			"its name; in DIR the file is called as in a mount. It is sparse, read back and compared, and has\n" +
			"its name when it is complete. With --clean the secrets and traces of the old machine stay out of it.",
		Flags: slices.Concat(commonFlags(), limitFlags(), []cli.Flag{
			jsonFlag(),
			&cli.BoolFlag{Name: "clean", Usage: "clean the guest on the way"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would be done, and do nothing"},
			snapshotFlag(),
			&cli.BoolFlag{Name: "force", Usage: "replace FILE if it exists"},
		}),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 2, 2); err != nil {
				return err
			}
			to, err := parseEnd(c.Args().Get(1))
			if err != nil {
				return err
			}
			if to.Path == "" {
				return usage("chromogenic cp copies between providers", "export: %q is no plain file", c.Args().Get(1))
			}
			policy := "off"
			if c.Bool("clean") {
				policy = "require"
			}
			return copyAction(c, policy)
		},
	}
}
