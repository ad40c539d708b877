package main

import (
	"strconv"
	"strings"
)

// mountFlags are what flags, the configuration and -o say about a mount. A word
// of -o is the flag of the same name.
type mountFlags struct {
	Config, StateDir, LogFile         string
	Formats                           []string // empty is the configuration's, or all
	ReadOnly, AllowOther, AllowDelete bool
	Debug                             bool
	FUSE                              []string // what is left of -o, for the kernel
}

// ignored are words of an fstab line that are meant for others.
func ignored(word string) bool {
	switch word {
	case "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
		"rw", "dev", "nodev", "suid", "nosuid", "exec", "noexec", "atime", "noatime", "relatime", "async", "sync":
		return true
	}
	return strings.HasPrefix(word, "x-") || strings.HasPrefix(word, "comment=")
}

// apply takes the words of one -o. Nothing can lift nodev, nosuid and noexec:
// what is inside an image is foreign.
func (m *mountFlags) apply(options string) error {
	for _, word := range strings.Split(options, ",") {
		key, value, _ := strings.Cut(word, "=")
		on := map[string]*bool{
			"ro": &m.ReadOnly, "read_only": &m.ReadOnly,
			"allow_other": &m.AllowOther, "allow_delete": &m.AllowDelete, "debug": &m.Debug,
		}[key]
		text := map[string]*string{"config": &m.Config, "state_dir": &m.StateDir, "log_file": &m.LogFile}[key]
		switch {
		case word == "" || ignored(word):
		case on != nil:
			*on = true
			if value == "" {
				continue
			}
			var err error
			if *on, err = strconv.ParseBool(value); err != nil {
				return usage("", "mount option %q: want no value, true or false", word)
			}
		case text != nil && value != "":
			*text = value
		case key == "formats" && value != "":
			m.Formats = strings.Split(value, ":") // a comma ends the option
		case text != nil || key == "formats":
			return usage("", "mount option %q: it has no value", word)
		default:
			m.FUSE = append(m.FUSE, word)
		}
	}
	return nil
}
