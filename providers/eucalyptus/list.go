package eucalyptus

import (
	"context"
	"fmt"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2"
)

// List is all images that the account can use, its own, those that others share with it,
// and public ones; or all its instances and the captures of them.
func (p *Provider) List(ctx context.Context, kind providers.Kind) ([]providers.Entry, error) {
	var entries []providers.Entry
	var err error
	switch kind {
	case providers.Images:
		entries, err = p.listImages(ctx)
	case providers.Instances:
		entries, err = p.listInstances(ctx)
	case providers.Disks:
		entries, err = p.listWaiting(ctx)
	}
	if disk.KindOf(err) == disk.NotFound { // nobody has said of any image that it is not there
		e := disk.AsError(err)
		err = &disk.Error{Kind: disk.Unreachable, RequestID: e.RequestID, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind, err)
	}
	return entries, nil
}

func (p *Provider) listImages(ctx context.Context) ([]providers.Entry, error) {
	records, err := p.everyRecord(ctx)
	if err != nil {
		return nil, err
	}
	all := byID(records)
	var entries []providers.Entry
	for _, r := range records {
		if r.role() != "" || r.hidden() {
			continue
		}
		e := r.entry()
		r.beside(&e, all)
		entries = append(entries, e)
	}
	return entries, nil
}

// records are the images that a filter finds, in whatever state, the oldest first.
func (p *Provider) records(ctx context.Context, filter ec2.ImageFilter) ([]record, error) {
	s, err := p.session(ctx)
	if err != nil {
		return nil, err
	}
	images, err := s.ec2.Images(ctx, filter)
	if err != nil {
		return nil, err
	}
	var all []record
	for _, i := range images {
		if i.State != "deregistered" && i.State != "deregistered_cleanup" {
			all = append(all, record{i})
		}
	}
	return sorted(all), nil
}

// everyRecord are all images that the account can use.
func (p *Provider) everyRecord(ctx context.Context) ([]record, error) {
	return p.records(ctx, ec2.ImageFilter{})
}

// ownRecords are the images of this account.
func (p *Provider) ownRecords(ctx context.Context) ([]record, error) {
	return p.records(ctx, ec2.ImageFilter{Owners: []string{"self"}})
}

// record is an image by its id.
func (p *Provider) record(ctx context.Context, id string) (*record, error) {
	found, err := p.records(ctx, ec2.ImageFilter{IDs: []string{id}})
	if disk.KindOf(err) == disk.Invalid { // it is no id at all
		err = disk.Errorf(disk.NotFound, "there is no image of id %.80q: %w", id, err)
	}
	if err != nil {
		return nil, err
	}
	for i := range found {
		if found[i].ID == id {
			return &found[i], nil
		}
	}
	return nil, disk.Errorf(disk.NotFound, "there is no image of id %.80q", id)
}

// same is the record of an image whose bytes are those that were listed.
func (p *Provider) same(ctx context.Context, e providers.Entry) (*record, error) {
	if e.Kind != providers.Images && e.Kind != providers.Companions {
		return nil, disk.Errorf(disk.Unsupported, "it is no image")
	}
	r, err := p.record(ctx, e.ID)
	if err == nil && ofBytes(r.version(providers.Metadata{})) != ofBytes(e.Version) {
		err = disk.Errorf(disk.Stale, "it has changed since it was listed")
	}
	return r, err
}

// named are the images of this account that have a name, or are about to.
func (p *Provider) named(ctx context.Context, name string) ([]record, error) {
	all, err := p.ownRecords(ctx)
	var found []record
	for _, r := range all {
		state, _, _ := r.state()
		if r.role() == "" && r.name() == name && (state == "" || state == stateCommit) {
			found = append(found, r)
		}
	}
	return found, err
}

func (p *Provider) listInstances(ctx context.Context) ([]providers.Entry, error) {
	s, err := p.session(ctx)
	if err != nil {
		return nil, err
	}
	machines, err := s.ec2.Instances(ctx)
	if err != nil {
		return nil, err
	}
	var entries []providers.Entry
	for _, i := range machines {
		if i.State != "terminated" && i.State != "shutting-down" {
			entries = append(entries, instanceEntry(i))
		}
	}
	captures, err := p.captures(ctx)
	return append(entries, captures...), err
}

// instanceEntry is an instance as a listing shows it: its root disk.
func instanceEntry(i ec2.Instance) providers.Entry {
	e := providers.Entry{
		Kind: providers.Instances, ID: i.ID, Name: i.ID, Status: i.State, Format: "raw", Size: -1, VirtualSize: -1,
		Created: i.Launched.UTC(), Updated: i.Launched.UTC(), Version: short(i.ID + i.Image + i.Launched.UTC().String()),
		Reason: instanceReason(i),
	}
	if name := i.Tags["Name"]; name != "" {
		e.Name = name
	}
	e.Meta.Arch, e.Meta.OSType = ourArch(i.Architecture), i.Platform
	if e.Reason == "" && len(i.BlockDevices) > 0 {
		e.LeftOut = fmt.Sprintf("its %d attached volumes are not captured, its root disk alone is", len(i.BlockDevices))
	}
	return e
}

// instanceReason is why the bytes of an instance cannot be captured.
func instanceReason(i ec2.Instance) string {
	switch {
	case i.RootDeviceType == ec2.EBS:
		return "it boots from a volume, whose bytes this cloud gives to its own machines alone; the cloud can make an image of it: chromogenic capture --image NAME --clean off"
	case i.State != "running":
		return "it is " + i.State
	}
	return ""
}

// instance is one by its id.
func (p *Provider) instance(ctx context.Context, id string) (ec2.Instance, error) {
	s, err := p.session(ctx)
	if err != nil {
		return ec2.Instance{}, err
	}
	found, err := s.ec2.Instances(ctx, id)
	if disk.KindOf(err) == disk.Invalid {
		err = disk.Errorf(disk.NotFound, "there is no instance of id %.80q: %w", id, err)
	}
	if err != nil {
		return ec2.Instance{}, err
	}
	for _, i := range found {
		if i.ID == id && i.State != "terminated" {
			return i, nil
		}
	}
	return ec2.Instance{}, disk.Errorf(disk.NotFound, "there is no instance of id %.80q", id)
}
