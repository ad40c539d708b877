package eucalyptus

import (
	"bufio"
	"bytes"
	"path/filepath"
	"strings"

	"chromogenic/disk"
)

// maxConfig is how many bytes a file of credentials may have: one of Eucalyptus has 2 kB.
const maxConfig = 256 << 10

// A variable is what a eucarc says of one. Why is set where its value cannot be known
// without executing the file.
type variable struct {
	text, why string
}

// parseEucarc reads the assignments of a eucarc, which lies at path. It executes
// nothing: it knows quotes, ${NAME}, and the ways in which these files find the folder
// that they lie in. What it does not know is left out, with the reason.
func parseEucarc(path string, text []byte) (map[string]variable, error) {
	if len(text) > maxConfig {
		return nil, disk.Errorf(disk.Denied, "read credentials: %s has %d bytes, at most %d", path, len(text), maxConfig)
	}
	rc := eucarc{path: path, vars: map[string]variable{}}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxConfig+1)
	for n := 1; lines.Scan(); n++ {
		if err := rc.line(lines.Text()); err != nil {
			return nil, disk.Errorf(disk.Denied, "read credentials: %s, line %d: %w", path, n, err)
		}
	}
	return rc.vars, nil
}

type eucarc struct {
	path string
	vars map[string]variable
}

// line takes the assignments of a line; aliases, echoes and conditions are passed over.
func (rc *eucarc) line(s string) error {
	for {
		s = strings.TrimLeft(s, " \t;&")
		if rest, ok := strings.CutPrefix(s, "export"); ok && strings.HasPrefix(strings.ReplaceAll(rest, "\t", " "), " ") {
			s = strings.TrimLeft(rest, " \t")
		}
		name := identifier(s)
		if name == "" || !strings.HasPrefix(s[len(name):], "=") {
			return nil
		}
		w := word{rc: rc, s: s[len(name)+1:]}
		if err := w.read(); err != nil {
			return err
		}
		rc.vars[name] = variable{w.out.String(), w.why}
		s = strings.TrimLeft(w.s, " \t")
		if strings.HasPrefix(s, "||") { // what is done where it failed
			return nil
		}
	}
}

// identifier is the name that s begins with.
func identifier(s string) string {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return s[:i]
		}
	}
	return s
}

// A word is a value as it is read: s is what is left.
type word struct {
	rc  *eucarc
	s   string
	out strings.Builder
	why string
}

// read reads up to the end of the word.
func (w *word) read() error {
	for w.s != "" {
		switch c := w.s[0]; c {
		case ' ', '\t', ';', '&', '|':
			return nil
		case '\'':
			text, rest, ok := strings.Cut(w.s[1:], "'")
			if !ok {
				return disk.Errorf(disk.Denied, "a quote is not closed")
			}
			w.out.WriteString(text)
			w.s = rest
		case '"':
			if err := w.quoted(); err != nil {
				return err
			}
		default:
			if err := w.char(); err != nil {
				return err
			}
		}
	}
	return nil
}

// quoted reads between double quotes.
func (w *word) quoted() error {
	w.s = w.s[1:]
	for w.s != "" {
		if w.s[0] == '"' {
			w.s = w.s[1:]
			return nil
		}
		if err := w.char(); err != nil {
			return err
		}
	}
	return disk.Errorf(disk.Denied, "a quote is not closed")
}

// char reads a character that is not quoted, or what stands for more.
func (w *word) char() error {
	switch c := w.s[0]; c {
	case '\\':
		if len(w.s) > 1 {
			w.out.WriteByte(w.s[1])
		}
		w.s = w.s[min(2, len(w.s)):]
	case '`':
		_, rest, ok := strings.Cut(w.s[1:], "`")
		if !ok {
			return disk.Errorf(disk.Denied, "a command is not closed")
		}
		w.s = rest
		w.why = "a command gives it, and none is executed"
	case '$':
		return w.expand()
	default:
		w.out.WriteByte(c)
		w.s = w.s[1:]
	}
	return nil
}

// expand puts what a dollar stands for.
func (w *word) expand() error {
	rest := w.s[1:]
	switch {
	case strings.HasPrefix(rest, "("):
		inside, after, ok := balanced(rest, '(', ')')
		if !ok {
			return disk.Errorf(disk.Denied, "a command is not closed")
		}
		w.s = after
		w.command(inside)
	case strings.HasPrefix(rest, "{"):
		inside, after, ok := balanced(rest, '{', '}')
		if !ok {
			return disk.Errorf(disk.Denied, "a brace is not closed")
		}
		w.s = after
		name := identifier(inside)
		switch op := inside[len(name):]; op {
		case "":
			w.put(name, func(s string) string { return s })
		case "%/*":
			w.put(name, filepath.Dir)
		default:
			w.why = "it says ${" + inside + "}, which is not understood"
		}
	default:
		name := identifier(rest)
		if name == "" {
			w.out.WriteByte('$')
			w.s = rest
			return nil
		}
		w.s = rest[len(name):]
		w.put(name, func(s string) string { return s })
	}
	return nil
}

// command stands for the output of a command: these files ask where they are.
func (w *word) command(s string) {
	switch {
	case strings.Contains(s, "dirname"):
		w.out.WriteString(filepath.Dir(w.rc.path))
	case strings.Contains(s, "readlink"), strings.Contains(s, "realpath"):
		w.out.WriteString(w.rc.path)
	default:
		w.why = "a command gives it, and none is executed"
	}
}

// put puts the value of a variable. One that is not set in the file is empty, as it may
// be in a shell: nothing of the environment has a part in a file.
func (w *word) put(name string, change func(string) string) {
	v := w.rc.vars[name]
	if v.why != "" {
		w.why = v.why
	}
	if v.text != "" {
		w.out.WriteString(change(v.text))
	}
	if w.out.Len() > maxConfig {
		w.why = "it is too long"
		w.out.Reset()
	}
}

// balanced is what stands between a bracket, with which s begins, and the one that
// closes it.
func balanced(s string, opens, closes byte) (inside, after string, ok bool) {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case opens:
			depth++
		case closes:
			if depth--; depth == 0 {
				return s[1:i], s[i+1:], true
			}
		}
	}
	return "", "", false
}
