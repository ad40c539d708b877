package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/pipeline/control"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

func cpCommand() *cli.Command {
	return &cli.Command{
		Name:      "cp",
		Usage:     "copy an image from or to a provider",
		ArgsUsage: "SRC DST",
		Description: "SRC and DST are places, PROVIDER:images/NAME[.FORMAT] or PROVIDER:instances/NAME[.FORMAT],\n" +
			"or plain paths; at least one is a place. No mount is needed. A copy is verified, and is\n" +
			"visible under its name only when it is complete. Of a machine with several disks all are\n" +
			"copied, as a set or in an ova, unless SRC names a format of one disk: then it is the boot\n" +
			"disk. NAME.disks/N is one disk, as a mount shows it: N counts from 0, the boot disk. A kernel\n" +
			"and a ramdisk go along to another provider; NAME.kernel and NAME.ramdisk are one of them, from\n" +
			"or to a plain file. An ISO stays one.",
		Flags: slices.Concat(commonFlags(), limitFlags(), []cli.Flag{
			jsonFlag(),
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would be done, and do nothing"},
			&cli.StringFlag{Name: "store", Usage: "keep it as `FORMAT`, or \"source\", whatever the provider's own choice is"},
			&cli.StringFlag{Name: "until", Usage: "pause after `STAGE`: " + strings.Join(pipeline.Stages(), ", ")},
			&cli.StringFlag{Name: "clean", Usage: "`POLICY` for traces of the old machine: auto, require, best-effort or off"},
			&cli.BoolFlag{Name: "allow-replace", Usage: "let another image of that name go when the new one, verified, takes its place"},
			snapshotFlag(),
			&cli.BoolFlag{Name: "force", Usage: "replace a plain file DST if it exists"},
		}),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 2, 2); err != nil {
				return err
			}
			return copyAction(c, c.String("clean"))
		},
	}
}

// A copying is one run of cp.
type copying struct {
	c        *cli.Context
	clean    string // the policy; empty is that of the destination
	p        *pipeline.Pipeline
	service  control.Service // of between two places
	src, dst end
	rate     pipeline.Rate
	meter    *meter
}

func copyAction(c *cli.Context, clean string) error {
	job := &copying{c: c, clean: clean}
	var err error
	if job.src, err = parseFile(c.Args().Get(0)); err != nil {
		return err
	}
	if job.dst, err = parseFile(c.Args().Get(1)); err != nil {
		return err
	}
	if job.rate, err = rateOf(c); err != nil {
		return err
	}
	if err := job.refuse(); err != nil {
		return err
	}
	var conf *config
	if job.p, conf, err = openSession(c); err != nil {
		return err
	}
	defer job.p.Close()
	var done func()
	if job.service, done, err = service(c, job.p, conf); err != nil {
		return err
	}
	defer done()
	rec, err := job.run()
	if rec == nil {
		return err
	}
	printNotes(rec)
	switch {
	case c.Bool("json"):
		if e := printJSON(c.App.Writer, rec); err == nil {
			err = e
		}
	case c.Bool("dry-run") && err == nil:
		printPlan(c, rec)
	case err == nil:
		printPaused(c, rec)
	}
	return err
}

// printPaused tells how to go on with a job that was stopped where it was asked
// to.
func printPaused(c *cli.Context, rec *jobs.Record) {
	if rec.State == jobs.Interrupted {
		fmt.Fprintf(c.App.Writer, "job %s waits after stage %s\nchromogenic jobs resume %s goes on with it\n", rec.ID, rec.Until, rec.ID)
	}
}

// refuse tells what makes no sense before anything is opened.
func (j *copying) refuse() error {
	store, until := j.c.String("store"), j.c.String("until")
	switch {
	case j.src.Path != "" && j.dst.Path != "":
		return usage("chromogenic convert SRC DST changes the format of a plain file", "cp: neither is a place of a provider")
	case j.c.IsSet("snapshot") && (j.src.Path != "" || j.src.Kind != providers.Instances || j.src.InDisks):
		return usage("--snapshot is for the copy of a machine: PROVIDER:instances/NAME", "cp: there is no snapshot of %q", j.c.Args().First())
	case j.src.Path == "" && j.src.Stem == "":
		return usage("name one image", "cp: the source is a whole folder")
	case j.src.Disk > 0 && j.dst.Path == "" && j.dst.Stem == "":
		return usage("name the image: "+placeName(j.dst.Provider, j.dst.Kind, "NAME")+", or its disk: NAME.disks/N", "cp: the destination of a data disk has no name")
	case store != "" && !slices.Contains(stores(), store):
		return usage("it is one of "+strings.Join(stores(), ", "), "cp: unknown store %q", store)
	case j.clean != "" && !slices.Contains(cleans(), j.clean):
		return usage("it is one of "+strings.Join(cleans(), ", "), "cp: unknown clean %q", j.clean)
	case j.dst.Path != "" && j.clean == "best-effort":
		return usage("for a plain file it is require or off; auto is off", "cp: --clean best-effort is for copies into a provider")
	case until != "" && !slices.Contains(pipeline.Stages(), until):
		return usage("it is one of "+strings.Join(pipeline.Stages(), ", "), "cp: unknown stage %q", until)
	case j.dst.Path != "" && (store != "" || until != ""):
		return usage("they are for copies into a provider", "cp: --store and --until mean nothing for a plain file")
	case j.dst.Path == "" && j.c.Bool("force"):
		return usage("--force is for plain files; --allow-replace for images", "cp: --force means nothing for an image of a provider")
	case j.dst.Path == "" && j.dst.Kind != "images":
		return usage("copy to "+j.dst.Provider+":images/", "cp: instances cannot be written")
	}
	return nil
}

func (j *copying) run() (*jobs.Record, error) {
	if !j.c.Bool("dry-run") {
		j.meter = newMeter(os.Stderr)
		defer j.meter.close()
	}
	if j.dst.Path != "" {
		return j.toFile()
	}
	if _, ok := j.p.Provider(j.dst.Provider); !ok {
		_, err := list(j.c.Context, j.p, j.dst.Provider, providers.Images)
		return nil, err
	}
	if j.src.Path != "" {
		return j.fromFile()
	}
	return j.between()
}

// refuseFormat refuses a destination that is named as of another format than
// what is copied there: its extension would lie.
func (j *copying) refuseFormat(format string) error {
	if j.dst.Format == "" || j.dst.Format == format {
		return nil
	}
	return usage("leave the extension out; --store FORMAT says in which format it is kept", "cp: a %s cannot arrive as a %s", format, j.dst.Format)
}

func printPlan(c *cli.Context, rec *jobs.Record) {
	w := c.App.Writer
	fmt.Fprintf(w, "%s -> %s\n", rec.Source, rec.Destination)
	fmt.Fprintf(w, "  format        %s\n", rec.Format)
	fmt.Fprintf(w, "  virtual size  %s (%d bytes)\n", size(rec.VirtualSize), rec.VirtualSize)
	for _, d := range rec.Disks {
		fmt.Fprintf(w, "  disk %-7d  %s, %s (%d bytes) to send\n", d.Number, d.Format, size(d.Bytes), d.Bytes)
	}
	fmt.Fprintf(w, "  to send       %s (%d bytes)\n", size(rec.Bytes), rec.Bytes)
	fmt.Fprintf(w, "  scratch       %s (%d bytes)\n", size(rec.Scratch), rec.Scratch)
	for _, s := range rec.Stages {
		fmt.Fprintf(w, "  %-12s  %s", s.Name, s.Outcome)
		if s.Note != "" {
			fmt.Fprintf(w, ": %s", s.Note)
		}
		fmt.Fprintln(w)
	}
	if rec.Unchanged {
		fmt.Fprintln(w, "  the same disk is there already")
	}
}

// statSource looks at a plain source, which must be a file.
func statSource(path string) (os.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	if info.IsDir() {
		return nil, disk.Errorf(disk.Unsupported, "copy %q: it is a folder", path)
	}
	return info, nil
}
