package pipeline

import (
	"chromogenic/disk"
	"chromogenic/providers"
)

// sites are the configured providers at one time. A set is never changed: Configure
// puts another in its place.
type sites struct {
	byName map[string]*site
	names  []string // in the order of the configuration
}

// site finds a site by name.
func (p *Pipeline) site(name string) (*site, error) {
	s, ok := p.sites.Load().byName[name]
	if !ok {
		return nil, disk.Errorf(disk.NotFound, "find provider %q: there is none of that name", name)
	}
	return s, nil
}

// SiteNames are the names of the providers in the order of the configuration.
func (p *Pipeline) SiteNames() []string { return p.sites.Load().names }

// Provider gives the provider of a site, for the roles that callers assert for
// (providers.Deleter, Renamer, Timer); false when there is none of that name.
func (p *Pipeline) Provider(name string) (providers.Provider, bool) {
	s, err := p.site(name)
	if err != nil {
		return nil, false
	}
	return s.provider, true
}

// SnapshotPolicy is the policy of a site: never empty.
func (p *Pipeline) SnapshotPolicy(name string) string {
	s, err := p.site(name)
	if err != nil {
		return "never"
	}
	return s.snapshot
}

// Configure changes the providers, all at once or, with an error, not at all. A
// Site that is there already keeps what is known of it. What is being read of others,
// and the copies that use them, go on with what they have open; a view that was never
// read is Stale.
func (p *Pipeline) Configure(all []Site) error {
	next := &sites{byName: map[string]*site{}}
	old := p.sites.Load()
	for _, o := range all {
		name := o.Provider.Name()
		if next.byName[name] != nil {
			return disk.Errorf(disk.Invalid, "configure provider %q: there are two of that name", name)
		}
		next.names = append(next.names, name)
		if old != nil && old.byName[name] != nil && old.byName[name].made == o {
			next.byName[name] = old.byName[name]
			continue
		}
		next.byName[name] = newSite(o)
		p.restorePins(next.byName[name])
	}
	p.sites.Store(next)
	return nil
}
