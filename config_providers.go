package main

import (
	"slices"

	"go.yaml.in/yaml/v3"

	"chromogenic/providers"
)

// providers takes the mapping of names to providers.
func (c *config) providers(n *yaml.Node) error {
	return eachPair(n, " in providers", func(key, value *yaml.Node) error {
		name := key.Value
		if !providerName.MatchString(name) {
			return fault(key, "provider name %q: want lower-case letters, digits, - and _", name)
		}
		if slices.ContainsFunc(c.Providers, func(p providerConfig) bool { return p.Name == name }) {
			return fault(key, "provider %q comes twice", name)
		}
		p := providerConfig{Name: name}
		if err := c.provider(value, &p); err != nil {
			return err
		}
		c.Providers = append(c.Providers, p)
		return nil
	})
}

// provider takes the keys of one provider. There is one type yet; each will
// have its own keys.
func (c *config) provider(n *yaml.Node, p *providerConfig) error {
	err := eachKey(n, " in provider "+p.Name, map[string]field{
		"type":      choiceField(&p.Type, "local"),
		"images":    pathField(c, &p.Images),
		"instances": pathField(c, &p.Instances),
		"store":     choiceField(&p.Store, stores()...),
		"clean":     choiceField(&p.Clean, cleans()...),
		"snapshot":  choiceField(&p.Snapshot, "on-copy", "auto", "never", "require-stopped", "require-frozen"),

		"bwlimit": scalarField(func(text string) error {
			r, err := parseRate(text)
			p.BWLimit = &r
			return err
		}),
		"read_budget": scalarField(func(text string) error {
			b, err := parseBudget(text)
			p.ReadBudget = &b
			return err
		}),
	})
	switch {
	case err != nil:
		return err
	case p.Type == "":
		return fault(n, "provider %s has no type", p.Name)
	case p.Images == "" && p.Instances == "":
		return fault(n, "provider %s has neither images nor instances", p.Name)
	}
	return nil
}

// folder is where the provider has its entries of a kind, empty for nowhere.
func (p providerConfig) folder(kind providers.Kind) string {
	if kind == providers.Instances {
		return p.Instances
	}
	return p.Images
}

// stores are the choices for what a provider keeps: the source's own container
// or one format for all. An ova holds machines and is only ever kept as it came.
func stores() []string {
	names := []string{"source"}
	for _, name := range written() {
		if name != "ova" {
			names = append(names, name)
		}
	}
	return names
}

// cleans are the choices for what happens to traces of the old machine.
func cleans() []string { return []string{"auto", "require", "best-effort", "off"} }
