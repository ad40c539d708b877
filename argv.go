package main

import (
	"path/filepath"
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
//	--config FILE ls       becomes   ls --config FILE
func reorder(app *cli.App, argv []string) []string {
	if len(argv) < 2 || argv[len(argv)-1] == completionFlag {
		return argv
	}
	out := []string{argv[0]}
	early, rest := beforeCommand(app, argv[1:])
	flags, commands := app.Flags, app.Commands
	for {
		// The flags of this level, then the name of a command of the next.
		n, cut := leading(flags, rest)
		out, rest = append(out, rest[:n]...), rest[n:]
		switch {
		case cut:
			return out // for cli to refuse: a value is missing
		case len(rest) == 0:
			return append(out, early...)
		}
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(rest[0]) })
		if i < 0 {
			break
		}
		out, rest = append(out, rest[0]), rest[1:]
		flags, commands = commands[i].Flags, commands[i].Subcommands
	}
	rest = slices.Concat(early, rest)
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

// beforeCommand cuts off the flags before the name of a command that are the
// command's own: --config FILE ls.
func beforeCommand(app *cli.App, argv []string) (early, rest []string) {
	n, cut := leading(commonFlags(), argv)
	if cut || n == len(argv) || !slices.ContainsFunc(app.Commands, func(c *cli.Command) bool { return c.HasName(argv[n]) }) {
		return nil, argv // for cli to refuse
	}
	return argv[:n], argv[n:]
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

// asMount turns the command line of a helper of mount(8), and of mount.fuse, into
// that of chromogenic mount; all others stay as they are:
//
//	mount.chromogenic SRC DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]
//	chromogenic SRC DIR -o OPTIONS
//
// helper tells whether it was one.
func asMount(app *cli.App, argv []string) (out []string, helper bool, err error) {
	helper = strings.HasPrefix(filepath.Base(argv[0]), "mount.")
	out = []string{argv[0], "mount", "--daemon"}
	var args []string
	options := false
	for rest := argv[1:]; len(rest) > 0; rest = rest[1:] {
		word := rest[0]
		if len(word) < 2 || word[0] != '-' {
			args = append(args, word)
			continue
		}
		for letters := word[1:]; letters != ""; letters = letters[1:] {
			switch letter := letters[0]; letter {
			case 's':
				out = append(out, "--sloppy")
			case 'f':
				out = append(out, "--fake")
			case 'n', 'v': // there is no table to write, and nothing to tell
			case 'o', 't', 'N': // each with a value: the rest of the word, or the next
				value := letters[1:]
				if value == "" {
					if rest = rest[1:]; len(rest) == 0 {
						return notMount(argv, helper)
					}
					value = rest[0]
				}
				switch letter {
				case 'o':
					options = true
					out = append(out, "-o", value)
				case 'N':
					out = append(out, "--namespace", value)
				}
				letters = letters[:1]
			default:
				return notMount(argv, helper)
			}
		}
	}
	if len(args) != 2 || !helper && (!options || isCommand(app, args[0])) {
		return notMount(argv, helper)
	}
	return append(append(out, "--"), args...), true, nil
}

// notMount is what asMount makes of all else.
func notMount(argv []string, helper bool) ([]string, bool, error) {
	if !helper {
		return argv, false, nil
	}
	name := filepath.Base(argv[0])
	return nil, true, usage(name+" SRC DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]", "%s: want a source and a directory", name)
}

// isCommand tells whether a command line begins with the name of a command.
// "config" does not, where a command cannot be meant: it is a source.
func isCommand(app *cli.App, name string) bool {
	return name != "config" && slices.ContainsFunc(app.Commands, func(c *cli.Command) bool { return c.HasName(name) })
}
