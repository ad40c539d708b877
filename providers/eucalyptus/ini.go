package eucalyptus

import (
	"bufio"
	"bytes"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"chromogenic/disk"
)

// A profile is a file of euca2ools 3, or several as one: options by section.
// Sections are called "global", "user NAME" and "region NAME".
type profile map[string]map[string]string

// iniFiles are those that euca2ools reads, the weakest first.
func iniFiles() []string {
	var files []string
	for _, pattern := range []string{"/etc/euca2ools/euca2ools.ini", "/etc/euca2ools/conf.d/*.ini", filepath.Join(home(), ".euca", "*.ini")} {
		found, _ := filepath.Glob(pattern) // no pattern of ours is malformed
		slices.Sort(found)
		files = append(files, found...)
	}
	return files
}

// home is that of the user, as the shell has it; the process of a mount may have none.
func home() string {
	dir, err := os.UserHomeDir()
	if err != nil {
		return "/root"
	}
	return dir
}

// readProfile reads all files; a later one overrides.
func readProfile(files []string) (profile, error) {
	all := profile{}
	for _, file := range files {
		text, err := readConfig(file)
		if err != nil {
			return nil, err
		}
		if err := all.parse(file, text); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// parse adds the options of a file. It is that of Python's ConfigParser: "key = value" or
// "key: value", comments behind ; and # at the beginning of a line and behind " ;", and
// lines that begin with white space go on with the one before.
func (p profile) parse(file string, text []byte) error {
	if len(text) > maxConfig {
		return disk.Errorf(disk.Denied, "read credentials: %s has %d bytes, at most %d", file, len(text), maxConfig)
	}
	section, last := "", ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxConfig+1)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == ';' || trimmed[0] == '#':
			continue
		case line[0] == '[':
			name, _, ok := strings.Cut(line[1:], "]")
			if !ok {
				return disk.Errorf(disk.Denied, "read credentials: %s, line %d: the name of a section is not closed", file, n)
			}
			section, last = strings.Join(strings.Fields(name), " "), ""
			if p[section] == nil {
				p[section] = map[string]string{}
			}
			continue
		case section == "":
			return disk.Errorf(disk.Denied, "read credentials: %s, line %d: it is in no section", file, n)
		case (line[0] == ' ' || line[0] == '\t') && last != "":
			p[section][last] += "\n" + trimmed
			continue
		}
		at := strings.IndexAny(trimmed, "=:")
		if at < 1 {
			return disk.Errorf(disk.Denied, "read credentials: %s, line %d: it is no option", file, n)
		}
		last = strings.ToLower(strings.TrimSpace(trimmed[:at]))
		value, _, _ := strings.Cut(strings.TrimSpace(trimmed[at+1:]), " ;")
		p[section][last] = strings.TrimSpace(value)
	}
	return nil
}

// option is that of a section of a kind and a name, or of one whose name is a pattern of
// the shell.
func (p profile) option(kind, name, key string) string {
	if v, ok := p[kind+" "+name][key]; ok {
		return v
	}
	for _, section := range p.names(kind) {
		if ok, _ := path.Match(section, name); ok {
			if v, ok := p[kind+" "+section][key]; ok {
				return v
			}
		}
	}
	return ""
}

// names are those of the sections of a kind.
func (p profile) names(kind string) []string {
	var names []string
	for section := range p {
		if name, ok := strings.CutPrefix(section, kind+" "); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// expandHome is the path of a file that an option names.
func expandHome(file string) string {
	if rest, ok := strings.CutPrefix(file, "~/"); ok {
		return filepath.Join(home(), rest)
	}
	return file
}
