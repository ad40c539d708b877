package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// completionFlag is what urfave/cli appends to ask for completions.
const completionFlag = "--generate-bash-completion"

// reorder puts the flags of a command line before its arguments, for urfave/cli
// v2 takes no flag behind the first argument. It knows from the commands which
// flags have a value of their own, so that a value is never taken for an
// argument. What follows "--" stays an argument, whatever it looks like.
//
//	cp a b --store qcow2   becomes   cp --store qcow2 -- a b
func reorder(app *cli.App, argv []string) []string {
	if len(argv) < 2 || argv[len(argv)-1] == completionFlag {
		return argv
	}
	out := []string{argv[0]}
	rest := argv[1:]
	flags, commands := app.Flags, app.Commands
	for {
		// The flags of this level, then the name of a command of the next.
		n, cut := leading(flags, rest)
		out, rest = append(out, rest[:n]...), rest[n:]
		if len(rest) == 0 || cut {
			return out
		}
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(rest[0]) })
		if i < 0 {
			break
		}
		out, rest = append(out, rest[0]), rest[1:]
		flags, commands = commands[i].Flags, commands[i].Subcommands
	}
	if len(commands) > 0 {
		return append(out, rest...) // an unknown command: for cli to refuse
	}
	var args []string
	for len(rest) > 0 {
		if rest[0] == "--" {
			args = append(args, rest[1:]...)
			break
		}
		n, cut := leading(flags, rest)
		out, rest = append(out, rest[:n]...), rest[n:]
		if cut {
			return out // for cli to refuse: the arguments are no values
		}
		if n > 0 {
			continue
		}
		args, rest = append(args, rest[0]), rest[1:]
	}
	if len(args) > 0 && !slices.ContainsFunc(out, isHelp) {
		out = append(append(out, "--"), args...)
	}
	return out
}

// isHelp tells whether a word asks for help; cli would look for a topic named
// like the first argument.
func isHelp(word string) bool { return word == "--help" || word == "-help" || word == "-h" }

// leading counts the words at the beginning of argv that are flags and values
// of flags; cut tells that the last one lacks its value. "-" alone is an
// argument, and "--" ends the flags.
func leading(flags []cli.Flag, argv []string) (n int, cut bool) {
	for n < len(argv) && len(argv[n]) > 1 && argv[n][0] == '-' && argv[n] != "--" {
		name, _, joined := strings.Cut(strings.TrimLeft(argv[n], "-"), "=")
		n++
		if joined || !takesValue(flags, name) {
			continue
		}
		if n == len(argv) {
			return n, true
		}
		n++
	}
	return n, false
}

// takesValue tells whether the next word belongs to the flag. A flag that is
// not known takes none; cli will refuse it.
func takesValue(flags []cli.Flag, name string) bool {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			d, ok := f.(cli.DocGenerationFlag)
			return ok && d.TakesValue()
		}
	}
	return false
}
