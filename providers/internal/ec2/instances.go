package ec2

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// An Instance is a machine as the service describes it. Words are the service's.
type Instance struct {
	ID, Image   string
	State       string // "pending", "running", "stopping", "stopped", "shutting-down", "terminated"
	StateReason string
	Owner       string // the number of the account

	RootDeviceType string // EBS or InstanceStore
	RootDevice     string
	Kernel         string
	Ramdisk        string
	Architecture   string
	Virtualization string
	BootMode       string
	Type           string // "m1.small"
	KeyName        string
	Platform       string
	NodeHint       string // where it runs, as far as users are told: the availability zone

	Launched       time.Time // zero where it is not told
	PrivateAddress string
	PublicAddress  string
	BlockDevices   []AttachedVolume
	Tags           map[string]string
}

// An AttachedVolume is a volume of an instance.
type AttachedVolume struct {
	Device, Volume string
	Status         string
	Attached       time.Time
	Delete         bool // it goes with the instance
}

// Instances lists instances of the account, all of them or those of ids, and none where
// anything fails. An id that does not exist fails with NotFound.
func (c *Client) Instances(ctx context.Context, ids ...string) ([]Instance, error) {
	in := &ec2.DescribeInstancesInput{InstanceIds: ids}
	if len(ids) == 0 {
		in.MaxResults = c.pageSize
	}
	var all []Instance
	err := pages("describe instances", func(next *string) (*string, error) {
		in.NextToken = next
		out, err := call(ctx, c, "describe instances", c.api.DescribeInstances, in)
		if err != nil {
			return nil, err
		}
		for _, r := range out.Reservations {
			for _, i := range r.Instances {
				if aws.ToString(i.InstanceId) == "" {
					return nil, fmt.Errorf("describe instances: %w", nonsense("an instance has no id"))
				}
				all = append(all, instance(aws.ToString(r.OwnerId), i))
			}
		}
		return out.NextToken, nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func instance(owner string, i types.Instance) Instance {
	out := Instance{
		ID: aws.ToString(i.InstanceId), Image: aws.ToString(i.ImageId), Owner: owner,
		RootDeviceType: string(i.RootDeviceType), RootDevice: aws.ToString(i.RootDeviceName),
		Kernel: aws.ToString(i.KernelId), Ramdisk: aws.ToString(i.RamdiskId),
		Architecture: string(i.Architecture), Virtualization: string(i.VirtualizationType), BootMode: string(i.BootMode),
		Type: string(i.InstanceType), KeyName: aws.ToString(i.KeyName), Platform: string(i.Platform),
		Launched:       aws.ToTime(i.LaunchTime),
		PrivateAddress: aws.ToString(i.PrivateIpAddress), PublicAddress: aws.ToString(i.PublicIpAddress),
		Tags: tags(i.Tags),
	}
	if i.State != nil {
		out.State = string(i.State.Name)
	}
	if i.StateReason != nil {
		out.StateReason = aws.ToString(i.StateReason.Message)
	}
	if i.Placement != nil {
		out.NodeHint = aws.ToString(i.Placement.AvailabilityZone)
	}
	for _, m := range i.BlockDeviceMappings {
		v := AttachedVolume{Device: aws.ToString(m.DeviceName)}
		if m.Ebs != nil {
			v.Volume, v.Status = aws.ToString(m.Ebs.VolumeId), string(m.Ebs.Status)
			v.Attached, v.Delete = aws.ToTime(m.Ebs.AttachTime), aws.ToBool(m.Ebs.DeleteOnTermination)
		}
		out.BlockDevices = append(out.BlockDevices, v)
	}
	return out
}
