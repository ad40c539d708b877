package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Metadata is what is known of an image besides its bytes, in all: what was set for
// it as a whole, or else what the provider knows of it and, where that knows
// nothing, what its container says.
func (p *Pipeline) Metadata(ctx context.Context, site string, e providers.Entry) (providers.Metadata, error) {
	if err := metaError(e); err != nil {
		return providers.Metadata{}, err
	}
	if !e.MetaTime.IsZero() {
		return e.Metadata, nil
	}
	f, err := p.facts(ctx, site, e)
	if err != nil {
		return providers.Metadata{}, err
	}
	return f.metadata(e), nil
}

// metaError tells why the metadata of an image cannot be read.
func metaError(e providers.Entry) error {
	if e.MetaReason == "" {
		return nil
	}
	err := disk.Errorf(disk.Malformed, "read metadata of %q: %s", e.Name, e.MetaReason)
	return disk.Hint(err, "mend it where it lies, or write it anew with chromogenic meta")
}

// metadata is that of Metadata.
func (f *facts) metadata(e providers.Entry) providers.Metadata {
	if !e.MetaTime.IsZero() {
		return e.Metadata
	}
	m := e.Metadata.Over(providers.Metadata{Meta: f.Meta})
	m.Meta.Name = f.Meta.Name
	return m
}

// Document is the content of <name>.json and its modification time. It follows
// from the entry and what its container says, and from nothing that is learned
// later.
func (p *Pipeline) Document(ctx context.Context, site string, e providers.Entry) ([]byte, time.Time, error) {
	m, err := p.Metadata(ctx, site, e)
	if err != nil {
		return nil, time.Time{}, err
	}
	d := providers.Document{Name: cmp.Or(e.Name, e.ID), Metadata: m}
	f, err := p.facts(ctx, site, e)
	if err != nil {
		return nil, time.Time{}, err
	}
	if len(f.Disks) > 1 {
		for i, x := range f.Disks {
			one := providers.DocumentDisk{Device: x.Device, Size: padded(x.Size)}
			if i == 0 {
				one.Device = "" // where disks are kept apart the boot disk has no name
			}
			// Nor is a disk's own bus kept everywhere: this says the same in every store.
			d.Disks = append(d.Disks, one)
		}
	}
	for _, c := range e.Companions {
		if c.Reason != "" {
			d.Notes = append(d.Notes, fmt.Sprintf("%s %s: %s", c.Role, c.ID, c.Reason))
		}
	}
	return d.Encode(), documentTime(e), nil
}

// documentTime is the modification time of <name>.json.
func documentTime(e providers.Entry) time.Time {
	for _, t := range []time.Time{e.MetaTime, e.Updated} {
		if !t.IsZero() {
			return t
		}
	}
	return e.Created
}

// SetMeta sets the metadata of an image as a whole; the zero Metadata removes what
// was set. What it says already is a success without work. What is known of the
// image is carried over to its new version.
func (p *Pipeline) SetMeta(ctx context.Context, site string, e providers.Entry, m providers.Metadata) (providers.Entry, error) {
	s, err := p.site(site)
	if err != nil {
		return e, err
	}
	setter, err := s.metaSetter(site)
	if err != nil {
		return e, err
	}
	old, err := p.Metadata(ctx, site, e)
	forget := m.MetaTime.IsZero() && m.Empty()
	if err == nil && !forget && old.Same(m) && (m.MetaTime.IsZero() || m.MetaTime.Equal(documentTime(e))) {
		return e, nil
	}
	now, err := setter.SetMeta(ctx, e, m)
	if err != nil {
		return e, fmt.Errorf("set metadata of %q of %s: %w", e.Name, site, err)
	}
	p.Forget(site)
	p.carryDigests(site, e, now)
	return now, nil
}

func (s *site) metaSetter(name string) (providers.MetaSetter, error) {
	setter, ok := s.provider.(providers.MetaSetter)
	if !ok {
		return nil, disk.Errorf(disk.Unsupported, "set metadata: provider %q keeps none", name)
	}
	return setter, nil
}

// metadata is what goes along with the image that is sent: what waits for it, or
// else what is known of the source. What the container that is sent says itself
// is not repeated.
func (j *job) metadata(p *piece) providers.Metadata {
	m := j.described(p)
	if j.rec.Cleaned {
		m.Props = withProp(maps.Clone(m.Props), cleanedProp, j.p.room.Options.Fingerprint()[:16])
	}
	return m
}

// described is what the source, or somebody who has written it, says of the image.
func (j *job) described(p *piece) providers.Metadata {
	if m, ok := j.p.HeldMeta(j.spec.Site, j.spec.Name); ok {
		silent := providers.Metadata{Meta: j.src.facts.Meta}.Empty()
		if silent && m.Empty() && m.MetaTime.Equal(j.spec.Mtime) {
			return providers.Metadata{} // no sidecar is needed to say this
		}
		m.Props = maps.Clone(m.Props)
		maps.DeleteFunc(m.Props, func(key, _ string) bool { return ofTheBytes(key) })
		return m
	}
	e := j.src.Ref.Entry
	if err := metaError(e); err != nil {
		j.p.log.Warn("copy without metadata", "job", j.rec.ID, "error", err)
	}
	if e.Metadata.Empty() && j.src.passes(p.format, p.from) {
		return providers.Metadata{}
	}
	m := providers.Metadata{Meta: j.src.meta.Meta, MetaTime: e.MetaTime}
	keeper, _ := j.site.provider.(providers.PropKeeper)
	for key, value := range j.src.meta.Props {
		if key, ok := carried(keeper, key); ok {
			m.Props = withProp(m.Props, key, value)
		}
	}
	return m
}

func withProp(props map[string]string, key, value string) map[string]string {
	if props == nil {
		props = map[string]string{}
	}
	props[key] = value
	return props
}

// ofTheBytes tells whether a property is of the source's bytes, its place or its
// signature, and of no copy of it.
func ofTheBytes(key string) bool {
	prefixes := []string{
		"img_signature", "img_hash", "os_hash_", "os_glance_", "signature_", "checksum", "stores", "locations", "direct_url",
		"owner_specified.openstack.md5", "owner_specified.openstack.sha256", "owner_specified.openstack.object",
		"chromogenic_mtime", "chromogenic_source_digest", "chromogenic_guest_digest", "chromogenic_virtual_size", "chromogenic_job",
	}
	own := strings.TrimPrefix(key, providers.SourcePrefix)
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(own, prefix) })
}

// carried is the key of a property at a destination; ok is false for one that stays
// behind. What the destination does not know is kept as the source's.
func carried(keeper providers.PropKeeper, key string) (at string, ok bool) {
	if ofTheBytes(key) {
		return "", false
	}
	if strings.HasPrefix(key, providers.SourcePrefix) || keeper != nil && keeper.KeepsProp(key) {
		return key, true
	}
	return providers.SourcePrefix + key, true
}
