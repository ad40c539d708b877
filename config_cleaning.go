package main

import (
	"os"
	"strconv"

	"go.yaml.in/yaml/v3"

	"chromogenic/cleaner"
	"chromogenic/disk"
)

// accesses are the ways to get at a guest's filesystems.
func accesses() []string { return []string{"auto", "uml", "fuse2fs", "loop"} }

// cleaning takes the mapping that says how guests are cleaned.
func (c *config) cleaning(n *yaml.Node) error {
	o := &c.Cleaning.Options
	var recipe string
	err := eachKey(n, " in cleaning", map[string]field{
		"access":         choiceField(&c.Cleaning.Guest.Access, accesses()...),
		"trusted-images": scalarField(func(s string) (err error) { c.Cleaning.Guest.Trusted, err = strconv.ParseBool(s); return err }),
		"skip":           listField(&o.Skip),
		"with":           listField(&o.With),
		"keep-users":     listField(&o.KeepUsers),
		"ssh-keys":       listField(&o.SSHKeys),
		"hostname":       scalarField(func(s string) error { o.Hostname = s; return nil }),
		"root-password":  scalarField(func(s string) error { o.RootPassword = s; return nil }),
		"recipe":         pathField(c, &recipe),
	})
	if err != nil {
		return err
	}
	if recipe != "" {
		if o.Recipe, err = readRecipe(recipe); err != nil {
			return fault(n, "%w", err)
		}
	}
	if err := o.Validate(); err != nil {
		return fault(n, "%w", err)
	}
	return nil
}

// listField takes a list of texts.
func listField(dst *[]string) field {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.SequenceNode {
			return fault(n, "want a list")
		}
		*dst = nil
		for _, item := range n.Content {
			s, err := text(resolve(item))
			if err != nil {
				return err
			}
			*dst = append(*dst, s)
		}
		return nil
	}
}

// recipeMost is the most, in bytes, that a recipe may have.
const recipeMost = 1 << 20

// readRecipe reads the recipe of a site.
func readRecipe(path string) (cleaner.Recipe, error) {
	info, err := os.Stat(path)
	if err != nil {
		return cleaner.Recipe{}, disk.Errorf(disk.Invalid, "read recipe: %w", err)
	}
	if info.Size() > recipeMost || !info.Mode().IsRegular() {
		return cleaner.Recipe{}, disk.Errorf(disk.Invalid, "read recipe %q: it is no file of at most %d bytes", path, recipeMost)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return cleaner.Recipe{}, disk.Errorf(disk.Invalid, "read recipe: %w", err)
	}
	r, err := cleaner.ParseRecipe(text)
	if err != nil {
		return r, disk.Errorf(disk.Invalid, "read recipe %q: %w", path, err)
	}
	return r, nil
}
