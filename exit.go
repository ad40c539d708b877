package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
)

// The exit statuses, a part of the interface for scripts.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPolicy      = 3 // refused by the user's own policy
	exitNotFound    = 4
	exitUnreachable = 5 // or timed out
	exitVerify      = 6 // what was read is not what it should be
	exitInterrupted = 130
)

// A usageError is a command line that makes no sense.
type usageError struct {
	text string
	hint string
}

func (e *usageError) Error() string { return e.text }

// usage makes a usageError; the format is that of fmt.Sprintf.
func usage(hint, format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...), hint: hint}
}

// A toldError was printed already, when it came.
type toldError struct{ error }

func (e toldError) Unwrap() error { return e.error }

// exitStatus is the status that tells of err. An interrupt wins: whatever else
// failed did so because of it.
func exitStatus(ctx context.Context, err error) int {
	var u *usageError
	var l *launchError
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), errInterrupted):
		return exitInterrupted
	case errors.As(err, &l):
		return l.Status
	case errors.As(err, &u):
		return exitUsage
	}
	switch disk.KindOf(err) {
	case disk.Policy, disk.ReadOnly:
		return exitPolicy
	case disk.NotFound:
		return exitNotFound
	case disk.Unreachable, disk.Timeout:
		return exitUnreachable
	case disk.Malformed, disk.Stale:
		return exitVerify
	case disk.Interrupted:
		return exitInterrupted
	}
	return exitFailed
}

// mountStatus turns a status of ours into one of mount(8), for its helper.
func mountStatus(status int) int {
	switch status {
	case exitDone:
		return 0
	case exitUsage:
		return 1
	case exitInterrupted:
		return 8
	}
	return 32
}

// complain prints err as every command does: the message, and what to do about it and
// the cloud's request id where these are known.
func complain(w io.Writer, err error) {
	var told toldError
	if errors.As(err, &told) {
		return
	}
	message, hint := explainError(err)
	fmt.Fprintf(w, "chromogenic: %s\n", message)
	if hint != "" {
		fmt.Fprintf(w, "chromogenic: hint: %s\n", hint)
	}
	if id := disk.AsError(err).RequestID; id != "" { // the owner of the cloud finds it by that
		fmt.Fprintf(w, "chromogenic: request id: %s\n", id)
	}
}

// explainError is the message and the hint of err.
func explainError(err error) (message, hint string) {
	var u *usageError
	var l *launchError
	switch {
	case errors.As(err, &l):
		return l.Message, l.Hint
	case errors.As(err, &u):
		return u.text, u.hint
	}
	return err.Error(), disk.AsError(err).Hint
}

// refuseFlag is what every command does with flags that it cannot parse.
func refuseFlag(c *cli.Context, err error, _ bool) error {
	hint := fmt.Sprintf("see chromogenic %s --help", c.Command.Name)
	if c.Command.Name == c.App.Name || c.Command.Name == "" {
		hint = "see chromogenic --help"
	}
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: "); ok {
		name = strings.TrimLeft(name, "-")
		if like := cli.SuggestFlag(c.Command.Flags, name, false); like != "" {
			hint = fmt.Sprintf("did you mean %s?", like)
		}
		if len(name) > 1 {
			name = "-" + name
		}
		return usage(hint, "unknown flag -%s", name)
	}
	return usage(hint, "%v", err)
}

// unknownCommand is the action of the program itself: without a command it
// helps, with one that does not exist it suggests another.
func unknownCommand(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowAppHelp(c)
	}
	return noCommand(c.App.VisibleCommands(), "", c.Args().First())
}

// noCommand refuses name, which is none of the commands below parent.
func noCommand(commands []*cli.Command, parent, name string) error {
	hint := "see chromogenic --help"
	// cli gives "Did you mean %q?" with the nearest name, however far it is.
	if like := cli.SuggestCommand(commands, name); like != "" {
		hint = strings.ToLower(like[:1]) + like[1:]
	}
	return usage(hint, "unknown command %q", strings.TrimSpace(parent+" "+name))
}

// wantArgs refuses a number of arguments outside [low, high].
func wantArgs(c *cli.Context, low, high int) error {
	if n := c.NArg(); n < low || n > high {
		return usage(fmt.Sprintf("chromogenic %s %s", c.Command.FullName(), c.Command.ArgsUsage), "%s: got %d arguments", c.Command.FullName(), n)
	}
	return nil
}
