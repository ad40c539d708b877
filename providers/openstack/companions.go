package openstack

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// An AMI is a set of images: its properties kernel_id and ramdisk_id name those of its
// kernel (AKI) and its ramdisk (ARI). Any other image may have these properties too.

// companionProp is the property of an image that names its companion of a role.
func companionProp(role providers.Role) string { return string(role) + "_id" }

// companionRole is the role that a property names a companion of, empty for none.
func companionRole(key string) providers.Role {
	for _, role := range providers.Roles() {
		if key == companionProp(role) {
			return role
		}
	}
	return ""
}

// companionFormat is the disk format, and the container format, of a companion.
func companionFormat(role providers.Role) string {
	if role == providers.Kernel {
		return "aki"
	}
	return "ari"
}

// isCompanion tells whether an image can be nothing but a companion of others.
func (r *record) isCompanion() bool { return r.DiskFormat == "aki" || r.DiskFormat == "ari" }

// companion is the record as that of an image.
func (r *record) companion(role providers.Role) providers.Companion {
	c := providers.Companion{
		Role: role, ID: r.ID, Version: short(cmp.Or(r.HashValue, r.Checksum, r.ID)), Name: r.Name, Size: -1,
		Updated: parseTime(r.Created),
	}
	if t := parseTime(r.props[propMtime]); !t.IsZero() {
		c.Updated = t
	}
	if r.Status == "active" && r.Size != nil {
		c.Size = *r.Size
		return c
	}
	c.Reason = "its image is " + r.Status
	return c
}

// beside adds the companions to the entry of an image, from a listing of all that the
// project can see. What leads nowhere is a part of its metadata, for the bytes of it
// cannot go along.
func (r *record) beside(e *providers.Entry, all map[string]*record) {
	for _, role := range providers.Roles() {
		id := r.props[companionProp(role)]
		if id == "" {
			continue
		}
		c := providers.Companion{Role: role, ID: id, Size: -1, Reason: "there is no such image, or it is not shared with this project"}
		if k := all[id]; k != nil {
			c = k.companion(role)
		}
		e.Companions = append(e.Companions, c)
		if c.Reason != "" {
			*texts(&e.Meta)[companionProp(role)] = id
			e.Version = r.version(e.Metadata)
		}
	}
}

// byID finds records by their ids.
func byID(records []record) map[string]*record {
	all := make(map[string]*record, len(records))
	for i := range records {
		all[records[i].ID] = &records[i]
	}
	return all
}

// openCompanion opens the bytes of a kernel or a ramdisk.
func (p *Provider) openCompanion(ctx context.Context, e providers.Entry) (providers.Source, error) {
	r, err := p.sameCompanion(ctx, e)
	if err != nil {
		return providers.Source{}, err
	}
	if c := r.companion(e.Role); c.Reason != "" {
		return providers.Source{}, disk.Errorf(disk.Busy, "%s", c.Reason)
	}
	return p.bytes(ctx, r, "raw")
}

// sameCompanion is the record of a companion whose bytes are those that were listed.
func (p *Provider) sameCompanion(ctx context.Context, e providers.Entry) (*record, error) {
	r, err := p.record(ctx, e.ID)
	if err == nil && r.companion(e.Role).Version != e.Version {
		err = disk.Errorf(disk.Stale, "it has changed since it was listed")
	}
	return r, err
}

// listWaiting lists the companions that wait for their image.
func (p *Provider) listWaiting(ctx context.Context) ([]providers.Entry, error) {
	found, err := p.waiting(ctx)
	var entries []providers.Entry
	for _, r := range found {
		entries = append(entries, r.waitingEntry())
	}
	return entries, err
}

// waiting are the records of those.
func (p *Provider) waiting(ctx context.Context) ([]record, error) {
	found, err := p.inState(ctx, stateWaiting)
	return slices.DeleteFunc(found, func(r record) bool { return r.props[propFor] == "" || r.role() == "" }), err
}

// role is what a record that can be nothing but a companion is.
func (r *record) role() providers.Role {
	for _, role := range providers.Roles() {
		if r.DiskFormat == companionFormat(role) {
			return role
		}
	}
	return ""
}

func (r *record) waitingEntry() providers.Entry {
	e := r.companion(r.role()).Entry(r.props[propFor])
	e.Waiting = &providers.Waiting{}
	return e
}

// DeleteCompanion removes a kernel or a ramdisk that waits for its image.
func (p *Provider) DeleteCompanion(ctx context.Context, e providers.Entry) error {
	r, err := p.sameCompanion(ctx, e)
	if err == nil && r.props[propState] != stateWaiting {
		err = disk.Errorf(disk.Unsupported, "it is a part of an image")
	}
	if err == nil {
		err = p.remove(ctx, r.ID)
	}
	if err != nil {
		return fmt.Errorf("delete %s of %q: %w", e.Role, e.Name, err)
	}
	return nil
}

// setCompanionMtime is SetMtime for a companion.
func (p *Provider) setCompanionMtime(ctx context.Context, e providers.Entry, mtime time.Time) (providers.Entry, error) {
	r, err := p.sameCompanion(ctx, e)
	if err == nil && !r.companion(e.Role).Updated.Equal(mtime) {
		r, err = p.patch(ctx, r.ID, []change{put(r, propMtime, mtime.UTC().Format(time.RFC3339Nano))})
	}
	if err != nil {
		return e, err
	}
	now := r.companion(e.Role).Entry(e.Name)
	now.Waiting = e.Waiting
	return now, nil
}

// keepCompanions sees to it that metadata which is set does not take the companions from
// an image: what it does not name stays, and what it names wrongly is only noted.
func (p *Provider) keepCompanions(ctx context.Context, r *record, m *providers.Metadata) error {
	named := texts(&m.Meta)
	for _, role := range providers.Roles() {
		key := companionProp(role)
		have, want := r.props[key], named[key]
		if *want == have {
			continue
		}
		id := cmp.Or(*want, have)
		_, err := p.record(ctx, id)
		switch {
		case disk.KindOf(err) == disk.NotFound && *want != "":
			m.Props = with(maps.Clone(m.Props), providers.SourcePrefix+key, id)
			*want = have
		case disk.KindOf(err) == disk.NotFound: // of which the metadata has told, and does not any longer
		case err != nil:
			return err
		default:
			*want = id
		}
	}
	return nil
}
