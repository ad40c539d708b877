package ec2

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Permissions tell who may run an image besides its owner.
type Permissions struct {
	Accounts  []string // numbers, in order
	Everybody bool
}

// everybody is the one group that there is.
const everybody = types.PermissionGroupAll

// LaunchPermissions tells who may run an image. Only its owner is told.
func (c *Client) LaunchPermissions(ctx context.Context, image string) (Permissions, error) {
	out, err := call(ctx, c, "read permissions of image "+image, c.api.DescribeImageAttribute, &ec2.DescribeImageAttributeInput{
		ImageId: set(image), Attribute: types.ImageAttributeNameLaunchPermission,
	})
	if err != nil {
		return Permissions{}, err
	}
	var p Permissions
	for _, l := range out.LaunchPermissions {
		if l.Group == everybody {
			p.Everybody = true
		}
		if id := aws.ToString(l.UserId); id != "" {
			p.Accounts = append(p.Accounts, id)
		}
	}
	slices.Sort(p.Accounts)
	return p, nil
}

// ChangeLaunchPermissions gives permissions, and then takes others away. Giving what is
// there and taking what is not changes nothing.
func (c *Client) ChangeLaunchPermissions(ctx context.Context, image string, add, remove Permissions) error {
	// One request for each: Eucalyptus does not look for the other in one that has both.
	for _, m := range []types.LaunchPermissionModifications{{Add: add.list()}, {Remove: remove.list()}} {
		if len(m.Add)+len(m.Remove) == 0 {
			continue
		}
		_, err := call(ctx, c, "change permissions of image "+image, c.api.ModifyImageAttribute, &ec2.ModifyImageAttributeInput{
			ImageId: set(image), LaunchPermission: &m,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p Permissions) list() []types.LaunchPermission {
	var l []types.LaunchPermission
	for _, a := range p.Accounts {
		l = append(l, types.LaunchPermission{UserId: aws.String(a)})
	}
	if p.Everybody {
		l = append(l, types.LaunchPermission{Group: everybody})
	}
	return l
}
