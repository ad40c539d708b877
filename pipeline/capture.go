package pipeline

import (
	"context"
	"fmt"

	"chromogenic/disk"
	"chromogenic/providers"
)

// capture snapshots an instance and opens the snapshot: all its disks at one
// moment. Closing the source removes the snapshot from the provider.
func (p *Pipeline) capture(ctx context.Context, site string, e providers.Entry) (*source, error) {
	s, err := p.site(site)
	if err != nil {
		return nil, err
	}
	if s.snapshot == "never" {
		err := disk.Errorf(disk.Policy, "capture instance %q of %s: its policy is snapshot: never", e.Name, site)
		return nil, disk.Hint(err, "change the provider's snapshot policy in the configuration")
	}
	taker, ok := s.provider.(providers.Snapshotter)
	if !ok {
		return nil, disk.Errorf(disk.Unsupported, "capture instance %q of %s: the provider cannot take snapshots", e.Name, site)
	}
	snap, err := taker.Snapshot(ctx, e, providers.SnapSpec{
		Job:            NewID(),
		RequireStopped: s.snapshot == "require-stopped",
		RequireFrozen:  s.snapshot == "require-frozen",
	})
	if err != nil {
		return nil, fmt.Errorf("capture instance %q of %s: %w", e.Name, site, err)
	}
	release := func() error { return taker.Release(context.WithoutCancel(ctx), snap.ID) }
	out, err := decodeSet(snap.Disks)
	if err != nil {
		// The snapshot goes either way; the first cause is the one to tell.
		_ = release()
		return nil, fmt.Errorf("read capture of %q of %s: %w", e.Name, site, err)
	}
	out.release = release
	return out, nil
}

// decodeSet takes apart the disks of a snapshot, one container each, and makes
// one machine of them.
func decodeSet(disks []providers.Source) (*source, error) {
	var all *source
	fail := func(i int, err error) (*source, error) {
		if all != nil {
			_ = all.close()
		}
		for _, d := range disks[i:] {
			_ = d.Close()
		}
		return nil, err
	}
	for i, d := range disks {
		one, err := decode(d, trust{})
		if err != nil {
			return fail(i, fmt.Errorf("disk %d: %w", i, err))
		}
		if all == nil {
			all = one
			continue
		}
		all.machine.Disks = append(all.machine.Disks, one.machine.Disks...)
		prev := all.release
		all.release = func() error {
			err := one.Image.Close()
			if prev != nil {
				if e := prev(); err == nil {
					err = e
				}
			}
			return err
		}
	}
	if all == nil {
		return nil, disk.Errorf(disk.Malformed, "the snapshot holds no disk")
	}
	return all, nil
}

// Sweep removes what a crash has left at the providers: uploads that were not
// finished and snapshots that nobody reads. What another process is working on
// stays. Failures are logged, for the next start tries again.
func (p *Pipeline) Sweep(ctx context.Context) {
	for name, s := range p.sites {
		taker, ok := s.provider.(providers.Snapshotter)
		if !ok {
			continue
		}
		ids, err := taker.Leftovers(ctx)
		if err != nil {
			p.log.Warn("look for leftovers", "provider", name, "error", err)
		}
		for _, id := range ids {
			if err := taker.Release(ctx, id); err != nil {
				p.log.Warn("remove leftover", "provider", name, "id", id, "error", err)
				continue
			}
			p.log.Info("removed what a crash has left", "provider", name, "id", id)
		}
	}
}
