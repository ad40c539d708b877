package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:      "doctor",
		Usage:     "say what keeps a mount from working",
		ArgsUsage: "[DIR|CONFIG] [MOUNTPOINT]",
		Description: "It takes the arguments and options of chromogenic mount, looks at all that such a mount\n" +
			"needs, and changes nothing. The exit status is 1 when a check fails; a warning is no failure.",
		Flags: append(mountFlags(commonFlags()), jsonFlag(),
			&cli.BoolFlag{Name: "all", Usage: "look at every cloud of clouds.yaml too"},
			&cli.StringSliceFlag{Name: "o", Usage: "mount `OPTIONS` as in an fstab line"}),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 2); err != nil {
				return err
			}
			findings := examine(c)
			var err error
			if c.Bool("json") {
				err = printJSON(c.App.Writer, findings)
			} else {
				err = printFindings(c.App.Writer, findings)
			}
			return cmp.Or(err, verdict(findings))
		},
	}
}

// The grades of a finding.
const (
	gradeOK   = "ok"
	gradeWarn = "warn" // works, but not all of it, or not for long
	gradeFail = "fail" // a mount does not work
)

// A finding is what one check has found.
type finding struct {
	Check string   `json:"check"`
	Grade string   `json:"status"`
	Text  string   `json:"text"`
	Hint  string   `json:"hint,omitempty"`
	More  []string `json:"more,omitempty"` // the items of what Text counts
}

func passes(check, format string, args ...any) finding {
	return finding{Check: check, Grade: gradeOK, Text: fmt.Sprintf(format, args...)}
}

func warns(check, hint, format string, args ...any) finding {
	return finding{Check: check, Grade: gradeWarn, Text: fmt.Sprintf(format, args...), Hint: hint}
}

func fails(check, hint, format string, args ...any) finding {
	return finding{Check: check, Grade: gradeFail, Text: fmt.Sprintf(format, args...), Hint: hint}
}

// failsBy is a check that ended with an error.
func failsBy(check string, err error) finding {
	message, hint := explainError(err)
	return fails(check, hint, "%s", message)
}

// shownItems bounds the items that are printed for people.
const shownItems = 8

func printFindings(w io.Writer, findings []finding) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Grade, f.Check, f.Text)
		for i, item := range f.More {
			if i == shownItems {
				fmt.Fprintf(t, "\t\t  and %d more: see --json\n", len(f.More)-i)
				break
			}
			fmt.Fprintf(t, "\t\t  %s\n", item)
		}
		if f.Hint != "" {
			fmt.Fprintf(t, "\t\thint: %s\n", f.Hint)
		}
	}
	return t.Flush()
}

// verdict is an error when a check has failed.
func verdict(findings []finding) error {
	bad := 0
	for _, f := range findings {
		if f.Grade == gradeFail {
			bad++
		}
	}
	if bad == 0 {
		return nil
	}
	return disk.Errorf(disk.Other, "%d of %d checks failed", bad, len(findings))
}

// examine makes all checks.
func examine(c *cli.Context) []finding {
	findings := checkSystem()
	m, err := newMounting(c)
	switch {
	case disk.KindOf(err) == disk.NotFound && c.NArg() < 2 && configOption(c) == "":
		_, hint := explainError(err)
		findings = append(findings, warns("configuration", hint, "there is none: only a folder can be mounted"))
		dir, err := defaultStateDir()
		if err != nil {
			return append(findings, failsBy("state", err))
		}
		return append(findings, checkState(dir, 0)...)
	case err != nil:
		return append(findings, failsBy("configuration", err))
	}
	findings = append(findings, checkConfiguration(m)...)
	findings = append(findings, checkState(m.state, m.SpoolLimit)...)
	findings = append(findings, checkProviders(c.Context, m)...)
	findings = append(findings, checkCleaning(m.Cleaning))
	return append(findings, checkMountpoint(c.Context, m))
}

// checkTime bounds a check that asks a file system which may not answer.
const checkTime = 30 * time.Second

// within runs f, and gives up on it when it takes too long: a dead disk of the
// network keeps whoever asks it for ever.
func within(ctx context.Context, f func(context.Context) finding, late finding) finding {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	done := make(chan finding, 1)
	go func() { done <- f(ctx) }()
	select {
	case found := <-done:
		return found
	case <-ctx.Done():
		return late
	}
}
