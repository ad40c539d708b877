package main

import (
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"chromogenic/disk"
)

// commonFlags are those of every command that works with providers.
func commonFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "read the configuration from `FILE`"}, // $CHROMOGENIC_CONFIG: findConfig
		&cli.StringFlag{Name: "state-dir", Usage: "keep what is learned of images in `DIR`", EnvVars: []string{"CHROMOGENIC_STATE_DIR"}},
		&cli.BoolFlag{Name: "debug", Usage: "log every step", EnvVars: []string{"CHROMOGENIC_DEBUG"}},
	}
}

// jsonFlag is that of every command which a script would parse.
func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

// newLogger logs to w: in colour on a terminal, as text for machines elsewhere.
func newLogger(w io.Writer, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	if isTerminal(w) {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// quietLogger is for commands that end with their own report: warnings only,
// unless the user wants to see all.
func quietLogger(c *cli.Context) *slog.Logger {
	if c.Bool("debug") {
		return newLogger(os.Stderr, true)
	}
	return slog.New(slog.DiscardHandler)
}

// openLog opens a log file for appending; only its owner may read it, for it
// names images.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, disk.Errorf(disk.KindOf(err), "open log: %w", err)
	}
	return f, nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
