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
	"sync"
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

	Formats    map[string]bool   // the formats that can be read; nil for all
	Properties map[string]string // that every upload gets

	Retry time.Duration // how long a call that fails is tried; 0 for 20 s
	Stall time.Duration // how long a transfer may move no byte; 0 for 30 s
}

// A Provider is one project of a cloud. It logs in when it is first asked.
type Provider struct {
	o      Options
	client *client

	mu   sync.Mutex
	busy map[string]bool // ids of images that this process is making
}

// New makes a provider and asks nothing of the cloud. Credentials that are not there,
// or wrong, are an error of the first call: they may come later.
func New(o Options) (*Provider, error) {
	if o.Name == "" {
		return nil, disk.Errorf(disk.Invalid, "make provider: it has no name")
	}
	return &Provider{o: o, client: newClient(o), busy: map[string]bool{}}, nil
}

// Name is that of Options.
func (p *Provider) Name() string { return p.o.Name }

// Credentials says who the cloud takes us for, and which file or variables say so.
func (p *Provider) Credentials(ctx context.Context) (who, source string, err error) {
	s, err := p.client.session(ctx, "")
	if err != nil {
		return "", "", err
	}
	return cmp.Or(s.who, "a user of no name"), s.source, nil
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

	_ providers.Authenticator   = (*Provider)(nil)
	_ providers.CompanionKeeper = (*Provider)(nil)
	_ providers.Sharer          = (*Provider)(nil)
)
