// Package openstack is the images and servers of one OpenStack cloud, in one project
// and region: Keystone, Glance and Nova, by their public APIs.
//
// An image of Glance never changes its bytes, so they are read by ranges and kept.
// What is not finished, or was made for reading only, is an image too: its property
// chromogenic_state says so, and it is in no listing (see state.go).
package openstack

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Options are what a Provider is made of.
type Options struct {
	Name   string
	Cloud  string // of clouds.yaml; empty for OS_CLOUD, and without that for the variables OS_*
	Region string // overrides the cloud's
	Store  string // the format that images are kept in: empty for qcow2, "source" or a format
	Import bool   // uploads go by way of staging and import (glance-direct), as some clouds ask for
	Spool  bool   // where parts of an image cannot be had, it may be fetched as a whole; it cannot be read otherwise

	Formats    map[string]bool   // the formats that can be read; nil for all
	Properties map[string]string // that every upload gets

	Retry time.Duration // how long a call that fails is tried; 0 for 20 s
	Stall time.Duration // how long a transfer may move no byte; 0 for 30 s
}

// A Provider is one project of a cloud. It logs in when it is first asked.
type Provider struct {
	o      Options
	client *client

	ranges atomic.Int32 // whether parts of an image can be had: see inOrder

	mu     sync.Mutex
	busy   map[string]bool // ids of images that this process is making
	asked  string          // the token with which MayUpload has asked
	denied error           // what it was told
}

// New makes a provider and asks nothing of the cloud. Credentials that are not there,
// or wrong, are an error of the first call: they may come later.
func New(o Options) (*Provider, error) {
	if o.Name == "" {
		return nil, disk.Errorf(disk.Invalid, "make provider: it has no name")
	}
	for key := range o.Properties {
		if Reserved(key) {
			return nil, disk.Errorf(disk.Invalid, "make provider %s: property %q is not for a configuration to set", o.Name, key)
		}
	}
	return &Provider{o: o, client: newClient(o), busy: map[string]bool{}}, nil
}

// Name is that of Options.
func (p *Provider) Name() string { return p.o.Name }

// Credentials says who the cloud takes us for, and which file or variables say so.
func (p *Provider) Credentials(ctx context.Context) (who, source string, err error) {
	s, err := p.client.account(ctx)
	if err != nil {
		return "", "", err
	}
	return cmp.Or(s.who, "a user of no name"), s.source, nil
}

// Location tells the cloud, the user, the project and the region.
func (p *Provider) Location() string {
	c, err := readCredentials(p.o.Cloud, p.o.Region)
	if err != nil {
		return ""
	}
	a := c.auth
	where := []string{
		a.IdentityEndpoint, c.endpoints.Region, availability(c.endpoints), c.override[imageService], c.override[computeService],
		a.UserID, a.Username, a.DomainID, a.DomainName, a.TenantID, a.TenantName, a.ApplicationCredentialID, a.ApplicationCredentialName,
	}
	if s := a.Scope; s != nil {
		where = append(where, s.ProjectID, s.ProjectName, s.DomainID, s.DomainName, s.TrustID, strconv.FormatBool(s.System))
	}
	if a.TokenID != "" {
		where = append(where, short(a.TokenID)) // all there is to tell the project by
	}
	return short(strings.Join(where, "\x00"))
}

// own marks an image as one that this process is making, until done.
func (p *Provider) own(id string, is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if is {
		p.busy[id] = true
	} else {
		delete(p.busy, id)
	}
}

func (p *Provider) owns(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy[id]
}

var (
	_ providers.Provider    = (*Provider)(nil)
	_ providers.Uploader    = (*Provider)(nil)
	_ providers.Surveyor    = (*Provider)(nil)
	_ providers.Deleter     = (*Provider)(nil)
	_ providers.Renamer     = (*Provider)(nil)
	_ providers.MetaSetter  = (*Provider)(nil)
	_ providers.PropKeeper  = (*Provider)(nil)
	_ providers.Timer       = (*Provider)(nil)
	_ providers.Roomer      = (*Provider)(nil)
	_ providers.Snapshotter = (*Provider)(nil)
	_ providers.Keeper      = (*Provider)(nil)
	_ providers.Locator     = (*Provider)(nil)

	_ providers.Imager = (*Provider)(nil)
	_ providers.Reuser = (*Provider)(nil)

	_ providers.Authenticator = (*Provider)(nil)
	_ providers.Auditor       = (*Provider)(nil)
	_ providers.Permitter     = (*Provider)(nil)

	_ providers.CompanionKeeper = (*Provider)(nil)
	_ providers.Sharer          = (*Provider)(nil)
)
