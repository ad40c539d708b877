package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// capture snapshots an instance and opens the snapshot: all its disks at one
// moment. Closing the source removes the snapshot from the provider.
func (p *Pipeline) capture(ctx context.Context, site string, e providers.Entry, spec providers.SnapSpec, over bool) (*source, error) {
	s, err := p.site(site)
	if err != nil {
		return nil, err
	}
	taker, ok := s.provider.(providers.Snapshotter)
	if !ok {
		return nil, disk.Errorf(disk.Unsupported, "capture instance %q of %s: the provider cannot take snapshots", e.Name, site)
	}
	spec.Job = cmp.Or(spec.Job, jobs.NewID())
	spec, err = s.policed(spec)
	var snap providers.Snapshot
	if err == nil {
		snap, err = taker.Snapshot(ctx, e, spec)
	}
	if err != nil {
		return nil, fmt.Errorf("capture instance %q of %s: %w", e.Name, site, err)
	}
	for i, d := range snap.Disks {
		snap.Disks[i] = s.traffic.metered(p.ctx, d, over)
	}
	release := func() error { return taker.Release(context.WithoutCancel(ctx), snap.ID) }
	for i, d := range snap.Disks {
		if d.InOrder && err == nil {
			snap.Disks[i].Image, err = p.fetchWhole(ctx, strings.Join([]string{site, snap.ID, strconv.Itoa(i)}, "\x00"), d.Image, false)
		}
	}
	var out *source
	if err == nil {
		out, err = decodeSet(snap.Disks, e.Disks, func(providers.Source) trust { return trust{} })
	}
	if err != nil {
		// The snapshot goes either way; the first cause is the one to tell.
		_ = release()
		return nil, fmt.Errorf("read capture of %q of %s: %w", e.Name, site, err)
	}
	out.release, out.metadata = release, snap.Metadata
	out.captured = &providers.Capture{Of: e.ID, Taken: snap.Taken.UTC(), Consistency: snap.Consistency}
	return out, nil
}

// policed is spec as the site's policy has it.
func (s *site) policed(spec providers.SnapSpec) (providers.SnapSpec, error) {
	switch s.snapshot {
	case "never":
		return spec, disk.Hint(disk.Errorf(disk.Policy, "its policy is snapshot: never"), "change the provider's snapshot policy in the configuration")
	case "require-stopped":
		spec.RequireStopped = true
	case "require-frozen":
		spec.RequireFrozen = true
	}
	return spec, nil
}
