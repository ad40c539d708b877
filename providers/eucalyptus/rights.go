package eucalyptus

import (
	"context"
	"fmt"

	"chromogenic/disk"
	"chromogenic/providers"
)

// MayUpload looks for the keys without which no bundle can be made.
func (p *Provider) MayUpload(ctx context.Context) error {
	s, err := p.session(ctx)
	if err != nil {
		if disk.KindOf(err) == disk.Denied {
			return err
		}
		return nil
	}
	_, err = s.sealing(ctx)
	return err
}

// Rights asks what costs nothing and changes nothing. Of the rest the policies of Eucalyptus
// tell only who tries.
func (p *Provider) Rights(ctx context.Context) ([]providers.Right, error) {
	s, err := p.session(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for rights: %w", err)
	}
	_, listed := p.everyRecord(ctx)
	_, machines := s.ec2.Instances(ctx)
	rights := []providers.Right{
		right("list images", listed, "they were listed"),
		right("list instances", machines, "they were listed"),
	}
	keys, looked, err := s.cred.readingKeys()
	if err == nil && len(keys) == 0 {
		err = disk.Errorf(disk.Denied, "there is no private key in %v", looked)
	}
	rights = append(rights, right("read images", err, fmt.Sprintf("%d private keys are at hand, for bundles that were made for them", len(keys))))
	if _, err := s.sealing(ctx); err != nil {
		return append(rights, right("upload images", err, "")), nil
	}
	bucket := p.bucketName(s)
	_, err = s.store.list(ctx, place{bucket: bucket, key: "-"})
	if disk.KindOf(err) == disk.NotFound {
		return append(rights, providers.Right{What: "upload images", May: providers.Unknown, How: "the keys are there, and bucket " + bucket + " is not yet"}), nil
	}
	how := "the keys are there, and bucket " + bucket + " answers; whether images may be registered only doing it tells"
	r := right("upload images", err, how)
	if err == nil {
		r.May = providers.Unknown
	}
	return append(rights, r), nil
}

// right is what the answer to a request says of a right.
func right(what string, err error, how string) providers.Right {
	switch {
	case err == nil:
		return providers.Right{What: what, May: providers.Yes, How: how}
	case disk.KindOf(err) == disk.Denied:
		return providers.Right{What: what, May: providers.No, How: err.Error()}
	}
	return providers.Right{What: what, May: providers.Unknown, How: err.Error()}
}
