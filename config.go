package main

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"go.yaml.in/yaml/v3"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/fs"
	"chromogenic/pipeline"
)

// config is what a configuration file says. The zero value is an empty file.
type config struct {
	Path       string // of the file; empty without one
	Mountpoint string
	Formats    []string // listed by default
	StateDir   string
	SpoolLimit int64 // bytes; 0 is no limit of our own
	CacheSize  int64 // bytes; 0 is the default
	BWLimit    pipeline.Rate
	ReadBudget pipeline.Budget
	LogFile    string
	UID, GID   *uint32      // of all files; nil is those of the process that mounts
	Umask      *permissions // that no file has; nil is the default
	Cleaning   pipeline.Cleaning

	ReadOnly, AllowOther, AllowDelete, AllowReplace, AllowMeta, Debug bool

	Providers []providerConfig
	made      []pipeline.Site // of the providers, once they are needed
}

// providerConfig is one provider; they stay in the order of the file.
type providerConfig struct {
	Name      string
	Type      string
	Images    string // an absolute path
	Instances string // an absolute path, or empty
	Store     string
	Clean     string
	Snapshot  string

	BWLimit    *pipeline.Rate   // nil has none of its own; zero takes the provider out of that of all
	ReadBudget *pipeline.Budget // likewise

	// Of a cloud.
	Cloud      string            // of clouds.yaml; empty for that of the environment
	Region     string            // empty for the cloud's own
	Spool      bool              // fetch images as a whole where parts cannot be had
	Import     bool              // upload by way of the import API
	Properties map[string]string // of every upload
	Found      bool              // the configuration does not name it

	Eucalyptus eucalyptusConfig
}

// providerName is what may name a provider, for it names a directory too.
var providerName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

// findConfig is the path of the configuration file: the one that is asked for,
// or the first that exists of the usual places; empty when there is none.
func findConfig(asked string) (string, error) {
	if asked == "" {
		asked = os.Getenv("CHROMOGENIC_CONFIG")
	}
	if asked != "" {
		return asked, nil
	}
	var places []string
	if dir, err := os.UserConfigDir(); err == nil {
		places = append(places, filepath.Join(dir, "chromogenic", "config.yaml"))
	}
	for _, path := range append(places, "/etc/chromogenic/config.yaml") {
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, iofs.ErrNotExist) {
			return "", fmt.Errorf("find configuration: %w", err)
		}
	}
	return "", nil
}

// loadConfig reads and checks a configuration file. Every complaint names the
// file and the line.
func loadConfig(path string) (*config, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	c := &config{Path: path}
	if err := c.decode(f); err != nil {
		return nil, &disk.Error{Kind: disk.Invalid, Err: fmt.Errorf("%s:%w", path, err)}
	}
	return c, nil
}

// decode reads the one document of r. Its errors begin with the line's number.
func (c *config) decode(r io.Reader) error {
	dec := yaml.NewDecoder(r)
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return yamlError(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		if err != nil {
			return yamlError(err)
		}
		return fmt.Errorf("1: want one YAML document, got several")
	}
	root := doc.Content[0]
	if root.Tag == "!!null" {
		return nil
	}
	fields := map[string]field{"mountpoint": pathField(c, &c.Mountpoint), "providers": c.providers, "cleaning": c.cleaning}
	for _, o := range c.options() {
		fields[o.key()] = o.field(c)
	}
	return eachKey(root, "", fields)
}

// yamlError gives the errors of the YAML library ("yaml: line 3: …") the form
// of ours ("3: …").
func yamlError(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		return errors.New(rest)
	}
	return errors.New("1: " + text)
}

// A field takes the value of one key.
type field func(*yaml.Node) error

// fault is an error of the line where n stands.
func fault(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%d: %w", n.Line, fmt.Errorf(format, args...))
}

// eachKey gives the value of each key of a mapping to its field. A key that is
// not known or comes twice is an error; in says where we are, for the message.
func eachKey(n *yaml.Node, in string, fields map[string]field) error {
	seen := map[string]bool{}
	return eachPair(n, in, func(key, value *yaml.Node) error {
		f, ok := fields[key.Value]
		switch {
		case !ok:
			return fault(key, "unknown key %q%s", key.Value, in)
		case seen[key.Value]:
			return fault(key, "key %q%s comes twice", key.Value, in)
		}
		seen[key.Value] = true
		return f(value)
	})
}

func eachPair(n *yaml.Node, in string, visit func(key, value *yaml.Node) error) error {
	if n = resolve(n); n.Kind != yaml.MappingNode {
		return fault(n, "want keys and values%s", in)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if err := visit(n.Content[i], resolve(n.Content[i+1])); err != nil {
			return err
		}
	}
	return nil
}

// resolve follows an alias to its anchor.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func text(n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", fault(n, "want a text")
	}
	return n.Value, nil
}

// choiceField takes one of a few words.
func choiceField(dst *string, choices ...string) field {
	return func(n *yaml.Node) error {
		s, err := text(n)
		if err != nil {
			return err
		}
		if !slices.Contains(choices, s) {
			return fault(n, "%q is not one of %s", s, strings.Join(choices, ", "))
		}
		*dst = s
		return nil
	}
}

// pathField takes a path; "~/" is the home directory, and a relative path is
// relative to the configuration file.
func pathField(c *config, dst *string) field {
	return func(n *yaml.Node) error {
		s, err := text(n)
		if err != nil {
			return err
		}
		if s == "" {
			return fault(n, "path is empty")
		}
		if s == "~" || strings.HasPrefix(s, "~/") {
			home, err := os.UserHomeDir()
			if err != nil {
				return fault(n, "expand %q: %w", s, err)
			}
			s = filepath.Join(home, s[1:])
		}
		if !filepath.IsAbs(s) {
			s = filepath.Join(filepath.Dir(c.Path), s)
		}
		*dst = filepath.Clean(s)
		return nil
	}
}

// scalarField takes a text and gives it to set.
func scalarField(set func(string) error) field {
	return func(n *yaml.Node) error {
		s, err := text(n)
		if err != nil {
			return err
		}
		if err := set(s); err != nil {
			return fault(n, "%w", err)
		}
		return nil
	}
}

// parseSize takes a size in bytes; K, M and G are powers of 1024, with or without
// an i, as the user of an image tool expects.
func parseSize(s string) (int64, error) {
	unit := strings.ToLower(strings.TrimSpace(s))
	iec := strings.TrimSuffix(strings.TrimSuffix(unit, "b"), "i")
	if iec != "" && strings.ContainsAny(iec[len(iec)-1:], "kmgtpe") {
		iec += "ib"
	}
	v, err := humanize.ParseBytes(iec)
	if err != nil || v > 1<<62 {
		return 0, fmt.Errorf("%q is not a size such as 512M or 20G", s)
	}
	return int64(v), nil
}

// formatsField takes the list of formats that a directory shows.
func formatsField(dst *[]string) field {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.SequenceNode {
			return fault(n, "want a list of formats")
		}
		var names []string
		for _, item := range n.Content {
			s, err := text(resolve(item))
			if err != nil {
				return err
			}
			names = append(names, s)
		}
		if err := checkFormats(names); err != nil {
			return fault(n, "%w", err)
		}
		*dst = names
		return nil
	}
}

// checkFormats tells whether each name is a format that can be served, once.
func checkFormats(names []string) error {
	if len(names) == 0 {
		return disk.Errorf(disk.Invalid, "list of formats is empty")
	}
	for i, name := range names {
		if f, ok := formats.ByName(name); (!ok || f.Layout == nil) && name != fs.JSONName {
			return disk.Errorf(disk.Invalid, "%q is not one of %s", name, strings.Join(append(written(), fs.JSONName), ", "))
		}
		if slices.Contains(names[:i], name) {
			return disk.Errorf(disk.Invalid, "format %q comes twice", name)
		}
	}
	return nil
}

// written are the formats that can be written.
func written() []string {
	var names []string
	for _, f := range formats.Table() {
		if f.Layout != nil {
			names = append(names, f.Name)
		}
	}
	return names
}
