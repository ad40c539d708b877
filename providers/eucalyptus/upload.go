package eucalyptus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
)

// stored is the format of what a bundle holds.
const stored = "raw"

// Accepts gives raw: a bundle is the one thing that the cloud stores.
func (p *Provider) Accepts(spec providers.Spec) ([]string, error) {
	if s := cmp.Or(spec.Store, stored); s != stored && s != "source" && s != "bundle" {
		return nil, disk.Errorf(disk.Unsupported, "take image: Eucalyptus keeps bundles of raw disks alone, not %q", s)
	}
	return []string{stored}, nil
}

// Begin writes the journal of an upload. Nothing is in the cloud before the first part is
// sent.
func (p *Provider) Begin(ctx context.Context, spec providers.Spec) (providers.Upload, error) {
	u, err := p.begin(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("begin upload of %.80q: %w", spec.Name, err)
	}
	return u, nil
}

func (p *Provider) begin(ctx context.Context, spec providers.Spec) (*upload, error) {
	s, err := p.session(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.check(ctx, s, spec); err != nil {
		return nil, err
	}
	j, err := p.newJournal(s, spec.Job, spec.Name, spec.Size)
	if err != nil {
		return nil, err
	}
	j.Role = string(spec.Role)
	if err := j.write(); err != nil {
		return nil, errors.Join(err, j.remove())
	}
	return &upload{p: p, s: s, spec: spec, j: j}, nil
}

// check refuses what can be known to fail.
func (p *Provider) check(ctx context.Context, s *session, spec providers.Spec) error {
	switch {
	case spec.Role != "" && spec.Role != providers.Kernel && spec.Role != providers.Ramdisk:
		return disk.Errorf(disk.Invalid, "there is no role %q beside an image", spec.Role)
	case spec.Disk != 0:
		return disk.Errorf(disk.Unsupported, "an image has one disk here")
	case spec.Format != stored:
		return disk.Errorf(disk.Invalid, "format %q is not %q, which is stored here", spec.Format, stored)
	case spec.Size == 0:
		return disk.Errorf(disk.Invalid, "it is empty: there are no bundles of that")
	case spec.Size < 0:
		return disk.Errorf(disk.Invalid, "size %d", spec.Size)
	}
	if err := checkName(spec.Name); err != nil {
		return err
	}
	if _, err := s.sealing(ctx); err != nil {
		return err
	}
	own, err := ownTags(spec.Job, spec.Name, "", spec.Size, spec.Mtime)
	if err == nil {
		_, _, err = kept(spec.Metadata, own)
	}
	if err != nil || spec.Role != "" {
		return err
	}
	return p.replaceable(ctx, s, spec)
}

// replaceable refuses a name that another image has than the one to be replaced.
func (p *Provider) replaceable(ctx context.Context, s *session, spec providers.Spec) error {
	var own []string
	if old := spec.Replaces; old != nil {
		r, err := p.same(ctx, *old)
		if err != nil {
			return err
		}
		if !s.mine(r) {
			return disk.Hint(disk.Errorf(disk.Denied, "image %s, which it would replace, is of account %s", r.ID, r.Owner), "give the new one another name")
		}
		own = append(own, old.ID)
	}
	return p.refuseTaken(ctx, spec.Name, own...)
}

// refuseTaken fails where another image than own has the name.
func (p *Provider) refuseTaken(ctx context.Context, name string, own ...string) error {
	found, err := p.named(ctx, name)
	if err != nil {
		return err
	}
	for _, r := range found {
		if state, _, _ := r.state(); state == "" && !slices.Contains(own, r.ID) {
			return disk.Errorf(disk.Exists, "image %s has that name", r.ID)
		}
	}
	return nil
}

// An upload is a bundle on its way.
type upload struct {
	p    *Provider
	s    *session
	spec providers.Spec
	j    *journal

	manifest *bundle.Manifest // what was sent; nil before
	parts    map[string]sentPart
	index    *sentPart // nil for none
	digest   string
	id       string // of the image, when it is registered
	done     bool   // committed, aborted or suspended
}

// Token is the name of the journal.
func (u *upload) Token() []byte { return []byte(u.j.token) }

// Suspend leaves journal and parts.
func (u *upload) Suspend() error {
	if !u.done {
		u.done = true
		u.p.own(u.id, false)
		u.j.close()
	}
	return nil
}

// Resume takes up an upload by its journal. Parts that are there are not sent again.
func (p *Provider) Resume(ctx context.Context, spec providers.Spec, token []byte) (providers.Upload, error) {
	u, err := p.resume(ctx, spec, string(token))
	if err != nil {
		return nil, fmt.Errorf("resume upload of %.80q: %w", spec.Name, err)
	}
	return u, nil
}

func (p *Provider) resume(ctx context.Context, spec providers.Spec, token string) (*upload, error) {
	j, err := p.journal(token)
	if err != nil {
		return nil, err
	}
	s, err := p.session(ctx)
	if err != nil {
		j.close()
		return nil, err
	}
	if spec.Name != "" && (j.Job != spec.Job || j.Name != spec.Name || j.Size != spec.Size || j.Role != string(spec.Role)) {
		err := disk.Errorf(disk.Invalid, "upload %s is of another job, or of another image", token)
		return nil, errors.Join(err, p.undo(ctx, j)) // nobody goes on with it
	}
	return &upload{p: p, s: s, spec: spec, j: j}, nil
}

// abortTime is how long what was made is removed.
const abortTime = 2 * time.Minute

// Abort removes what was registered and stored, for a cancelled context too. Where it
// cannot, that is left over.
func (u *upload) Abort(ctx context.Context) error {
	if u.done {
		return nil
	}
	u.done = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	if err := u.p.undo(ctx, u.j); err != nil {
		u.j.close()
		return fmt.Errorf("abort upload of %.80q: %w", u.spec.Name, err)
	}
	return nil
}
