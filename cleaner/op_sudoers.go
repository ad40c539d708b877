package cleaner

import (
	"bytes"
	"strings"
)

// sudoers removes the rules of accounts that are gone, sudoers(5): a new account of
// the same name would have their rights. A file that has nothing else goes.
func sudoers(g *Guest) error {
	paths, err := g.glob("/etc/sudoers.d/*")
	if err != nil {
		return err
	}
	for _, p := range append(paths, "/etc/sudoers", "/usr/local/etc/sudoers", "/etc/doas.conf") {
		text, ok, err := g.read(p)
		if err != nil {
			return err
		}
		if ok && strings.HasPrefix(p, "/etc/sudoers.d/") && !hasSettings(g.dropRules(text)) && hasSettings(text) {
			err = g.removePath(p)
		} else {
			_, err = g.edit(p, g.dropRules)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hasSettings tells whether a text has more than comments.
func hasSettings(text []byte) bool {
	for line := range bytes.Lines(text) {
		if isSetting(line) {
			return true
		}
	}
	return false
}

// dropRules drops rules with the lines that continue them.
func (g *Guest) dropRules(text []byte) []byte {
	drop, more := false, false
	return eachLine(text, func(line []byte) []byte {
		if !more {
			drop = g.ruleOfRemoved(string(line))
		}
		more = bytes.HasSuffix(bytes.TrimRight(line, "\r\n"), []byte(`\`))
		if drop {
			return nil
		}
		return line
	})
}

func (g *Guest) ruleOfRemoved(line string) bool {
	f := strings.Fields(line)
	if len(f) < 2 {
		return false
	}
	if name, ok := strings.CutPrefix(f[0], "Defaults:"); ok {
		return g.removed[name]
	}
	if f[0] == "permit" || f[0] == "deny" { // doas.conf(5)
		for _, word := range f[1:] {
			if g.removed[word] {
				return true
			}
		}
		return false
	}
	return g.removed[strings.TrimPrefix(f[0], "%")] // the group of the name went with the user
}
