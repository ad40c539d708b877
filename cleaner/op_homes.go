package cleaner

import (
	"path"
	"slices"
	"strings"
)

// startFiles of root stay, as the distribution has them: its shells read them.
var startFiles = []string{".bashrc", ".profile", ".cshrc", ".tcshrc", ".bash_profile", ".bash_logout", ".login", ".zshrc", ".kshrc"}

// templates are where distributions keep the start files of root: Debian's base-files,
// Fedora's rootfiles, and those of new users everywhere.
var templates = map[string][]string{
	".bashrc":  {"/usr/share/base-files/dot.bashrc"},
	".profile": {"/usr/share/base-files/dot.profile"},
}

// homes removes what is left of people: every folder in /home, and what is in that of
// root but its start files, which become those of the distribution.
func homes(g *Guest) error {
	var stay []string
	for _, a := range g.kept() {
		if n, ok, err := g.lookup(a.home, true); err != nil {
			return err
		} else if ok {
			stay = append(stay, n.path)
		}
	}
	keep := func(p string) bool {
		return slices.ContainsFunc(stay, func(home string) bool { return within(home, p) && home != "/" })
	}
	if err := g.empty(keep, "/home"); err != nil {
		return err
	}
	if g.protected("root") {
		return nil
	}
	if err := g.empty(func(p string) bool { return slices.Contains(startFiles, path.Base(p)) }, "/root"); err != nil {
		return err
	}
	for _, name := range startFiles {
		if err := startFile(g, name); err != nil {
			return err
		}
	}
	return nil
}

// startFile gives one of root's start files the text that the distribution has for
// it. Without one, lines that look like secrets lose them.
func startFile(g *Guest, name string) error {
	p := "/root/" + name
	n, ok, err := g.lookup(p, true)
	if err != nil || !ok {
		return err
	}
	if !n.regular() { // somebody's folder or device with the name of a start file
		return g.removePath(p)
	}
	for _, from := range slices.Concat(templates[name], []string{"/usr/share/rootfiles/" + name, "/etc/skel/" + name}) {
		text, ok, err := g.read(from)
		if err != nil {
			return err
		}
		if ok && !strings.Contains(string(text), atmosphereBegin) {
			_, err := g.edit(p, func([]byte) []byte { return text })
			return err
		}
	}
	_, err = g.edit(p, blankSecrets)
	return err
}
