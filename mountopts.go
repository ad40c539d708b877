package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"chromogenic/pipeline"
)

// A mountOption is one setting of a mount. Its name is that of the flag,
// --read-only; the word of -o and the key of the configuration are read_only, and
// the variable is CHROMOGENIC_READ_ONLY. The later wins: configuration,
// environment, flag, -o.
type mountOption struct {
	name  string
	usage string
	value any // where it goes: *bool, *string (a path), *int64 (a size), **uint32 (an id), **permissions, *[]string (formats), or a limit
}

// permissions are those of files, as chmod(1) takes them, in octal.
type permissions uint32

// noID is the number that is no user's and no group's: chown(2).
const noID = 1<<32 - 1

// options is the one table of the settings of a mount.
func (c *config) options() []mountOption {
	return []mountOption{
		{"read-only", "take no images", &c.ReadOnly},
		{"allow-other", "let other users in, with your rights", &c.AllowOther},
		{"allow-delete", "let rm delete images", &c.AllowDelete},
		{"allow-replace", "let a copy take the place of another image of its name", &c.AllowReplace},
		{"allow-meta", "let setfattr set properties of images", &c.AllowMeta},
		{"formats", "list these `FORMATS` (the others resolve by name)", &c.Formats},
		{"uid", "show all files as those of the user with this `NUMBER`", &c.UID},
		{"gid", "show all files as those of the group with this `NUMBER`", &c.GID},
		{"umask", "take these `PERMISSIONS` (octal) from all files and directories", &c.Umask},
		{"state-dir", "keep what is learned of images in `DIR`", &c.StateDir},
		{"spool-limit", "take at most `SIZE` for images that programs write", &c.SpoolLimit},
		{"cache-size", "keep up to `SIZE` of remote images in memory", &c.CacheSize},
		{"bwlimit", "send and read at most `RATE` bytes a second: 10M, or 10M:1M for sending and reading", &c.BWLimit},
		{"read-budget", "read at most `SIZE/PERIOD` from providers: 100G/day, /hour or /month", &c.ReadBudget},
		{"log-file", "append the log to `FILE`", &c.LogFile},
		{"debug", "log every step", &c.Debug},
	}
}

// key is the name in -o and in the configuration.
func (o mountOption) key() string { return strings.ReplaceAll(o.name, "-", "_") }

// flag is the option on the command line and in the environment.
func (o mountOption) flag() cli.Flag {
	env := []string{"CHROMOGENIC_" + strings.ToUpper(o.key())}
	switch o.value.(type) {
	case *bool:
		return &cli.BoolFlag{Name: o.name, Usage: o.usage, EnvVars: env}
	case *[]string:
		return &cli.StringSliceFlag{Name: o.name, Usage: o.usage, EnvVars: env}
	}
	return &cli.StringFlag{Name: o.name, Usage: o.usage, EnvVars: env}
}

// field is the option as a key of the configuration.
func (o mountOption) field(c *config) field {
	switch v := o.value.(type) {
	case *string:
		return pathField(c, v)
	case *[]string:
		return formatsField(v)
	}
	return scalarField(o.set)
}

// set takes the value from a text. A list has commas between its items, or
// colons, for a comma ends a word of -o.
func (o mountOption) set(text string) (err error) {
	switch v := o.value.(type) {
	case *bool:
		if *v, err = strconv.ParseBool(text); err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
	case *string:
		if text == "" {
			return errors.New("it has no value")
		}
		*v, err = filepath.Abs(text)
	case *int64:
		*v, err = parseSize(text)
	case *pipeline.Rate:
		*v, err = parseRate(text)
	case *pipeline.Budget:
		*v, err = parseBudget(text)
	case **uint32:
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n == noID {
			return fmt.Errorf("%q is not a number of a user or group", text)
		}
		*v = new(uint32(n))
	case **permissions:
		n, err := strconv.ParseUint(text, 8, 32)
		if err != nil || n > 0o777 {
			return fmt.Errorf("%q is no permissions in octal, such as 022", text)
		}
		*v = new(permissions(n))
	case *[]string:
		names := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ':' })
		if err := checkFormats(names); err != nil {
			return err
		}
		*v = names
	}
	return err
}

// mountFlags are the flags of the table, but for those that have already.
func mountFlags(have []cli.Flag) []cli.Flag {
	flags := slices.Clone(have)
	for _, o := range new(config).options() {
		if !slices.ContainsFunc(have, func(f cli.Flag) bool { return slices.Contains(f.Names(), o.name) }) {
			flags = append(flags, o.flag())
		}
	}
	return flags
}

// take lets environment, flags and -o have their say. It gives the words of -o
// that are not ours, for the kernel.
func (c *config) take(ctx *cli.Context) (rest []string, err error) {
	for _, o := range c.options() {
		text := fmt.Sprint(ctx.Value(o.name))
		if _, ok := o.value.(*[]string); ok {
			text = strings.Join(ctx.StringSlice(o.name), ",")
		}
		if !ctx.IsSet(o.name) || text == "" { // an empty variable says nothing
			continue
		}
		if err := o.set(text); err != nil {
			return nil, usage("", "--%s: %v", o.name, err)
		}
	}
	return c.apply(optionWords(ctx))
}

// optionWords are the words of all -o.
func optionWords(ctx *cli.Context) []string {
	return strings.Split(strings.Join(ctx.StringSlice("o"), ","), ",")
}

// configOption is the configuration file that a flag or -o names.
func configOption(ctx *cli.Context) string {
	path := ctx.String("config")
	for _, word := range optionWords(ctx) {
		if value, ok := strings.CutPrefix(word, "config="); ok {
			path = value
		}
	}
	return path
}

// apply takes the words of -o and gives those that are not ours. Nothing can lift
// nodev, nosuid and noexec: what is inside an image is foreign.
func (c *config) apply(words []string) (rest []string, err error) {
	all := c.options()
	for _, word := range words {
		key, value, valued := strings.Cut(word, "=")
		if key == "ro" {
			key = "read_only"
		}
		i := slices.IndexFunc(all, func(o mountOption) bool { return o.key() == key })
		switch {
		case i >= 0:
			if _, isBool := all[i].value.(*bool); isBool && !valued {
				value = "true"
			}
			if err := all[i].set(value); err != nil {
				return nil, usage("", "mount option %q: %v", word, err)
			}
		case key != "config" && !ignored(key):
			rest = append(rest, word)
		}
	}
	return rest, nil
}

// ignored are words of an fstab line that are meant for others, or that say what
// is so anyway.
func ignored(key string) bool {
	switch key {
	case "", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
		"rw", "dev", "nodev", "suid", "nosuid", "exec", "noexec", "async", "sync", "dirsync", "silent", "loud",
		"atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
		"lazytime", "nolazytime", "iversion", "noiversion", "mand", "nomand",
		"comment", "fsname", "source", "subtype":
		return true
	}
	return strings.HasPrefix(strings.ToLower(key), "x-")
}
