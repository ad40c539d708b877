package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/pipeline/control"
	"chromogenic/pipeline/jobs"
)

func jobsCommand() *cli.Command {
	const id = "ID may be cut short: its last six digits, or its beginning, will do."
	sub := func(name, args, text, about string, n int, do func(*cli.Context, control.Service) error, flags ...cli.Flag) *cli.Command {
		return &cli.Command{
			Name: name, Usage: text, ArgsUsage: args, Description: about,
			Flags: append(append(commonFlags(), jsonFlag()), flags...),
			Action: func(c *cli.Context) error {
				if err := wantArgs(c, n, n); err != nil {
					return err
				}
				s, done, err := openService(c)
				if err != nil {
					return err
				}
				defer done()
				return do(c, s)
			},
		}
	}
	return &cli.Command{
		Name:  "jobs",
		Usage: "show copies and what became of them; go on with those that were cut off",
		Description: "Every copy into a provider is a job, and so is every removal; the last thousand are remembered.\n" +
			"A mount that runs is asked; without one the state directory is read.",
		Subcommands: []*cli.Command{
			sub("list", "", "list jobs, the newest last", "", 0, listJobs),
			sub("show", "ID", "tell all that is known of a job", id, 1, showJob),
			sub("resume", "ID", "go on with a job that was interrupted, or has failed",
				id+"\nWhat the destination has already is not sent again. An interrupt pauses the job once more.", 1, resumeJob,
				&cli.StringFlag{Name: "until", Usage: "pause after `STAGE`: " + strings.Join(pipeline.Stages(), ", ")}),
			sub("cancel", "ID", "end a job, and remove what it has made", id, 1, cancelJob),
			sub("wait", "ID", "wait until a job has ended; the exit status is the job's", id, 1, waitJob),
		},
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return cli.ShowSubcommandHelp(c)
			}
			return noCommand(c.Command.Subcommands, "jobs", c.Args().First())
		},
	}
}

func listJobs(c *cli.Context, s control.Service) error {
	all, err := s.Jobs(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, append([]jobs.Record{}, all...))
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tSTATE\tSTAGE\tSOURCE\tDESTINATION\tBYTES\tAGE\tERROR")
	for _, r := range all {
		code := ""
		if r.Error != nil {
			code = r.Error.Code
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.State, stageOf(&r), r.Source, r.Destination, size(r.Bytes), age(time.Since(r.Started)), code)
	}
	return t.Flush()
}

// stageOf is the stage of a job, and how far that is.
func stageOf(r *jobs.Record) string {
	if p := r.Progress; p != nil && p.Total > 0 {
		return fmt.Sprintf("%s %d%%", r.Stage, p.Done*100/p.Total)
	}
	if p := r.Progress; p != nil && p.Note != "" {
		return r.Stage + ", " + p.Note
	}
	return r.Stage
}

// age is a time that has passed, in one unit.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

func showJob(c *cli.Context, s control.Service) error {
	rec, err := s.Job(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, rec)
	}
	return printJob(c.App.Writer, &rec)
}

// printJob writes a record for people.
func printJob(w io.Writer, r *jobs.Record) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(label, format string, args ...any) {
		if text := strings.TrimSpace(fmt.Sprintf(format, args...)); text != "" {
			fmt.Fprintf(t, "%s\t%s\n", label, text)
		}
	}
	line("id", "%s", r.ID)
	line("state", "%s", r.State)
	line("stage", "%s", stageOf(r))
	if r.State == jobs.Interrupted && r.Until != "" {
		line("waits after", "%s", r.Until)
	}
	line("source", "%s", r.Source)
	line("destination", "%s", r.Destination)
	line("format", "%s", r.Format)
	line("bytes", "%s (%d bytes)", size(r.Bytes), r.Bytes)
	line("virtual size", "%s (%d bytes)", size(r.VirtualSize), r.VirtualSize)
	line("scratch", "%s (%d bytes)", size(r.Scratch), r.Scratch)
	line("started", "%s", r.Started.Format(time.RFC3339))
	if label := "ended"; !r.Ended.IsZero() {
		if r.State == jobs.Interrupted {
			label = "paused"
		}
		line(label, "%s (%s)", r.Ended.Format(time.RFC3339), r.Ended.Sub(r.Started).Round(time.Millisecond))
	}
	if r.Unchanged {
		line("unchanged", "the same disk was there already")
	}
	line("consistency", "%s", r.Consistency)
	for _, d := range r.Disks {
		line(fmt.Sprintf("disk %d", d.Number), "%s %s, %s (%d bytes), guest digest %s", d.Device, d.Format, size(d.Bytes), d.Bytes, d.GuestDigest)
	}
	line("bytes digest", "%s", r.BytesDigest)
	line("guest digest", "%s", r.GuestDigest)
	if r.Entry != nil {
		line("image", "%s", r.Entry.ID)
	}
	for _, n := range r.Notes {
		line("note", "%s", n)
	}
	if e := r.Error; e != nil {
		line("error", "%s", e.Message)
		line("hint", "%s", e.Hint)
		line("request id", "%s", e.RequestID)
		line("code", "%s (%s)", e.Code, e.Kind)
	}
	for _, m := range r.Made {
		line("left", "%s %s", m.What, printable(m))
	}
	for _, s := range r.Stages {
		fmt.Fprintf(t, "  %s\t%s", s.Name, s.Outcome)
		if took := s.Took.Round(time.Millisecond); took > 0 {
			fmt.Fprintf(t, ", %s", took)
		}
		if s.Note != "" {
			fmt.Fprintf(t, ": %s", s.Note)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// printable is where a thing is that a job has made.
func printable(m jobs.Made) string {
	if m.Site == "" {
		return string(m.Token)
	}
	return fmt.Sprintf("%q at %s", m.Token, m.Site)
}

func resumeJob(c *cli.Context, s control.Service) error {
	until := c.String("until")
	if until != "" && !slices.Contains(pipeline.Stages(), until) {
		return usage("it is one of "+strings.Join(pipeline.Stages(), ", "), "jobs resume: unknown stage %q", until)
	}
	m := newMeter(os.Stderr)
	rec, err := s.Resume(c.Context, c.Args().First(), until, m.update)
	m.close()
	if rec == nil {
		return err
	}
	if c.Bool("json") {
		if e := printJSON(c.App.Writer, rec); err == nil {
			err = e
		}
	} else if err == nil {
		printPaused(c, rec)
	}
	return err
}

func cancelJob(c *cli.Context, s control.Service) error {
	rec, err := s.Cancel(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, rec)
	}
	return nil
}

func waitJob(c *cli.Context, s control.Service) error {
	rec, err := s.Wait(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	if c.Bool("json") {
		if err := printJSON(c.App.Writer, rec); err != nil {
			return err
		}
	}
	if rec.State == jobs.Interrupted {
		return disk.Hint(disk.Errorf(disk.Other, "wait for job %s: it was interrupted", rec.ID), "chromogenic jobs resume %s goes on with it", rec.ID)
	}
	return control.Err(rec.Error)
}
