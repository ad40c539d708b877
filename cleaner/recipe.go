package cleaner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"chromogenic/disk"
)

// A Recipe is what a site does to its images besides the table: steps in the manner of
// virt-customize(1), done in order. No program of the guest is run but by firstboot,
// and then by the guest itself.
type Recipe struct {
	Steps []Step `json:"steps,omitempty" yaml:"steps"`
}

// A Step is one action: exactly one field is set. Paths are absolute in the guest.
// Those of delete, truncate, chmod and chown may be patterns, as path.Match has them. What
// is not there is no error for delete, truncate, replace and delete-block; for the
// others it is.
type Step struct {
	Delete            string        `json:"delete,omitempty" yaml:"delete"`
	Truncate          string        `json:"truncate,omitempty" yaml:"truncate"`                     // files, in place
	TruncateRecursive string        `json:"truncate_recursive,omitempty" yaml:"truncate-recursive"` // all files below a folder
	Touch             string        `json:"touch,omitempty" yaml:"touch"`                           // an empty file, if there is none
	Write             *WriteStep    `json:"write,omitempty" yaml:"write"`
	AppendLine        *LineStep     `json:"append_line,omitempty" yaml:"append-line"` // unless it is there
	Replace           *ReplaceStep  `json:"replace,omitempty" yaml:"replace"`
	DeleteBlock       *BlockStep    `json:"delete_block,omitempty" yaml:"delete-block"`
	Mkdir             *FolderStep   `json:"mkdir,omitempty" yaml:"mkdir"` // with those above it
	Chmod             *ModeStep     `json:"chmod,omitempty" yaml:"chmod"`
	Chown             *OwnerStep    `json:"chown,omitempty" yaml:"chown"`
	Link              *LinkStep     `json:"link,omitempty" yaml:"link"`
	Move              *MoveStep     `json:"move,omitempty" yaml:"move"`
	Password          *PasswordStep `json:"password,omitempty" yaml:"password"`
	SSHInject         *KeyStep      `json:"ssh_inject,omitempty" yaml:"ssh-inject"`
	Hostname          string        `json:"hostname,omitempty" yaml:"hostname"`
	Timezone          string        `json:"timezone,omitempty" yaml:"timezone"` // "Europe/Berlin"
	Firstboot         *BootStep     `json:"firstboot,omitempty" yaml:"firstboot"`
}

// The arguments of steps that need more than a path. Modes are octal, as in chmod(1);
// owners are numbers or names of the guest.
type (
	WriteStep struct {
		Path    string `json:"path" yaml:"path"`
		Content string `json:"content" yaml:"content"`
		Mode    string `json:"mode,omitempty" yaml:"mode"` // of a new file; "0644"
		Owner   string `json:"owner,omitempty" yaml:"owner"`
		Group   string `json:"group,omitempty" yaml:"group"`
	}
	LineStep struct {
		Path string `json:"path" yaml:"path"`
		Line string `json:"line" yaml:"line"`
	}
	ReplaceStep struct {
		Path  string `json:"path" yaml:"path"`
		Match string `json:"match" yaml:"match"` // regular expression of RE2; ^ and $ are ends of lines
		With  string `json:"with" yaml:"with"`   // $1 is a group of it
	}
	BlockStep struct {
		Path  string `json:"path" yaml:"path"`
		Begin string `json:"begin" yaml:"begin"` // what the first line contains
		End   string `json:"end" yaml:"end"`     // and the last
	}
	FolderStep struct {
		Path  string `json:"path" yaml:"path"`
		Mode  string `json:"mode,omitempty" yaml:"mode"` // "0755"
		Owner string `json:"owner,omitempty" yaml:"owner"`
		Group string `json:"group,omitempty" yaml:"group"`
	}
	ModeStep struct {
		Path string `json:"path" yaml:"path"`
		Mode string `json:"mode" yaml:"mode"`
	}
	OwnerStep struct {
		Path  string `json:"path" yaml:"path"`
		Owner string `json:"owner,omitempty" yaml:"owner"`
		Group string `json:"group,omitempty" yaml:"group"`
	}
	LinkStep struct {
		Path string `json:"path" yaml:"path"`
		To   string `json:"to" yaml:"to"`
	}
	MoveStep struct {
		From string `json:"from" yaml:"from"`
		To   string `json:"to" yaml:"to"`
	}
	PasswordStep struct {
		User string `json:"user" yaml:"user"`
		Hash string `json:"hash,omitempty" yaml:"hash"` // as crypt(5) has it; empty locks
	}
	KeyStep struct {
		User string `json:"user,omitempty" yaml:"user"`
		Key  string `json:"key" yaml:"key"`
	}
	BootStep struct {
		Name   string `json:"name" yaml:"name"` // small letters, digits and hyphens
		Script string `json:"script" yaml:"script"`
	}
)

const (
	maxRecipe = 1 << 20 // bytes of a recipe
	maxSteps  = 1000
)

// ParseRecipe reads a recipe in YAML. What it does not know is an error.
func ParseRecipe(text []byte) (r Recipe, err error) {
	if len(text) > maxRecipe {
		return r, disk.Errorf(disk.TooLarge, "parse recipe: %d bytes are more than %d", len(text), maxRecipe)
	}
	// Aliases can make much of little; a recipe has no use for them.
	var tree yaml.Node
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return r, disk.Errorf(disk.Invalid, "parse recipe: %w", err)
	}
	if line := aliased(&tree); line > 0 {
		return r, disk.Errorf(disk.Invalid, "parse recipe: line %d: aliases are not taken", line)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&r); err != nil && !errors.Is(err, io.EOF) {
		return Recipe{}, disk.Hint(disk.Errorf(disk.Invalid, "parse recipe: %w", err), "docs/cleaning.md has the steps and what they take")
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Recipe{}, disk.Errorf(disk.Invalid, "parse recipe: there is something behind its end")
	}
	return r, r.Validate()
}

func aliased(n *yaml.Node) int {
	if n.Kind == yaml.AliasNode {
		return max(n.Line, 1)
	}
	for _, c := range n.Content {
		if line := aliased(c); line > 0 {
			return line
		}
	}
	return 0
}

// Validate tells which step makes no sense.
func (r Recipe) Validate() error {
	if len(r.Steps) > maxSteps {
		return disk.Errorf(disk.TooLarge, "check recipe: %d steps are more than %d", len(r.Steps), maxSteps)
	}
	for i, s := range r.Steps {
		action, err := s.action()
		if err == nil {
			err = action.check()
		}
		if err != nil {
			return disk.Hint(disk.Errorf(disk.Invalid, "check recipe: step %d: %w", i+1, err), "docs/cleaning.md has the steps and what they take")
		}
	}
	return nil
}

// An action is a step as the one thing that it is.
type action struct {
	name  string
	paths []string // all have to be absolute
	mode  string   // octal, or empty
	check func() error
	run   func(*Guest) error
}

var (
	bootName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	zoneName = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$`)
)

// action is the one that is set.
func (s Step) action() (action, error) {
	var set []action
	add := func(there bool, a func() action) {
		if there {
			set = append(set, a())
		}
	}
	s.addPlain(add)
	s.addStructured(add)
	if len(set) != 1 {
		return action{}, fmt.Errorf("%d actions are in it, and it takes one", len(set))
	}
	a := set[0]
	own := a.check
	a.check = func() error {
		for _, p := range a.paths {
			if !path.IsAbs(p) || strings.ContainsRune(p, 0) || path.Clean(p) == "/" {
				return fmt.Errorf("%s: %q is no absolute path of the guest", a.name, p)
			}
			if _, err := path.Match(p, ""); err != nil {
				return fmt.Errorf("%s: %q: %w", a.name, p, err)
			}
		}
		if _, err := parseMode(a.mode, 0); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		if own == nil {
			return nil
		}
		if err := own(); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		return nil
	}
	return a, nil
}

// parseMode reads an octal mode; empty is the one to take instead.
func parseMode(s string, instead uint32) (uint32, error) {
	if s == "" {
		return instead, nil
	}
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode > 0o7777 {
		return 0, fmt.Errorf("%q is no mode: four octal digits", s)
	}
	return uint32(mode), nil
}
