package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/process"
)

// snapshotTime is how long Nova may take to make an image of a server: it copies the
// whole disk, and waits for others before it.
const snapshotTime = 2 * time.Hour

// Snapshot makes an image of a server, for reading only: it is in no listing, and
// Release removes it.
func (p *Provider) Snapshot(ctx context.Context, e providers.Entry, spec providers.SnapSpec) (providers.Snapshot, error) {
	s, err := p.snapshot(ctx, e, spec)
	if err != nil {
		return providers.Snapshot{}, fmt.Errorf("capture %q: %w", e.Name, err)
	}
	return s, nil
}

func (p *Provider) snapshot(ctx context.Context, e providers.Entry, spec providers.SnapSpec) (providers.Snapshot, error) {
	taken := time.Now()
	r, how, err := p.image(ctx, e, spec, "chromogenic snapshot "+spec.Job, map[string]string{
		propState: stateSnapshot, propJob: spec.Job, propHost: process.Name(),
	})
	if err != nil {
		return providers.Snapshot{}, err
	}
	src, err := p.source(ctx, r)
	if err != nil {
		return providers.Snapshot{}, errors.Join(err, p.undo(ctx, r.ID))
	}
	return providers.Snapshot{
		ID: spec.Job + "/" + r.ID, Taken: taken, Disks: []providers.Source{src}, Consistency: how, Metadata: p.inherited(ctx, r, e.ID),
	}, nil
}

// image makes an image of a server that has the properties, and waits until it can be
// read. What was begun is removed when that fails.
func (p *Provider) image(ctx context.Context, e providers.Entry, spec providers.SnapSpec, name string, props map[string]string) (*record, providers.Consistency, error) {
	if !e.Live() {
		return nil, "", disk.Errorf(disk.Unsupported, "it is no live server")
	}
	s, err := p.server(ctx, e.ID)
	if err != nil {
		return nil, "", err
	}
	if why := s.reason(); why != "" {
		return nil, "", disk.Errorf(disk.Unsupported, "%s", why)
	}
	how, err := p.consistency(ctx, s, spec)
	if err != nil {
		return nil, "", err
	}
	id, err := p.createImage(ctx, s, name, props)
	if err != nil {
		return nil, "", errors.Join(err, p.unmake(ctx, spec.Job, err))
	}
	p.own(id, true)
	r, err := p.await(ctx, id, snapshotTime, p.atWork(ctx, s.ID))
	if err != nil {
		if disk.KindOf(err) == disk.NotFound {
			err = disk.Errorf(disk.Other, "its image %s was removed while it was made", id)
		}
		return nil, "", errors.Join(err, p.undo(ctx, id))
	}
	return r, how, nil
}

// unmake removes the image that a request to Nova has begun whose answer was lost, or was
// not waited for.
func (p *Provider) unmake(ctx context.Context, job string, why error) error {
	if !unsure(ctx, why) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lostTime)
	defer cancel()
	for tries := 0; ; tries++ {
		found, err := p.records(ctx, map[string][]string{propJob: {job}})
		if ctx.Err() != nil {
			return nil // the cloud is away: gc finds it
		}
		if err != nil {
			return fmt.Errorf("look for what may have been made: %w", err)
		}
		for _, r := range found {
			if r.props[propJob] == job && r.props[propState] == stateSnapshot {
				return p.remove(ctx, r.ID)
			}
		}
		if tries == 3 {
			return nil // Nova makes the record before it answers
		}
		_ = pause(ctx, time.Second)
	}
}

// atWork looks from time to time whether Nova is still making an image of a server: one
// that it has given up, as when it was restarted meanwhile, may stay queued for ever.
func (p *Provider) atWork(ctx context.Context, id string) func(*record) error {
	next, idle := time.Now().Add(p.client.stall/2), false
	return func(r *record) error {
		if time.Now().Before(next) {
			return nil
		}
		next = time.Now().Add(p.client.stall / 2)
		s, err := p.server(ctx, id)
		if disk.KindOf(err) == disk.NotFound {
			return fmt.Errorf("look at the server: %w", err)
		}
		if err != nil {
			return nil // it may be restarting
		}
		was := idle
		if idle = s.TaskState == ""; was && idle { // twice: the image may have become active meanwhile
			err := disk.Errorf(disk.Timeout, "the image is still %s, and the compute service does not work on it any longer", r.Status)
			return disk.Hint(err, "the compute service has given up, or was restarted: try again; its log tells why")
		}
		return nil
	}
}

// undo removes an image that is not wanted, for a cancelled context too.
func (p *Provider) undo(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	defer p.own(id, false) // what cannot be removed is left over
	return p.remove(ctx, id)
}

// consistency is what an image of the server will be. Nova asks the guest's agent to
// freeze where the server's image says so, and fails if that does not answer.
func (p *Provider) consistency(ctx context.Context, s *server, spec providers.SnapSpec) (providers.Consistency, error) {
	how := providers.Crash
	if s.Status == "SHUTOFF" {
		how = providers.Stopped
	} else if r, err := p.record(ctx, s.Image.ID); err == nil && r.props["os_require_quiesce"] == "yes" && s.Status == "ACTIVE" {
		how = providers.Frozen
	}
	switch {
	case spec.RequireStopped && how != providers.Stopped:
		return "", disk.Hint(disk.Errorf(disk.Unsupported, "the server is %s, and must be stopped", s.Status), "openstack server stop %s", s.ID)
	case spec.RequireFrozen && how == providers.Crash:
		return "", disk.Hint(disk.Errorf(disk.Unsupported, "its filesystems cannot be frozen"),
			"that takes an agent in the guest, and hw_qemu_guest_agent=yes and os_require_quiesce=yes on its image; or stop the server")
	}
	return how, nil
}

// createImage asks Nova for an image, and gives its id.
func (p *Provider) createImage(ctx context.Context, s *server, name string, props map[string]string) (string, error) {
	header, err := p.client.call(ctx, request{
		service: computeService, method: http.MethodPost, path: "/servers/" + s.ID + "/action", once: true,
		json: map[string]any{"createImage": map[string]any{"name": name, "metadata": props}},
		ok:   []int{http.StatusAccepted},
	}, nil)
	if disk.KindOf(err) == disk.Busy {
		return "", disk.Hint(err, "another image of the server is being made: wait until it is done")
	}
	if err != nil {
		return "", err
	}
	// "http://host//images/ID": the id alone is of use.
	id := path.Base(header.Get("Location"))
	if len(id) != len(newID()) || strings.Count(id, "-") != 4 {
		return "", disk.Errorf(disk.Other, "the server was told to make an image, and the answer names none: %q", header.Get("Location"))
	}
	return id, nil
}

// Keep makes an image of a server that is listed among the servers as a capture.
func (p *Provider) Keep(ctx context.Context, e providers.Entry, spec providers.SnapSpec) (providers.Entry, error) {
	kept, err := p.keep(ctx, e, spec)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("capture %q: %w", e.Name, err)
	}
	return kept, nil
}

func (p *Provider) keep(ctx context.Context, e providers.Entry, spec providers.SnapSpec) (providers.Entry, error) {
	name := spec.Name
	if name == "" {
		name = e.Name
	}
	if err := checkName(name); err != nil {
		return providers.Entry{}, err
	}
	taken, err := providers.Moment(ctx, e.ID, name, p.captures)
	if err != nil {
		return providers.Entry{}, err
	}
	r, how, err := p.image(ctx, e, spec, "chromogenic capture "+taken.Format(providers.CaptureLayout), map[string]string{
		propState: stateSnapshot, propJob: spec.Job, propHost: process.Name(), // until it is whole
		propOf: e.ID, propTaken: taken.Format(time.RFC3339), propName: name,
	})
	if err != nil {
		return providers.Entry{}, err
	}
	defer p.own(r.ID, false)
	r, err = p.patch(ctx, r.ID, []change{
		put(r, propState, stateCapture), put(r, propConsistency, string(how)), drop(propJob), drop(propHost),
	})
	if err != nil {
		return providers.Entry{}, errors.Join(err, p.undo(ctx, r.ID))
	}
	return r.captureEntry(p), nil
}

// captures are those of this project that were kept.
func (p *Provider) captures(ctx context.Context) ([]providers.Entry, error) {
	found, err := p.inState(ctx, stateCapture)
	var entries []providers.Entry
	for _, r := range found {
		if r.props[propOf] != "" {
			entries = append(entries, r.captureEntry(p))
		}
	}
	return entries, err
}

func (r *record) captureEntry(p *Provider) providers.Entry {
	e := r.entry(p)
	e.Kind, e.Name = providers.Instances, r.props[propName]
	taken := parseTime(r.props[propTaken])
	e.Updated = taken
	e.Capture = &providers.Capture{
		Of: r.props[propOf], Taken: taken, Consistency: providers.Consistency(r.props[propConsistency]), Ours: true,
	}
	return e
}

// DeleteCapture removes a capture for good.
func (p *Provider) DeleteCapture(ctx context.Context, e providers.Entry) error {
	err := p.deleteCapture(ctx, e)
	if err != nil {
		return fmt.Errorf("delete capture of %q: %w", e.Name, err)
	}
	return nil
}

func (p *Provider) deleteCapture(ctx context.Context, e providers.Entry) error {
	if e.Capture == nil || e.Kind != providers.Instances {
		return disk.Errorf(disk.Unsupported, "it is no capture")
	}
	r, err := p.record(ctx, e.ID)
	switch {
	case disk.KindOf(err) == disk.NotFound:
		if _, live := p.server(ctx, e.ID); live == nil {
			return disk.Errorf(disk.Unsupported, "it is a live server")
		}
		return err
	case err != nil:
		return err
	case r.props[propState] != stateCapture:
		return disk.Errorf(disk.Unsupported, "image %s is no capture", r.ID)
	case ofBytes(r.version(r.metadata())) != ofBytes(e.Version):
		return disk.Errorf(disk.Stale, "it has changed since it was listed")
	}
	return p.remove(ctx, r.ID)
}
