package main

import (
	"cmp"
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

// provider takes the keys of one provider: some are of all types, the others of one.
func (c *config) provider(n *yaml.Node, p *providerConfig) error {
	fields := map[string]field{
		"type":     choiceField(&p.Type, providerTypes()...),
		"store":    choiceField(&p.Store, stores()...),
		"clean":    choiceField(&p.Clean, cleans()...),
		"snapshot": choiceField(&p.Snapshot, "on-copy", "auto", "never", "require-stopped", "require-frozen"),
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
	}
	byType := map[string]map[string]field{
		typeLocal: {
			"images":    pathField(c, &p.Images),
			"instances": pathField(c, &p.Instances),
		},
		typeOpenStack: {
			"cloud":      textField(&p.Cloud),
			"region":     textField(&p.Region),
			"spool":      boolField(&p.Spool),
			"import":     boolField(&p.Import),
			"properties": textsField(&p.Properties),
		},
		typeEucalyptus: eucalyptusFields(c, &p.Eucalyptus),
	}
	var kind string // the type may come last
	_ = eachPair(n, "", func(key, value *yaml.Node) error {
		if key.Value == "type" {
			kind = value.Value
		}
		return nil
	})
	for other, own := range byType {
		for key, take := range own {
			if kind != other && kind != "" {
				take = func(n *yaml.Node) error {
					return fault(n, "key %q is of providers of type %s, not %s", key, other, kind)
				}
			}
			fields[key] = take
		}
	}
	err := eachKey(n, " in provider "+p.Name, fields)
	switch {
	case err != nil:
		return err
	case p.Type == "":
		return fault(n, "provider %s has no type", p.Name)
	case p.Type == typeEucalyptus && p.Store != "":
		return fault(n, "provider %s stores bundles: its key store chooses nothing", p.Name)
	case p.Type == typeLocal && p.Images == "" && p.Instances == "":
		return fault(n, "provider %s has neither images nor instances", p.Name)
	}
	return nil
}

// The types of providers.
const (
	typeLocal      = "local"
	typeOpenStack  = "openstack"
	typeEucalyptus = "eucalyptus"
)

func providerTypes() []string { return []string{typeLocal, typeOpenStack, typeEucalyptus} }

// textsField takes a mapping of texts.
func textsField(dst *map[string]string) field {
	return func(n *yaml.Node) error {
		*dst = map[string]string{}
		return eachPair(n, "", func(key, value *yaml.Node) (err error) {
			(*dst)[key.Value], err = text(value)
			return err
		})
	}
}

// place says where the provider has its entries of a kind, for people; empty for
// nowhere.
func (p providerConfig) place(kind providers.Kind) string {
	switch p.Type {
	case typeLocal:
		return p.folder(kind)
	case typeEucalyptus:
		return p.Type + " " + p.Eucalyptus.place()
	}
	return p.Type + " " + cmp.Or(p.Cloud, "of the environment")
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
