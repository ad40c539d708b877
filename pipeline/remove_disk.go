package pipeline

import (
	"context"
	"fmt"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// PlanDiskRemoval is PlanRemoval for RemoveDisk.
func (p *Pipeline) PlanDiskRemoval(ctx context.Context, site string, e providers.Entry, number int) (providers.Removal, error) {
	what, _, err := p.diskRemoval(ctx, site, e, number)
	return what, err
}

// RemoveDisk removes a data disk of an image for good, or one that waits for its image
// (of number 0 in its own entry). It is a job as Remove is, and fails as that does; who
// uses any disk of the machine keeps it. The disks of greater numbers wait from then on.
func (p *Pipeline) RemoveDisk(ctx context.Context, site string, e providers.Entry, number int, by string) (Removed, error) {
	what, keeper, err := p.diskRemoval(ctx, site, e, number)
	if err != nil {
		return Removed{}, err
	}
	rec := &jobs.Record{Source: placeOfDisk(site, e, number)}
	if e.Role != "" {
		return p.removal(ctx, site, e, rec, what, rec.Source, by, func(ctx context.Context) error { return p.DeleteCompanion(ctx, site, e) })
	}
	return p.removal(ctx, site, e, rec, what, rec.Source, by, func(ctx context.Context) error { return keeper.DeleteDisk(ctx, e, number) })
}

func (p *Pipeline) diskRemoval(ctx context.Context, site string, e providers.Entry, number int) (what providers.Removal, keeper providers.SetKeeper, err error) {
	s, err := p.site(site)
	if err != nil {
		return what, nil, err
	}
	if e.Role != "" {
		what.Size = e.Size
		return what, nil, p.unused(ctx, site, e)
	}
	keeper, ok := s.provider.(providers.SetKeeper)
	waits, part := e.Waiting != nil && number == 0, e.Waiting == nil && number > 0 && number < len(e.Disks)
	switch {
	case !ok:
		err = disk.Errorf(disk.Unsupported, "provider %q keeps one file for each machine", site)
	case e.Kind == providers.Instances:
		err = disk.Errorf(disk.Policy, "a machine, or a capture of it, keeps its disks")
	case !waits && !part:
		err = disk.Hint(disk.Errorf(disk.Unsupported, "it is a part of the image"), "remove the image")
	default:
		err = p.unused(ctx, site, e)
	}
	if err != nil {
		return what, nil, fmt.Errorf("remove %s: %w", placeOfDisk(site, e, number), err)
	}
	if what.Size = e.Size; part {
		what.Size = e.Disks[number].Size
	}
	return what, keeper, nil
}

// placeOfDisk is one disk of an entry as a place, for people.
func placeOfDisk(site string, e providers.Entry, number int) string {
	if number == 0 {
		return placeOf(site, e)
	}
	device := ""
	if number > 0 && number < len(e.Disks) {
		device = e.Disks[number].Device
	}
	return diskPlace(site, e.Kind, e.Name, number, device)
}
