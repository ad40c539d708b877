package eucalyptus

import (
	"context"
	"fmt"
	"slices"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2"
)

// An image is shared with accounts by its launch permissions. There is nothing for them to
// accept: it is in their listings at once. They run it, and read its bundle only where the
// bucket lets them, or where they have a key of it.

// Share gives accounts the permission to run an image, and what it boots with first.
func (p *Provider) Share(ctx context.Context, e providers.Entry, projects []string) ([]string, error) {
	notes, err := p.share(ctx, e, projects)
	if err != nil {
		return notes, fmt.Errorf("share %q: %w", e.Name, err)
	}
	return notes, nil
}

func (p *Provider) share(ctx context.Context, e providers.Entry, projects []string) (notes []string, err error) {
	s, r, err := p.mine(ctx, e)
	if err == nil {
		err = accounts(projects)
	}
	if err != nil {
		return nil, err
	}
	for _, role := range providers.Roles() {
		id := r.boots(role)
		if id == "" {
			continue
		}
		c, err := p.record(ctx, id)
		switch {
		case disk.KindOf(err) == disk.NotFound:
			notes = append(notes, fmt.Sprintf("its %s %s is not there", role, id))
		case err != nil:
			return notes, err
		case c.Public:
		case !s.mine(c):
			notes = append(notes, fmt.Sprintf("its %s %s is of account %s, which has to share it too", role, id, c.Owner))
		default:
			if err := s.ec2.ChangeLaunchPermissions(ctx, id, ec2.Permissions{Accounts: projects}, ec2.Permissions{}); err != nil {
				return notes, fmt.Errorf("its %s: %w", role, err)
			}
		}
	}
	if err := s.ec2.ChangeLaunchPermissions(ctx, r.ID, ec2.Permissions{Accounts: projects}, ec2.Permissions{}); err != nil {
		return notes, err
	}
	return append(notes, "they can run it; to read its bytes they need the private key that its bundle was made for"), nil
}

// Unshare takes the permission back, of what the image boots with too, unless another image
// that is shared with the same account needs that.
func (p *Provider) Unshare(ctx context.Context, e providers.Entry, projects []string) ([]string, error) {
	notes, err := p.unshare(ctx, e, projects)
	if err != nil {
		return notes, fmt.Errorf("unshare %q: %w", e.Name, err)
	}
	return notes, nil
}

func (p *Provider) unshare(ctx context.Context, e providers.Entry, projects []string) (notes []string, err error) {
	s, r, err := p.mine(ctx, e)
	if err == nil {
		err = accounts(projects)
	}
	if err == nil {
		err = s.ec2.ChangeLaunchPermissions(ctx, r.ID, ec2.Permissions{}, ec2.Permissions{Accounts: projects})
	}
	if err != nil || r.boots(providers.Kernel)+r.boots(providers.Ramdisk) == "" {
		return nil, err
	}
	records, err := p.ownRecords(ctx)
	if err != nil {
		return nil, err
	}
	all := byID(records)
	for _, role := range providers.Roles() {
		c := all[r.boots(role)]
		if c == nil {
			continue
		}
		gone := []string{}
		for _, account := range projects {
			user, err := p.sharedUser(ctx, s, records, c.ID, r.ID, account)
			if err != nil {
				return notes, err
			}
			if user == "" {
				gone = append(gone, account)
				continue
			}
			notes = append(notes, fmt.Sprintf("its %s %s stays shared with account %s, for image %s boots with it too", role, c.ID, account, user))
		}
		if len(gone) > 0 {
			if err := s.ec2.ChangeLaunchPermissions(ctx, c.ID, ec2.Permissions{}, ec2.Permissions{Accounts: gone}); err != nil {
				return notes, fmt.Errorf("its %s: %w", role, err)
			}
		}
	}
	return notes, nil
}

// sharedUser is an image, but for one, that boots with a companion and is shared with an
// account; empty for none.
func (p *Provider) sharedUser(ctx context.Context, s *session, records []record, companion, but, account string) (string, error) {
	for _, r := range records {
		if r.ID == but || !r.needs(companion) {
			continue
		}
		may, err := s.ec2.LaunchPermissions(ctx, r.ID)
		if err != nil {
			return "", err
		}
		if slices.Contains(may.Accounts, account) {
			return r.ID, nil
		}
	}
	return "", nil
}

// Members are the accounts that may run an image. Its owner alone is told.
func (p *Provider) Members(ctx context.Context, e providers.Entry) ([]providers.Member, error) {
	s, r, err := p.mine(ctx, e)
	var may ec2.Permissions
	if err == nil {
		may, err = s.ec2.LaunchPermissions(ctx, r.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("list members of %q: %w", e.Name, err)
	}
	var members []providers.Member
	for _, account := range may.Accounts {
		if account != s.account {
			members = append(members, providers.Member{ID: account, Status: providers.MemberAccepted})
		}
	}
	return members, nil
}

// Answer changes nothing: what is shared is accepted.
func (p *Provider) Answer(ctx context.Context, e providers.Entry, accept bool) error {
	if _, err := p.same(ctx, e); err != nil {
		return fmt.Errorf("answer to the offer of %q: %w", e.Name, err)
	}
	if !accept {
		err := disk.Errorf(disk.Unsupported, "answer to the offer of %q: an account cannot turn down what is shared with it", e.Name)
		return disk.Hint(err, "its owner can take it back")
	}
	return nil
}

// Offers are none: what is shared with the account is in its listing.
func (p *Provider) Offers(context.Context) ([]providers.Offer, error) { return nil, nil }

// accounts refuses what is no number of an account. A name cannot be looked up by others
// than the administrators of the cloud.
func accounts(projects []string) error {
	for _, project := range projects {
		if !isAccount(project) {
			err := disk.Errorf(disk.NotFound, "find account %q: it is no number of 12 digits", project)
			return disk.Hint(err, "its users find it in their eucarc, as EC2_ACCOUNT_NUMBER")
		}
	}
	return nil
}
