package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/fs"
	"chromogenic/pipeline"
	"chromogenic/pipeline/control"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

func captureCommand() *cli.Command {
	return &cli.Command{
		Name:      "capture",
		Usage:     "keep the disks of a machine in use as of one moment",
		ArgsUsage: "PROVIDER:instances/NAME",
		Description: "The capture is listed as PROVIDER:instances/NAME@TIME, with the time in UTC. It never changes,\n" +
			"so that backups read it as an image. What was made is printed. The policy of the provider\n" +
			"(snapshot in the configuration) holds here too; on-copy and auto allow it.",
		Flags: slices.Concat(commonFlags(), limitFlags(), []cli.Flag{
			jsonFlag(),
			&cli.StringFlag{Name: "name", Usage: "call the capture `NAME`@TIME"},
			&cli.IntFlag{Name: "keep", Usage: "then remove the oldest captures of the machine and name, but for `N`"},
			&cli.BoolFlag{Name: "freeze", Usage: "have the filesystems frozen meanwhile, or fail"},
			&cli.StringFlag{Name: "image", Usage: "make the image `NAME` of it; the capture itself stays only with --keep"},
			&cli.StringFlag{Name: "clean", Usage: "`POLICY` for traces of the machine in that image: auto, require, best-effort or off"},
			snapshotFlag(),
			&cli.BoolFlag{Name: "yes-restart", Usage: "allow it where capturing restarts the machine"},
		}),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			return captureInstance(c)
		},
	}
}

func captureInstance(c *cli.Context) error {
	place, err := capturePlace(c)
	if err != nil {
		return err
	}
	rate, err := rateOf(c)
	if err != nil {
		return err
	}
	p, conf, err := openSession(c)
	if err != nil {
		return err
	}
	defer p.Close()
	s, done, err := service(c, p, conf)
	if err != nil {
		return err
	}
	defer done()
	n, err := find(c.Context, p, place)
	if err != nil {
		return err
	}
	m := newMeter(os.Stderr)
	rec, err := makeCapture(c, p, s, place, n, rate, m)
	m.close()
	switch {
	case rec == nil:
		return err
	case c.Bool("json"):
		if e := printJSON(c.App.Writer, rec); err == nil {
			err = e
		}
	case err == nil:
		return printMade(c, p, place.Provider, rec)
	}
	return err
}

// makeCapture captures, or copies a snapshot that is there already.
func makeCapture(c *cli.Context, p *pipeline.Pipeline, s control.Service, place fs.Place, n fs.Named, rate pipeline.Rate, m *meter) (*jobs.Record, error) {
	image := fs.Decode(c.String("image"))
	if c.IsSet("snapshot") {
		n, err := reuse(c, p, place.Provider, n)
		if err != nil {
			return nil, err
		}
		return s.Copy(c.Context, control.Request{
			Source:      control.Source{Site: place.Provider, Kind: n.Entry.Kind, ID: n.Entry.ID, Format: ownFormat(n), Machine: true},
			Destination: control.Destination{Site: place.Provider, Name: image},
			Clean:       c.String("clean"),
			Rate:        rate,
			OverBudget:  c.Bool("over-budget"),
		}, m.update)
	}
	return s.Capture(c.Context, control.CaptureRequest{
		Site:       place.Provider,
		ID:         n.Entry.ID,
		Name:       fs.Decode(c.String("name")),
		Keep:       c.Int("keep"),
		Freeze:     c.Bool("freeze"),
		MayRestart: c.Bool("yes-restart"),
		Image:      image,
		Clean:      c.String("clean"),
		Rate:       rate,
		OverBudget: c.Bool("over-budget"),
	}, m.update)
}

// snapshotFlag names a snapshot to be reused.
func snapshotFlag() cli.Flag {
	return &cli.StringFlag{Name: "snapshot", Usage: "read the snapshot `ID` of the machine, which is there already and stays, and make none"}
}

// reuse gives the snapshot that the command line names in the place of a machine, under
// the machine's name.
func reuse(c *cli.Context, p *pipeline.Pipeline, site string, n fs.Named) (fs.Named, error) {
	if !c.IsSet("snapshot") {
		return n, nil
	}
	e, err := p.SnapshotOf(c.Context, site, n.Entry, c.String("snapshot"))
	return fs.Named{Entry: e, Name: n.Name}, err
}

// capturePlace is the instance that the command line names.
func capturePlace(c *cli.Context) (fs.Place, error) {
	e, err := parseEnd(c.Args().First())
	if err != nil {
		return fs.Place{}, err
	}
	switch {
	case e.Path != "" || e.Kind != providers.Instances || e.Stem == "" || e.InDisks:
		return fs.Place{}, usage("name a machine: PROVIDER:instances/NAME", "capture: %q is no instance", c.Args().First())
	case c.IsSet("keep") && c.Int("keep") < 1:
		return fs.Place{}, usage("the new one is always kept", "capture: --keep %d keeps none", c.Int("keep"))
	case c.IsSet("clean") && (!c.IsSet("image") || !slices.Contains(cleans(), c.String("clean"))):
		return fs.Place{}, usage("with --image NAME it is one of "+strings.Join(cleans(), ", "), "capture: --clean %s", c.String("clean"))
	case c.IsSet("name") && c.String("name") == "" || c.IsSet("image") && c.String("image") == "":
		return fs.Place{}, usage("", "capture: the name is empty")
	case c.IsSet("snapshot") && (!c.IsSet("image") || c.IsSet("keep") || c.IsSet("name") || c.Bool("freeze")):
		return fs.Place{}, usage("--snapshot ID --image NAME makes an image of it", "capture: the snapshot is there already, and stays")
	case c.IsSet("name") && c.IsSet("image") && !c.IsSet("keep"):
		return fs.Place{}, usage("with --keep N the capture stays too", "capture: --name is for a capture, and with --image alone none stays")
	}
	return e.Place, nil
}

// printMade prints the place of what a capture has made.
func printMade(c *cli.Context, p *pipeline.Pipeline, site string, rec *jobs.Record) error {
	printNotes(rec)
	p.Forget(site) // a mount may have made it
	all, err := p.ListNow(c.Context, site, rec.Entry.Kind)
	if err != nil {
		return err
	}
	n, ok := fs.NewIndex(all.Entries).ID(rec.Entry.ID)
	if !ok {
		return disk.Errorf(disk.NotFound, "find %s %q of %s: it is gone already", rec.Entry.Kind, rec.Entry.ID, site)
	}
	fmt.Fprintln(c.App.Writer, placeName(site, rec.Entry.Kind, n.Name))
	return nil
}
