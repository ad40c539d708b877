package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	"chromogenic/disk"
)

// addDiscovered adds the clouds that need no configuration, but for those that it has
// already. Hidden are the names of those that are left out because something else has
// their name.
func (c *config) addDiscovered() (hidden []string, err error) {
	found, err := discovered()
	if err != nil {
		return nil, err
	}
	for _, p := range found {
		have, taken := c.named(p.Name)
		switch {
		case !taken:
			c.Providers = append(c.Providers, p)
		case have.Type != p.Type || have.Cloud != p.Cloud || have.Region != p.Region:
			hidden = append(hidden, p.Name)
		}
	}
	return hidden, nil
}

// addNamed adds the clouds that need no configuration, as far as one of these places, or
// what begins as one, is in them.
func (c *config) addNamed(places []string) error {
	for _, place := range places {
		name, _, _ := strings.Cut(place, ":")
		if _, have := c.named(name); have || !providerName.MatchString(name) {
			continue
		}
		found, err := discovered()
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(found, func(p providerConfig) bool { return p.Name == name }); i >= 0 {
			c.Providers = append(c.Providers, found[i])
		}
	}
	return nil
}

// named is the provider of a name.
func (c *config) named(name string) (p providerConfig, ok bool) {
	for _, p := range c.Providers {
		if p.Name == name {
			return p, true
		}
	}
	return p, false
}

// rediscovered is addDiscovered for a mount that is there. The file with the clouds may
// just be written: where it has none any longer, those of before are not gone.
func (c *config) rediscovered(before []providerConfig) (hidden []string, err error) {
	hidden, err = c.addDiscovered()
	known := func(all []providerConfig) bool {
		return slices.ContainsFunc(all, func(p providerConfig) bool { return p.Found && p.Cloud != "" })
	}
	if err == nil && known(before) && !known(c.Providers) {
		err = disk.Hint(disk.Errorf(disk.NotFound, "find clouds: there is none any longer"), "mount again if that is meant")
	}
	return hidden, err
}

// nameClouds gives each cloud a name that can be that of a directory. Of several that
// come to the same, the one that is called so, or else the first, has it; the others
// get a suffix that is their own whatever other clouds there are.
func nameClouds(clouds []providerConfig) {
	owner := map[string]int{}
	for i := range clouds {
		p := &clouds[i]
		text := p.Cloud
		if p.Region != "" {
			text += "-" + p.Region
		}
		p.Name = directoryName(text)
		if _, taken := owner[p.Name]; !taken || text == p.Name && p.Region == "" {
			owner[p.Name] = i
		}
	}
	for i := range clouds {
		p := &clouds[i]
		if owner[p.Name] != i {
			sum := sha256.Sum256([]byte(p.Cloud + "\x00" + p.Region))
			p.Name += "-" + hex.EncodeToString(sum[:2])
		}
	}
}

// directoryName makes a provider's name of the name that something has elsewhere.
func directoryName(name string) string {
	name = notOfName.ReplaceAllString(strings.ToLower(name), "-")
	return cmp.Or(strings.TrimLeft(name, "-_"), "cloud")
}

// notOfName are runs of what providerName does not allow.
var notOfName = regexp.MustCompile(`[^a-z0-9_-]+`)
