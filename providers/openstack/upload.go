package openstack

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/process"
)

// defaultStore is the format that images are kept in when nothing else is said: what
// every OpenStack takes, and what has holes.
const defaultStore = "qcow2"

// Accepts gives the one format: that of the spec's store, else of the provider's, or the
// one that is handed over; where neither says one, raw for what boots with a kernel of
// its own, as AMIs are. A cloud does not boot an ova, so none is sent unless it is
// asked for by that name.
func (p *Provider) Accepts(spec providers.Spec) ([]string, error) {
	usual := defaultStore
	if len(spec.Companions) > 0 {
		usual = "raw"
	}
	format := cmp.Or(spec.Store, p.o.Store, usual)
	if format == "source" {
		if format = spec.Format; format == "ova" || format == "ovf" {
			format = defaultStore
		}
	}
	if _, ok := glanceFormats()[format]; !ok {
		return nil, disk.Errorf(disk.Unsupported, "take image: Glance has no format %q", format)
	}
	return []string{format}, nil
}

// glanceFormats are the disk formats and container formats of those that we send.
func glanceFormats() map[string][2]string {
	return map[string][2]string{
		"raw": {"raw", "bare"}, "qcow2": {"qcow2", "bare"}, "vmdk": {"vmdk", "bare"}, "vhd": {"vhd", "bare"},
		"vhdx": {"vhdx", "bare"}, "vdi": {"vdi", "bare"}, "ova": {"vmdk", "ova"}, "iso": {"iso", "bare"},
	}
}

// Begin makes the record of an image: private, with a name that says that it is not
// finished, and all that is known of it.
func (p *Provider) Begin(ctx context.Context, spec providers.Spec) (providers.Upload, error) {
	u, err := p.begin(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("begin upload of %.80q: %w", spec.Name, err)
	}
	return u, nil
}

func (p *Provider) begin(ctx context.Context, spec providers.Spec) (*upload, error) {
	if spec.Role != "" {
		return p.beginCompanion(ctx, spec)
	}
	if err := p.check(ctx, spec); err != nil {
		return nil, err
	}
	u := &upload{p: p, spec: spec, id: newID()}
	u.token = u.id
	p.own(u.id, true)
	if err := u.create(ctx); err != nil {
		return nil, errors.Join(err, u.unmake(ctx, err))
	}
	return u, nil
}

// unmake removes the record that a request has made whose answer was lost, or was not
// waited for.
func (u *upload) unmake(ctx context.Context, why error) error {
	defer u.p.own(u.id, false)
	if !unsure(ctx, why) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lostTime)
	defer cancel()
	if err := u.p.remove(ctx, u.id); err != nil && ctx.Err() == nil {
		return fmt.Errorf("remove what may have been made: %w", err)
	}
	return nil // the cloud is away: gc finds it
}

// check refuses what can be known to fail.
func (p *Provider) check(ctx context.Context, spec providers.Spec) error {
	accepted, err := p.Accepts(spec)
	switch {
	case err != nil:
		return err
	case !slices.Contains(accepted, spec.Format):
		return disk.Errorf(disk.Invalid, "format %q is not %q, which is stored here", spec.Format, accepted[0])
	case spec.Size < 0:
		return disk.Errorf(disk.Invalid, "size %d", spec.Size)
	}
	if err := checkName(spec.Name); err != nil {
		return err
	}
	if err := checkMeta(spec.Metadata); err != nil {
		return err
	}
	var own []string
	if old := spec.Replaces; old != nil {
		r, err := p.same(ctx, *old)
		if err != nil {
			return err
		}
		if r.Protected {
			return disk.Errorf(disk.Busy, "image %s, which it would replace, is protected", r.ID)
		}
		s, err := p.client.account(ctx)
		if err != nil {
			return err
		}
		if !s.mine(r) {
			return disk.Hint(disk.Errorf(disk.Denied, "image %s, which it would replace, is of another project", r.ID), "give the new one another name")
		}
		own = append(own, old.ID)
	}
	if err := p.refuseTaken(ctx, spec.Name, own...); err != nil {
		return err
	}
	if free, ok := p.Room(ctx); ok && spec.Size > free {
		return disk.Errorf(disk.Quota, "it has %d bytes, and %d are left of the quota", spec.Size, free)
	}
	return nil
}

// unsure tells whether a request that has failed may have been met all the same: its answer
// was lost, or not waited for. It was refused otherwise.
func unsure(ctx context.Context, err error) bool {
	kind := disk.KindOf(err)
	return ctx.Err() != nil || kind == disk.Unreachable || kind == disk.Timeout
}

// lostTime is how long it is looked for what a lost request has made.
const lostTime = 10 * time.Second

// newID is a random UUID, version 4 of RFC 9562.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// An upload is an image on its way.
type upload struct {
	p     *Provider
	spec  providers.Spec
	id    string // ours, so that the record is known before it is made
	token string // the id at the beginning
	sent  string // the SHA-512 of what Send was given
	done  bool   // committed, aborted or suspended

	late   bool // of a companion: there is no record yet
	reused bool // of a companion: the record is another's, and stays
}

// Token is the image's id.
func (u *upload) Token() []byte { return []byte(u.token) }

// Suspend leaves the record. Bytes that were sent in part are gone: Glance keeps none.
func (u *upload) Suspend() error {
	u.end()
	return nil
}

func (u *upload) end() {
	u.done = true
	u.p.own(u.id, false)
}

// create makes the record. A record of our id that is there already was made by a try
// whose answer was lost.
func (u *upload) create(ctx context.Context) error {
	format := glanceFormats()[u.spec.Format]
	if format == [2]string{"raw", "bare"} && len(u.spec.Companions) > 0 {
		format = [2]string{"ami", "ami"}
	}
	if u.spec.Role != "" {
		format = [2]string{companionFormat(u.spec.Role), companionFormat(u.spec.Role)}
	}
	body := map[string]any{
		"id": u.id, "name": "chromogenic upload " + u.spec.Job, "visibility": "private",
		"disk_format": format[0], "container_format": format[1],
		propState: stateUpload, propJob: u.spec.Job, propHost: process.Name(),
		"min_disk": u.spec.Meta.MinDisk, "min_ram": u.spec.Meta.MinRAM,
	}
	if tags := tagged(u.spec.Meta.Tags); tags != nil {
		body["tags"] = tags
	}
	props, err := u.properties(ctx)
	if err != nil {
		return err
	}
	for key, value := range props {
		body[key] = value
	}
	if !u.spec.Mtime.IsZero() {
		body[propMtime] = u.spec.Mtime.UTC().Format(time.RFC3339Nano)
	}
	_, err = u.p.client.call(ctx, request{
		service: imageService, method: http.MethodPost, path: "/images", json: body,
		ok: []int{http.StatusCreated, http.StatusConflict},
	}, nil)
	return err
}

// properties are those that the image gets: its own, and those of the configuration
// where it has none. A kernel and a ramdisk that do not come along are named by their
// ids, which mean nothing in another cloud.
func (u *upload) properties(ctx context.Context) (map[string]string, error) {
	props := properties(u.spec.Metadata)
	if u.spec.Role != "" {
		return props, nil
	}
	for key, value := range u.p.o.Properties {
		if _, ok := props[key]; !ok {
			props[key] = value
		}
	}
	for _, role := range providers.Roles() {
		key := companionProp(role)
		if id := props[key]; id != "" {
			switch _, err := u.p.record(ctx, id); {
			case disk.KindOf(err) == disk.NotFound:
				delete(props, key)
				props[providers.SourcePrefix+key] = id
			case err != nil:
				return nil, fmt.Errorf("look for its %s: %w", role, err)
			}
		}
	}
	all, err := u.companions()
	for _, c := range all {
		props[companionProp(c.role)] = c.id
	}
	return props, err
}

// Resume finds the record of an upload that another process has begun.
func (p *Provider) Resume(ctx context.Context, spec providers.Spec, token []byte) (providers.Upload, error) {
	r, err := p.record(ctx, string(token))
	switch {
	case err != nil:
	case r.props[propState] != stateUpload && r.props[propState] != stateCommit:
		err = disk.Errorf(disk.NotFound, "image %s is no upload", r.ID)
	case p.working(r):
		err = disk.Errorf(disk.Busy, "somebody else works on it")
	case spec.Name == "":
	case r.props[propJob] != spec.Job || !resumes(r, spec):
		err = disk.Errorf(disk.Invalid, "image %s is of another job", r.ID)
	case r.Status == "active" && r.size() != spec.Size:
		err = disk.Errorf(disk.Invalid, "it has %d bytes, not %d", r.size(), spec.Size)
	}
	if err != nil {
		if disk.KindOf(err) == disk.Invalid {
			_ = p.remove(ctx, string(token)) // nobody goes on with it; gc looks again
		}
		return nil, fmt.Errorf("resume upload of %.80q: %w", spec.Name, err)
	}
	p.own(r.ID, true)
	return &upload{p: p, spec: spec, id: r.ID, token: r.ID}, nil
}

// resumes tells whether a record is of the format of an upload.
func resumes(r *record, spec providers.Spec) bool {
	if spec.Role != "" {
		return r.DiskFormat == companionFormat(spec.Role)
	}
	return r.DiskFormat == glanceFormats()[spec.Format][0] || r.DiskFormat == "ami" && spec.Format == "raw"
}

// Verify compares what the image service says of the bytes with what was sent. Where
// it gives a digest that we did not make, the image is read back.
func (u *upload) Verify(ctx context.Context) (providers.Digest, error) {
	d, err := u.verify(ctx)
	if err != nil {
		return providers.Digest{}, fmt.Errorf("verify %.80q: %w", u.spec.Name, err)
	}
	return d, nil
}

func (u *upload) verify(ctx context.Context) (providers.Digest, error) {
	r, err := u.p.record(ctx, u.id)
	if err != nil {
		return providers.Digest{}, err
	}
	switch {
	case r.Status != "active":
		return providers.Digest{}, disk.Errorf(disk.Other, "the image is %s after all was sent", r.Status)
	case r.size() != u.spec.Size:
		return providers.Digest{}, disk.Errorf(disk.Malformed, "the cloud holds %d bytes, %d were sent", r.size(), u.spec.Size)
	case r.HashAlgo == "sha512" && u.sent != "":
		return providers.Digest{Algorithm: r.HashAlgo, Sum: r.HashValue, Sent: u.sent}, nil
	}
	src, err := u.p.source(ctx, r)
	if err != nil {
		return providers.Digest{}, err
	}
	defer src.Close()
	sum, err := disk.Sum(ctx, src, nil)
	return providers.Digest{Algorithm: disk.DigestAlgorithm, Sum: sum}, err
}

// Commit gives the image its name and takes the mark of an upload from it.
func (u *upload) Commit(ctx context.Context) (providers.Entry, error) {
	e, err := u.commit(ctx)
	if err != nil {
		return providers.Entry{}, fmt.Errorf("commit upload of %.80q: %w", u.spec.Name, err)
	}
	u.end()
	return e, nil
}

func (u *upload) commit(ctx context.Context) (providers.Entry, error) {
	if u.spec.Role != "" {
		return u.commitCompanion(ctx)
	}
	r, err := u.p.record(ctx, u.id)
	if err != nil {
		return providers.Entry{}, err
	}
	beside, err := u.companions()
	if err != nil {
		return providers.Entry{}, err
	}
	own := []string{u.id}
	if old := u.spec.Replaces; old != nil {
		own = append(own, old.ID)
	}
	if err := u.p.refuseTaken(ctx, u.spec.Name, own...); err != nil {
		return providers.Entry{}, err
	}
	if err := u.readyCompanions(ctx, beside); err != nil {
		return providers.Entry{}, err
	}
	named := []change{put(r, propState, stateCommit), put(r, "name", u.spec.Name)}
	for _, c := range beside { // others than at the beginning, if this job was resumed
		named = append(named, put(r, companionProp(c.role), c.id))
	}
	inherited, err := u.inherited(ctx)
	if err != nil {
		return providers.Entry{}, err
	}
	for _, c := range inherited {
		named = append(named, put(r, companionProp(c.role), c.id))
	}
	if _, err := u.p.patch(ctx, u.id, named); err != nil {
		return providers.Entry{}, err
	}
	if err := u.win(ctx, own); err != nil {
		return providers.Entry{}, err
	}
	changes := []change{drop(propState), drop(propJob), drop(propHost)}
	if r, err = u.p.patch(ctx, u.id, changes); err != nil {
		return providers.Entry{}, err
	}
	if r, err = u.finishCompanions(ctx, r, beside); err != nil {
		return providers.Entry{}, err
	}
	if r, err = u.complete(ctx, r); err != nil {
		return providers.Entry{}, err
	}
	u.end() // from here on it stays: what it replaces may go at any moment
	for _, c := range beside {
		c.upload.end()
	}
	if old := u.spec.Replaces; old != nil {
		if err := u.p.delete(context.WithoutCancel(ctx), *old); err != nil && disk.KindOf(err) != disk.NotFound {
			return providers.Entry{}, fmt.Errorf("the image is there, as %s; remove the one that it replaces: %w", u.id, err)
		}
	}
	return r.entry(u.p), nil
}

// rivalTime is how long a rival for a name may take to make up its mind; after that it
// is taken for dead.
const rivalTime = 30 * time.Second

// win waits until it is sure that nobody else takes the name. Glance lets several images
// have one, so each that wants it says so first (stateCommit), and then looks. Of those
// who see each other the one of the least id goes on when all others are gone, and
// these withdraw; who sees one that has the name withdraws too. So one at most stays:
// of two, the later to say so sees the other.
func (u *upload) win(ctx context.Context, own []string) error {
	seen := map[string]bool{} // that have the name: Glance shows one that is being deleted so, for a moment
	for began := time.Now(); ; {
		found, err := u.p.named(ctx, u.spec.Name)
		if err != nil {
			return err
		}
		rivals, fresh := false, false
		for _, r := range found {
			switch {
			case slices.Contains(own, r.ID):
			case r.props[propState] == "" && !seen[r.ID]:
				seen[r.ID], rivals, fresh = true, true, true
			case r.props[propState] == "":
				return disk.Errorf(disk.Exists, "image %s has taken that name meanwhile", r.ID)
			case !u.p.working(&r): // a crash has left it
			case r.ID < u.id:
				return disk.Errorf(disk.Exists, "image %s is about to take that name", r.ID)
			default:
				rivals = true
			}
		}
		if !rivals || !fresh && time.Since(began) > rivalTime {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// complete sets again what the record does not say although it was sent: a service may
// put its own in the place of properties while an image is saved.
func (u *upload) complete(ctx context.Context, r *record) (*record, error) {
	var changes []change
	props, err := u.properties(ctx)
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(props)) {
		if have, ok := r.props[key]; !ok || have != props[key] {
			changes = append(changes, put(r, key, props[key]))
		}
	}
	if len(changes) == 0 {
		return r, nil
	}
	return u.p.patch(ctx, r.ID, changes)
}

// Abort removes the record and its bytes, for a cancelled context too. Where it cannot,
// they are left over.
func (u *upload) Abort(ctx context.Context) error {
	if u.done {
		return nil
	}
	defer u.end()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if u.reused { // it is of others
		return nil
	}
	if err := u.p.remove(ctx, u.id); err != nil {
		return fmt.Errorf("abort upload of %.80q: %w", strings.TrimSpace(u.spec.Name), err)
	}
	return nil
}
