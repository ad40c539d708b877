package main

import (
	"cmp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// eucalyptusConfig is what is of providers of that type alone.
type eucalyptusConfig struct {
	Eucarc  string // an absolute path
	Profile string
	Bucket  string
	SigV2   bool
	Index   bool
	Restart bool
	Users   []string
	Nodes   *nodesConfig
}

// nodesConfig is the way to the disks of instances on their nodes.
type nodesConfig struct {
	SSH, Path       string
	Key, KnownHosts string // absolute paths
	Pause           bool
}

// eucalyptusFields are its keys.
func eucalyptusFields(c *config, e *eucalyptusConfig) map[string]field {
	return map[string]field{
		"eucarc":  pathField(c, &e.Eucarc),
		"profile": textField(&e.Profile),
		"bucket":  textField(&e.Bucket),
		"sigv2":   boolField(&e.SigV2),
		"index":   boolField(&e.Index),
		"restart": boolField(&e.Restart),
		"users":   listField(&e.Users),
		"nodes": func(n *yaml.Node) error {
			e.Nodes = &nodesConfig{}
			return eachKey(n, " in nodes", map[string]field{
				"ssh":         textField(&e.Nodes.SSH),
				"key":         pathField(c, &e.Nodes.Key),
				"path":        textField(&e.Nodes.Path),
				"known_hosts": pathField(c, &e.Nodes.KnownHosts),
				"pause":       boolField(&e.Nodes.Pause),
			})
		},
	}
}

// place is the account, for people.
func (e eucalyptusConfig) place() string { return cmp.Or(e.Eucarc, e.Profile, "of the environment") }

func textField(dst *string) field {
	return scalarField(func(s string) error { *dst = s; return nil })
}

func boolField(dst *bool) field {
	return scalarField(func(s string) (err error) { *dst, err = strconv.ParseBool(s); return err })
}
