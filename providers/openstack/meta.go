package openstack

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// KeepsProp is true: a property of Glance may have any key.
func (p *Provider) KeepsProp(string) bool { return true }

// SetMeta sets all metadata of an image, in one request; kernel and ramdisk stay, unless
// it names others. What it says of visibility is
// obeyed, as far as the role may; an upload never makes an image more visible.
func (p *Provider) SetMeta(ctx context.Context, e providers.Entry, m providers.Metadata) (providers.Entry, error) {
	r, err := p.same(ctx, e)
	if err == nil {
		if m.MetaTime.IsZero() && !m.Empty() {
			m.MetaTime = time.Now()
		}
		if err = p.keepCompanions(ctx, r, &m); err == nil {
			r, err = p.patch(ctx, r.ID, metaChanges(r, m))
		}
	}
	if err != nil {
		return providers.Entry{}, fmt.Errorf("set metadata of %q: %w", e.Name, err)
	}
	return r.entry(p), nil
}

// metaChanges make the metadata of a record m.
func metaChanges(r *record, m providers.Metadata) []change {
	changes := propChanges(r, m)
	visible := m.Meta.Visibility
	if visible == "" && r.Visibility != "private" && r.Visibility != "shared" {
		visible = "private"
	}
	if visible != "" && visible != r.Visibility {
		changes = append(changes, put(r, "visibility", visible))
	}
	return changes
}

// propChanges do so but for the visibility.
func propChanges(r *record, m providers.Metadata) []change {
	var changes []change
	want := properties(m)
	for _, key := range slices.Sorted(maps.Keys(r.props)) {
		if _, ok := want[key]; !ok && ofMetadata(key) {
			changes = append(changes, drop(key))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if old, ok := r.props[key]; !ok || old != want[key] {
			changes = append(changes, put(r, key, want[key]))
		}
	}
	if m.Meta.MinDisk != r.MinDisk {
		changes = append(changes, change{"replace", "/min_disk", number(m.Meta.MinDisk)})
	}
	if m.Meta.MinRAM != r.MinRAM {
		changes = append(changes, change{"replace", "/min_ram", number(m.Meta.MinRAM)})
	}
	if !sameTags(r.Tags, m.Meta.Tags) {
		changes = append(changes, change{"replace", "/tags", append([]string{}, m.Meta.Tags...)})
	}
	return changes
}

// A number is one that omitempty leaves in, also as 0.
type number int64

// MarshalJSON is the number.
func (n number) MarshalJSON() ([]byte, error) { return fmt.Append(nil, int64(n)), nil }

// ofMetadata tells whether a property is part of the metadata of an image. What the cloud
// has written of the server that it was made of is not: it stays with the image, which
// may not boot without.
func ofMetadata(key string) bool {
	return !hiddenProp(key) && !ofInstance(key) || key == propMetaTime || key == propCPUs
}

func sameTags(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// SetMtime keeps the time as a property.
func (p *Provider) SetMtime(ctx context.Context, e providers.Entry, mtime time.Time) (providers.Entry, error) {
	if e.Kind == providers.Companions {
		now, err := p.setCompanionMtime(ctx, e, mtime)
		if err != nil {
			err = fmt.Errorf("set time of the %s of %q: %w", e.Role, e.Name, err)
		}
		return now, err
	}
	r, err := p.same(ctx, e)
	if err == nil && !r.entry(p).Updated.Equal(mtime) {
		r, err = p.patch(ctx, r.ID, []change{put(r, propMtime, mtime.UTC().Format(time.RFC3339Nano))})
	}
	if err != nil {
		return providers.Entry{}, fmt.Errorf("set time of %q: %w", e.Name, err)
	}
	return r.entry(p), nil
}

// Room is what is left of the project's quota of images, where the cloud has one.
func (p *Provider) Room(ctx context.Context) (int64, bool) {
	var answer struct {
		Usage map[string]struct{ Usage, Limit int64 }
	}
	_, err := p.client.call(ctx, request{service: imageService, method: http.MethodGet, path: "/info/usage", ok: []int{http.StatusOK}}, &answer)
	size, ok := answer.Usage["image_size_total"] // MiB
	if err != nil || !ok || size.Limit < 0 {
		return 0, false
	}
	return max(0, size.Limit-size.Usage) << 20, true
}

// tagged are the tags in the order in which Glance may keep them.
func tagged(tags []string) []string {
	if len(tags) == 0 {
		return nil
	}
	tags = slices.Clone(tags)
	slices.Sort(tags)
	return tags
}

// checkMeta refuses what Glance would refuse after the upload.
func checkMeta(m providers.Metadata) error {
	for _, tag := range m.Meta.Tags {
		if len([]rune(tag)) > maxName {
			return disk.Errorf(disk.Invalid, "tag %.20q… has more than %d characters", tag, maxName)
		}
	}
	for key := range m.Props {
		if len([]rune(key)) > maxName || strings.TrimSpace(key) == "" {
			return disk.Errorf(disk.Invalid, "property %.20q: its key has 1 to %d characters", key, maxName)
		}
	}
	return nil
}
