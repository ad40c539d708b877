package ec2

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// The types of an image.
const (
	Machine = "machine"
	Kernel  = "kernel"
	Ramdisk = "ramdisk"
)

// InstanceStore is the RootDeviceType of what boots from a bundle; the other is EBS.
const (
	InstanceStore = "instance-store"
	EBS           = "ebs"
)

// An Image is one as the service describes it. Words are the service's.
type Image struct {
	ID, Name    string
	Location    string // "bucket/prefix/name.manifest.xml" of a bundle; owner and name of another
	State       string // "pending", "available", "failed", "deregistered"
	StateReason string
	Owner       string // the number of the account; OwnerAlias is its name where it has one
	OwnerAlias  string
	Type        string // Machine, Kernel, Ramdisk

	Architecture   string
	Platform       string // "windows", or empty
	Kernel         string
	Ramdisk        string
	RootDeviceType string // EBS or InstanceStore
	RootDevice     string
	Virtualization string // "hvm" or "paravirtual"
	BootMode       string
	Ena            bool

	Description  string
	Public       bool
	Created      time.Time // zero where it is not told
	BlockDevices []BlockDevice
	Tags         map[string]string
}

// A BlockDevice is a row of the block device mapping.
type BlockDevice struct {
	Device   string // "/dev/sda1"
	Virtual  string // "ephemeral0"; empty for a volume
	None     bool   // suppresses what the parent has
	Snapshot string // of a volume
	Size     int32  // of a volume, GiB; 0 for that of the snapshot
	Type     string // of a volume
	Delete   bool   // the volume goes with the instance
}

// An ImageFilter says which images to list; the zero one is of all that the caller may
// run. Names and tags are meant as they stand: nothing in them is a wildcard.
type ImageFilter struct {
	IDs          []string
	Owners       []string // account numbers, or "self"
	ExecutableBy []string // account numbers, "self" or "all"
	Tags         map[string]string
	Names        []string // any of these, exactly
}

// Images lists images, all of them or none. An id that does not exist fails with NotFound.
func (c *Client) Images(ctx context.Context, f ImageFilter) ([]Image, error) {
	in := &ec2.DescribeImagesInput{ImageIds: f.IDs, Owners: f.Owners, ExecutableUsers: f.ExecutableBy}
	if len(f.IDs) == 0 { // ids and pages exclude each other
		in.MaxResults = c.pageSize
	}
	if len(f.Names) > 0 {
		in.Filters = append(in.Filters, filter("name", f.Names...))
	}
	for _, key := range slices.Sorted(maps.Keys(f.Tags)) {
		in.Filters = append(in.Filters, filter("tag:"+key, f.Tags[key]))
	}
	var all []Image
	err := pages("describe images", func(next *string) (*string, error) {
		in.NextToken = next
		out, err := call(ctx, c, "describe images", c.api.DescribeImages, in)
		if err != nil {
			return nil, err
		}
		for _, i := range out.Images {
			if aws.ToString(i.ImageId) == "" {
				return nil, fmt.Errorf("describe images: %w", nonsense("an image has no id"))
			}
			if i := image(i); f.passes(i) {
				all = append(all, i)
			}
		}
		return out.NextToken, nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// filter asks for any of some values. A character that may be a wildcard, or take away the
// meaning of one, is any character: passes looks closer.
func filter(name string, values ...string) types.Filter {
	f := types.Filter{Name: aws.String(name)}
	for _, v := range values {
		f.Values = append(f.Values, anyCharacter.Replace(v))
	}
	return f
}

var anyCharacter = strings.NewReplacer("*", "?", `\`, "?")

// passes tells whether an image has a name and the tags that are asked for.
func (f ImageFilter) passes(i Image) bool {
	if len(f.Names) > 0 && !slices.Contains(f.Names, i.Name) {
		return false
	}
	for key, value := range f.Tags {
		if has, ok := i.Tags[key]; !ok || has != value {
			return false
		}
	}
	return true
}

// maxPages is how many pages a listing has at most: of 1,000 entries, a million.
const maxPages = 1000

// pages asks for one page after the other, until one is the last.
func pages(what string, page func(next *string) (*string, error)) error {
	var next *string
	for range maxPages {
		then, err := page(next)
		if err != nil || aws.ToString(then) == "" {
			return err
		}
		if aws.ToString(then) == aws.ToString(next) {
			return fmt.Errorf("%s: %w", what, nonsense("a page is followed by itself"))
		}
		next = then
	}
	return fmt.Errorf("%s: %w", what, nonsense("there are more than %d pages", maxPages))
}

func image(i types.Image) Image {
	out := Image{
		ID: aws.ToString(i.ImageId), Name: aws.ToString(i.Name), Location: aws.ToString(i.ImageLocation),
		State: string(i.State), Owner: aws.ToString(i.OwnerId), OwnerAlias: aws.ToString(i.ImageOwnerAlias),
		Type: string(i.ImageType), Architecture: string(i.Architecture), Platform: string(i.Platform),
		Kernel: aws.ToString(i.KernelId), Ramdisk: aws.ToString(i.RamdiskId),
		RootDeviceType: string(i.RootDeviceType), RootDevice: aws.ToString(i.RootDeviceName),
		Virtualization: string(i.VirtualizationType), BootMode: string(i.BootMode), Ena: aws.ToBool(i.EnaSupport),
		Description: aws.ToString(i.Description), Public: aws.ToBool(i.Public), Tags: tags(i.Tags),
	}
	if r := i.StateReason; r != nil {
		out.StateReason = cmp.Or(aws.ToString(r.Message), aws.ToString(r.Code))
	}
	if t, err := time.Parse(time.RFC3339, aws.ToString(i.CreationDate)); err == nil {
		out.Created = t.UTC()
	}
	for _, m := range i.BlockDeviceMappings {
		b := BlockDevice{Device: aws.ToString(m.DeviceName), Virtual: aws.ToString(m.VirtualName), None: m.NoDevice != nil}
		if m.Ebs != nil {
			b.Snapshot, b.Size = aws.ToString(m.Ebs.SnapshotId), aws.ToInt32(m.Ebs.VolumeSize)
			b.Type, b.Delete = string(m.Ebs.VolumeType), aws.ToBool(m.Ebs.DeleteOnTermination)
		}
		out.BlockDevices = append(out.BlockDevices, b)
	}
	return out
}

func tags(list []types.Tag) map[string]string {
	m := make(map[string]string, len(list))
	for _, t := range list {
		m[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return m
}

// A Registration says what image to register: a bundle at Location, or a snapshot among
// BlockDevices. What is empty is left to the service; Virtualization is best never, for
// Eucalyptus takes "paravirtual" then and wants a kernel.
type Registration struct {
	Name, Description string
	Location          string // "bucket/prefix/name.manifest.xml"
	Architecture      string
	Virtualization    string // "hvm"
	Kernel, Ramdisk   string
	RootDevice        string
	BlockDevices      []BlockDevice

	BootMode string // AWS: Eucalyptus refuses what it does not know
	Ena      bool   // AWS
}

// Register registers an image and gives its id. A name that is taken is Exists, a bundle
// of another account Denied. An answer without an id is an error: nothing was made then,
// as far as anybody can tell.
func (c *Client) Register(ctx context.Context, r Registration) (string, error) {
	in := &ec2.RegisterImageInput{
		Name: set(r.Name), Description: set(r.Description), ImageLocation: set(r.Location),
		Architecture: types.ArchitectureValues(r.Architecture), VirtualizationType: set(r.Virtualization),
		KernelId: set(r.Kernel), RamdiskId: set(r.Ramdisk), RootDeviceName: set(r.RootDevice),
		BootMode: types.BootModeValues(r.BootMode),
	}
	if r.Ena {
		in.EnaSupport = aws.Bool(true)
	}
	for _, b := range r.BlockDevices {
		in.BlockDeviceMappings = append(in.BlockDeviceMappings, b.mapping())
	}
	mine := func(i Image) bool { return i.Location == r.Location && r.Location != "" }
	return c.made(ctx, fmt.Sprintf("register image %q", r.Name), r.Name, mine, func(ctx context.Context) (*string, error) {
		out, err := c.api.RegisterImage(ctx, in)
		if err != nil {
			return nil, err
		}
		return out.ImageId, nil
	})
}

func (b BlockDevice) mapping() types.BlockDeviceMapping {
	m := types.BlockDeviceMapping{DeviceName: set(b.Device), VirtualName: set(b.Virtual)}
	switch {
	case b.None:
		m.NoDevice = aws.String("")
	case b.Virtual == "":
		m.Ebs = &types.EbsBlockDevice{SnapshotId: set(b.Snapshot), VolumeType: types.VolumeType(b.Type), DeleteOnTermination: aws.Bool(b.Delete)}
		if b.Size > 0 {
			m.Ebs.VolumeSize = aws.Int32(b.Size)
		}
	}
	return m
}

// set is a parameter, nil where there is none.
func set(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// CreateImage makes an image of an instance in the cloud, and gives its id; the image is
// pending. Eucalyptus makes them of instances alone that boot from a volume: others are
// Unsupported.
func (c *Client) CreateImage(ctx context.Context, instance, name, description string, noReboot bool) (string, error) {
	in := &ec2.CreateImageInput{InstanceId: set(instance), Name: set(name), Description: set(description)}
	if noReboot {
		in.NoReboot = aws.Bool(true)
	}
	begun := c.t.now().Add(-maxSkew)
	mine := func(i Image) bool { return i.Description == description && i.Created.After(begun) }
	return c.made(ctx, fmt.Sprintf("create image %q of instance %s", name, instance), name, mine, func(ctx context.Context) (*string, error) {
		out, err := c.api.CreateImage(ctx, in)
		if err != nil {
			return nil, err
		}
		return out.ImageId, nil
	})
}

// Deregister takes an image off the list. The bundle stays where it is.
func (c *Client) Deregister(ctx context.Context, id string) error {
	return c.unmade(ctx, "deregister image "+id, func(ctx context.Context) error {
		_, err := c.api.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: set(id)})
		return err
	})
}

// SetDescription sets what an image says of itself; an empty text clears it.
func (c *Client) SetDescription(ctx context.Context, id, text string) error {
	_, err := call(ctx, c, "describe image "+id, c.api.ModifyImageAttribute, &ec2.ModifyImageAttributeInput{
		ImageId: set(id), Description: &types.AttributeValue{Value: &text},
	})
	return err
}
