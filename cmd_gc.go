package main

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"chromogenic/pipeline"
)

func gcCommand() *cli.Command {
	return &cli.Command{
		Name:  "gc",
		Usage: "remove what interrupted copies and captures have left",
		Description: "Unfinished uploads and snapshots at the providers, scratch files, and jobs that cannot be\n" +
			"resumed, or that nobody has resumed for a week. What any process is working on stays, so\n" +
			"that a timer may run this on any host. A mount does the same when it starts.",
		Flags: append(commonFlags(), jsonFlag(),
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would be removed, and remove nothing"},
			&cli.DurationFlag{Name: "older", Usage: "give up jobs that nobody has resumed for `TIME` (48h); 0 is all that do not run", Value: 7 * 24 * time.Hour}),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0); err != nil {
				return err
			}
			return collect(c)
		},
	}
}

func collect(c *cli.Context) error {
	s, done, err := openService(c)
	if err != nil {
		return err
	}
	defer done()
	o := pipeline.GCOptions{DryRun: c.Bool("dry-run"), Older: c.Duration("older")}
	if c.IsSet("older") && o.Older <= 0 {
		o.Older = -1 // all
	}
	found, err := s.GC(c.Context, o)
	switch {
	case c.Bool("json"):
		return errors.Join(err, printJSON(c.App.Writer, append([]pipeline.Leftover{}, found...)))
	case len(found) > 0:
		return errors.Join(err, printLeftovers(c, found))
	}
	return err
}

func printLeftovers(c *cli.Context, found []pipeline.Leftover) error {
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tPROVIDER\tID\tSIZE\tAGE\tREASON")
	for _, l := range found {
		old := "unknown"
		if !l.Since.IsZero() {
			old = age(time.Since(l.Since))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", l.What, l.Site, l.ID, size(l.Size), old, l.Reason)
	}
	return t.Flush()
}
