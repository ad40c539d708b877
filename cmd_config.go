package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "look at the configuration",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return cli.ShowSubcommandHelp(c)
			}
			return noCommand(c.Command.Subcommands, "config", c.Args().First())
		},
		Subcommands: []*cli.Command{{
			Name:      "check",
			Usage:     "read the configuration, and say what is wrong and where",
			ArgsUsage: "[FILE]",
			Flags:     []cli.Flag{&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "check `FILE`"}},
			Action: func(c *cli.Context) error {
				if err := wantArgs(c, 0, 1); err != nil {
					return err
				}
				path := c.String("config")
				if c.NArg() == 1 {
					path = c.Args().First()
				}
				return checkConfig(c, path)
			},
		}},
	}
}

// checkConfig loads the configuration and makes its providers, which opens no
// image and no state.
func checkConfig(c *cli.Context, path string) error {
	conf, err := configured(path)
	if err != nil {
		return err
	}
	for _, p := range conf.Providers {
		if _, err := newProvider(p, conf.Mountpoint, ""); err != nil {
			return fmt.Errorf("%s: %w", conf.Path, err)
		}
	}
	fmt.Fprintf(c.App.Writer, "%s: ok, %d providers\n", conf.Path, len(conf.Providers))
	return nil
}
