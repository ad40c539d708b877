package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func manCommand() *cli.Command {
	return &cli.Command{
		Name:        "man",
		Usage:       "print the manual page",
		Description: "To read it: chromogenic man | man -l -",
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0); err != nil {
				return err
			}
			page, err := c.App.ToManWithSection(8)
			if err != nil {
				return fmt.Errorf("make manual page: %w", err)
			}
			fmt.Fprintln(c.App.Writer, page)
			return nil
		},
	}
}
