// Package eucalyptus is the images and instances of one account of an Eucalyptus cloud, by
// the EC2 query API and the object storage: EMIs with their kernels and ramdisks, bundles
// both ways, and captures of instances.
//
// The bytes of an image are a bundle in a bucket (package bundle), which an index beside it
// makes readable at random; without one it has to be fetched as a whole (Filler). What is
// not finished, or waits, or was captured, is an image too, whose description says so: see
// state.go. What has not been registered yet is known by its journal: see journal.go.
//
// No real cloud was asked when this was written: what Eucalyptus does is said by its source
// (release 4.4) and by that of euca2ools, and the tests have a stand-in for it.
package eucalyptus

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Options are what a Provider is made of.
type Options struct {
	Name    string
	Eucarc  string // path of the eucarc of the account, which is parsed and never executed
	Profile string // USER@REGION, or REGION, of ~/.euca/*.ini; where neither is named, what is found
	SigV2   bool   // requests are signed in version 2; where version 4 is refused, it is tried in any case

	Bucket string   // that uploads go to; empty is chromogenic-ACCOUNT, which is made, private, when it is missing
	Index  bool     // of what is uploaded, which makes it readable at random
	Users  []string // numbers of accounts that may run what is uploaded; empty is private
	Dir    string   // folder, 0700, for the journals of uploads, which hold the keys of their bundles; uploads need one

	MayRestart bool        // instances may be restarted for their capture, as bundling them does
	Nodes      *NodeAccess // captures of instances by ssh from their node; nil is none

	Retry time.Duration // how long a call that fails is tried; 0 for 20 s
	Stall time.Duration // how long a transfer may move no byte; 0 for 30 s
	Poll  time.Duration // between two looks at what the cloud is doing; 0 for 5 s
}

// A Provider is one account of a cloud. It asks the cloud nothing before it is asked.
type Provider struct {
	o      Options
	retry  *providers.Retry
	pieces *pieces

	logins  singleflight.Group
	mu      sync.Mutex
	current *session
	busy    map[string]bool     // ids of images that this process is making
	held    map[string]*journal // of snapshots that are in use, by their tokens
}

// parallel is how many requests of one provider run at a time.
const parallel = 16

// New makes a provider and asks nothing of the cloud. Credentials that are not there, or
// wrong, are an error of the first call: they may come later.
func New(o Options) (*Provider, error) {
	switch {
	case o.Name == "":
		return nil, disk.Errorf(disk.Invalid, "make provider: it has no name")
	case o.Eucarc != "" && o.Profile != "":
		return nil, disk.Errorf(disk.Invalid, "make provider %s: eucarc and profile exclude each other", o.Name)
	}
	for _, user := range o.Users {
		if !isAccount(user) {
			return nil, disk.Errorf(disk.Invalid, "make provider %s: users: %q is not the number of an account, which has 12 digits", o.Name, user)
		}
	}
	if err := o.Nodes.check(); err != nil {
		return nil, err
	}
	o.Stall, o.Poll = cmp.Or(o.Stall, 30*time.Second), cmp.Or(o.Poll, 5*time.Second)
	return &Provider{o: o, retry: providers.NewRetry(o.Retry, parallel), pieces: newPieces(), busy: map[string]bool{}, held: map[string]*journal{}}, nil
}

// Name is that of Options.
func (p *Provider) Name() string { return p.o.Name }

// Credentials says who the cloud takes us for, and which file or variables say so.
func (p *Provider) Credentials(ctx context.Context) (who, source string, err error) {
	s, err := p.session(ctx)
	if err != nil {
		return "", "", err
	}
	who = "account " + s.account + ", access key " + s.cred.access
	if s.sigv2 {
		who += ", signatures of version 2"
	}
	return who, s.cred.source, nil
}

// Location tells the cloud and the account.
func (p *Provider) Location() string {
	c, err := readCredentials(p.o)
	if err != nil {
		return ""
	}
	return short(strings.Join([]string{c.ec2URL, c.s3URL, cmp.Or(c.account, c.access)}, "\x00"))
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
	_ providers.Provider        = (*Provider)(nil)
	_ providers.Uploader        = (*Provider)(nil)
	_ providers.CompanionKeeper = (*Provider)(nil)
	_ providers.Deleter         = (*Provider)(nil)
	_ providers.Surveyor        = (*Provider)(nil)
	_ providers.MetaSetter      = (*Provider)(nil)
	_ providers.PropKeeper      = (*Provider)(nil)
	_ providers.Timer           = (*Provider)(nil)
	_ providers.Sharer          = (*Provider)(nil)
	_ providers.Snapshotter     = (*Provider)(nil)
	_ providers.Keeper          = (*Provider)(nil)
	_ providers.Imager          = (*Provider)(nil)
	_ providers.Authenticator   = (*Provider)(nil)
	_ providers.Auditor         = (*Provider)(nil)
	_ providers.Permitter       = (*Provider)(nil)
	_ providers.Locator         = (*Provider)(nil)

	_ providers.Purger = (*Provider)(nil)
)
