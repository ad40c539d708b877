package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"chromogenic/cleaner"
	"chromogenic/disk"
	"chromogenic/fs"
	"chromogenic/pipeline"
)

func cleanCommand() *cli.Command {
	return &cli.Command{
		Name:      "clean",
		Usage:     "take secrets and traces of the old machine out of an image",
		ArgsUsage: "FILE|PLACE",
		Description: "The guest's filesystems are worked on in a sandbox, and no program of the guest is run. FILE or\n" +
			"PLACE stays as it is: the cleaned image is written to -o OUT, in the format of its name. With\n" +
			"--in-place FILE itself is cleaned, a raw or qcow2 file of your own. --plan writes nothing and\n" +
			"tells what would be touched, --list what there is to be done, docs/cleaning.md the same at length.",
		Flags: slices.Concat(commonFlags(), cleaningFlags(), []cli.Flag{
			jsonFlag(),
			&cli.StringFlag{Name: "f", Usage: "FILE is of `FORMAT`, whatever it is called"},
			&cli.StringFlag{Name: "o", Usage: "write the cleaned image to `OUT`"},
			&cli.StringFlag{Name: "O", Usage: "write `FORMAT`, whatever OUT is called"},
			&cli.BoolFlag{Name: "force", Usage: "replace OUT if it exists"},
			&cli.BoolFlag{Name: "in-place", Usage: "clean FILE itself"},
			&cli.BoolFlag{Name: "plan", Aliases: []string{"n"}, Usage: "say what would be touched, and write nothing"},
			&cli.BoolFlag{Name: "best-effort", Usage: "leave a filesystem as it is that cannot be reached, and clean the others"},
			&cli.BoolFlag{Name: "list", Usage: "list the operations"},
			&cli.BoolFlag{Name: "markdown", Usage: "with --list: write docs/cleaning.md"},
		}),
		Action: func(c *cli.Context) error {
			if c.Bool("list") {
				if err := wantArgs(c, 0, 0); err != nil {
					return err
				}
				return listOperations(c)
			}
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			return clean(c)
		},
	}
}

// cleaningFlags say how guests are cleaned, besides the configuration.
func cleaningFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "only", Usage: "run `OPERATION` and no other; may be repeated"},
		&cli.StringSliceFlag{Name: "skip", Usage: "leave `OPERATION` out; may be repeated"},
		&cli.StringSliceFlag{Name: "with", Usage: "run the optional `OPERATION` too; may be repeated"},
		&cli.StringSliceFlag{Name: "keep-user", Usage: "keep the account `USER`, its home and its keys; may be repeated"},
		&cli.StringSliceFlag{Name: "ssh-key", Usage: "let `[USER:]KEY` in, a line of authorized_keys; may be repeated"},
		&cli.StringFlag{Name: "hostname", Usage: "call the machine `NAME`, not localhost"},
		&cli.StringFlag{Name: "recipe", Usage: "then take the steps of `FILE`"},
		&cli.StringFlag{Name: "access", Usage: "reach the filesystems by `WAY`: " + strings.Join(accesses(), ", ")},
		&cli.BoolFlag{Name: "trusted-images", Usage: "let the kernel of this host mount them, where nothing else can"},
	}
}

// cleaningOf is the cleaning of a configuration with what the flags say.
func cleaningOf(c *cli.Context, conf *config) (pipeline.Cleaning, error) {
	how := conf.Cleaning
	o := &how.Options
	for name, dst := range map[string]*[]string{"only": &o.Only, "skip": &o.Skip, "with": &o.With, "keep-user": &o.KeepUsers, "ssh-key": &o.SSHKeys} {
		if c.IsSet(name) {
			*dst = c.StringSlice(name)
		}
	}
	if c.IsSet("only") {
		o.Skip, o.With = c.StringSlice("skip"), c.StringSlice("with")
	}
	if c.IsSet("hostname") {
		o.Hostname = c.String("hostname")
	}
	if c.IsSet("recipe") {
		var err error
		if o.Recipe, err = readRecipe(c.String("recipe")); err != nil {
			return how, err
		}
	}
	if access := c.String("access"); access != "" {
		if !slices.Contains(accesses(), access) {
			return how, usage("it is one of "+strings.Join(accesses(), ", "), "clean: unknown access %q", access)
		}
		how.Guest.Access = access
	}
	how.Guest.Trusted = how.Guest.Trusted || c.Bool("trusted-images")
	return how, o.Validate()
}

// clean cleans one image.
func clean(c *cli.Context) error {
	e, err := parseEnd(c.Args().First())
	if err != nil {
		return err
	}
	out, inPlace, plan := c.String("o"), c.Bool("in-place"), c.Bool("plan")
	switch {
	case inPlace && e.Path == "":
		return usage("write a copy with -o OUT", "clean: --in-place is for a plain file of your own")
	case inPlace && out != "" || plan && (inPlace || out != ""):
		return usage("", "clean: -o, --in-place and --plan exclude each other")
	case !inPlace && !plan && out == "":
		return usage("say -o OUT for the cleaned image, --in-place, or --plan", "clean: nothing says where to")
	case e.Path == "" && e.Stem == "":
		return usage("name one image", "clean: the source is a whole folder")
	}
	conf, err := cleaningConfig(c, e)
	if err != nil {
		return err
	}
	how, err := cleaningOf(c, conf)
	if err != nil {
		return err
	}
	if inPlace {
		if err := finishInPlace(e.Path); err != nil {
			return err
		}
	}
	m, file, done, err := cleanable(c, e)
	if err != nil {
		return err
	}
	defer done()
	if n := len(m.Disks); n > 1 {
		err := disk.Errorf(disk.Unsupported, "clean %q: the machine has %d disks, and only a boot disk can be cleaned", c.Args().First(), n)
		return disk.Hint(err, "take the disks apart: chromogenic convert --disk N")
	}
	policy := "require"
	if c.Bool("best-effort") {
		policy = "best-effort"
	}
	if plan {
		how.Options.Plan, how.Guest.ReadOnly = true, true
	}
	o := disk.NewOverlay(m.Disks[0], disk.OverlayOptions{Budget: 16 << 20})
	defer o.Close()
	report, err := how.Clean(c.Context, o, policy)
	if err != nil {
		return err
	}
	switch {
	case inPlace:
		err = cleanInPlace(c.Context, e.Path, file, o)
	case !plan:
		m.Disks[0].Image = o
		err = writeCleaned(c, m, out)
	}
	if err != nil {
		return err
	}
	return printCleaned(c, report, o.Stored())
}

// cleaningConfig is the configuration, which a plain file does without.
func cleaningConfig(c *cli.Context, e end) (*config, error) {
	path, err := findConfig(c.String("config"))
	if err != nil || path == "" && e.Path != "" {
		return &config{}, err
	}
	return loadConfig(path)
}

// cleanable opens what is to be cleaned.
func cleanable(c *cli.Context, e end) (m *disk.Machine, file *source, done func(), err error) {
	if e.Path != "" {
		file, err := openSource(e.Path, c.String("f"), nil)
		if err != nil {
			return nil, nil, nil, err
		}
		return file.Machine, file, func() { file.Close() }, nil
	}
	p, _, err := openSession(c)
	if err != nil {
		return nil, nil, nil, err
	}
	m, v, err := placeMachine(c, p, e.Place)
	if err != nil {
		p.Close()
		return nil, nil, nil, err
	}
	return m, nil, func() { v.Close(); p.Close() }, nil
}

// placeMachine is the machine of a place, with its boot disk alone.
func placeMachine(c *cli.Context, p *pipeline.Pipeline, place fs.Place) (*disk.Machine, *pipeline.View, error) {
	n, err := find(c.Context, p, place)
	if err != nil {
		return nil, nil, err
	}
	place.Format = "raw"
	v, err := view(c.Context, p, place, n, false)
	if err != nil {
		return nil, nil, err
	}
	m, err := p.Machine(c.Context, v.Ref)
	if err != nil {
		v.Close()
		return nil, nil, err
	}
	m.Disks[0].Image = v
	return m, v, nil
}

// writeCleaned writes the cleaned machine to a new file.
func writeCleaned(c *cli.Context, m *disk.Machine, path string) error {
	format, err := targetFormat(path, c.String("O"))
	if err != nil {
		return err
	}
	img, err := layOut(m, format)
	if err != nil {
		return fmt.Errorf("clean to %s: %w", format.Name, err)
	}
	meter := newMeter(os.Stderr)
	defer meter.close()
	return writeFile(c.Context, img, path, output{Force: c.Bool("force"), Verify: true, Progress: meter.update})
}

// printCleaned prints the report of the cleaner, and how many bytes of the disk it has
// written.
func printCleaned(c *cli.Context, report json.RawMessage, written int64) error {
	var r cleaner.Report
	if err := json.Unmarshal(report, &r); err != nil {
		return fmt.Errorf("read report: %w", err)
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, struct {
			cleaner.Report
			Written int64 `json:"written"`
		}{r, written})
	}
	return printOperations(c.App.Writer, r)
}

// printOperations prints what was done, or would be.
func printOperations(w io.Writer, r cleaner.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, o := range r.Operations {
		if o.Outcome == cleaner.Nothing || o.Outcome == cleaner.Skipped {
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%d files\t%d bytes\n", o.Name, o.Outcome, o.Files, o.Bytes)
		for _, p := range o.Paths {
			fmt.Fprintf(t, "  %s\t%s\t\t\n", harmless(p.Path), p.Action)
		}
		if o.More > 0 {
			fmt.Fprintf(t, "  and %d more\t\t\t\n", o.More)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	files, bytes := r.Totals()
	what := "cleaned"
	if r.Plan {
		what = "would be cleaned"
	}
	fmt.Fprintf(w, "%s: %d files, %d bytes\n", what, files, bytes)
	for _, warning := range r.Warnings {
		fmt.Fprintln(os.Stderr, "chromogenic: note:", harmless(warning))
	}
	return nil
}

// listOperations prints the table.
func listOperations(c *cli.Context) error {
	if c.Bool("markdown") {
		return cleaner.Markdown(c.App.Writer)
	}
	if c.Bool("json") {
		type row struct {
			Name    string `json:"name"`
			Heading string `json:"heading"`
			Default bool   `json:"default"`
		}
		var rows []row
		for _, op := range cleaner.Operations() {
			rows = append(rows, row{op.Name, op.Heading, op.Default})
		}
		return printJSON(c.App.Writer, rows)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, op := range cleaner.Operations() {
		when := "default"
		if !op.Default {
			when = "optional"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", op.Name, when, op.Heading)
	}
	return t.Flush()
}
