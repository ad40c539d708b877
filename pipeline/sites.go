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

// Configure changes the providers and the limits, all at once or, with an error, not
// at all. A Site that is there already, with whatever limits, keeps what is known of
// it. What is being read of others, and the copies that use them, go on with what
// they have open; a view that was never read is Stale. Traffic that is under way goes
// on under the new limits.
func (p *Pipeline) Configure(all []Site, common Limits) error {
	next, limits := &sites{byName: map[string]*site{}}, map[string]Limits{}
	old := p.sites.Load()
	for _, o := range all {
		name := o.Provider.Name()
		if next.byName[name] != nil {
			return disk.Errorf(disk.Invalid, "configure provider %q: there are two of that name", name)
		}
		limits[name], o.Limits = o.Limits, Limits{}
		next.names = append(next.names, name)
		var was *site
		if old != nil {
			was = old.byName[name]
		}
		if was != nil && was.made == o {
			next.byName[name] = was
			continue
		}
		s := newSite(o)
		p.restorePins(s)
		if p.serving {
			p.restoreListings(s)
		}
		p.openTrafficOf(s, was)
		next.byName[name] = s
	}
	p.sites.Store(next)
	p.setLimits(common, limits)
	return nil
}
