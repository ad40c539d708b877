package ec2test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// An image is one that is registered.
type image struct {
	id, name, location, description string
	state                           string
	owner                           *Account
	kind                            string // machine, kernel, ramdisk
	arch, kernel, ramdisk           string
	platform, root, rootType, virt  string
	public                          bool
	launch                          []string // accounts that may run it
	created                         time.Time
	devices                         []device
	size                            int64
}

// A device is a row of a block device mapping.
type device struct {
	Device   string  `xml:"deviceName"`
	Virtual  string  `xml:"virtualName,omitempty"`
	NoDevice *string `xml:"noDevice"`
	Ebs      *struct {
		Snapshot string `xml:"snapshotId,omitempty"`
		Size     int    `xml:"volumeSize,omitempty"`
		Delete   bool   `xml:"deleteOnTermination"`
	} `xml:"ebs"`
}

type tagItem struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

type imageItem struct {
	ID             string    `xml:"imageId"`
	Location       string    `xml:"imageLocation"`
	State          string    `xml:"imageState"`
	Owner          string    `xml:"imageOwnerId"`
	Public         bool      `xml:"isPublic"`
	Arch           string    `xml:"architecture"`
	Kind           string    `xml:"imageType"`
	Kernel         string    `xml:"kernelId,omitempty"`
	Ramdisk        string    `xml:"ramdiskId,omitempty"`
	Platform       string    `xml:"platform,omitempty"`
	Name           string    `xml:"name"`
	Description    string    `xml:"description,omitempty"`
	RootDeviceType string    `xml:"rootDeviceType"`
	RootDevice     string    `xml:"rootDeviceName"`
	Devices        []device  `xml:"blockDeviceMapping>item"`
	Virtualization string    `xml:"virtualizationType"`
	Tags           []tagItem `xml:"tagSet>item"`
	Created        string    `xml:"creationDate"`
}

// stamp is a time as Eucalyptus writes it.
const stamp = "2006-01-02T15:04:05.000Z"

// sees tells whether an account may run an image.
func (i *image) sees(a *Account) bool {
	return i.owner == a || i.public || slices.Contains(i.launch, a.Number)
}

// image finds one that a query names, for who may see it.
func (c *Cloud) image(q *query, id string) (*image, *refusal) {
	if !imageID.MatchString(id) {
		return nil, failure("Invalid id: %q", id)
	}
	for _, i := range c.images {
		if i.id == id && (i.sees(q.who) || q.admin) {
			return i, nil
		}
	}
	return nil, refuse(http.StatusBadRequest, "InvalidAMIID.NotFound", "The image ID '%s' does not exist", id)
}

var imageID = regexp.MustCompile(`^(emi|eki|eri)-[0-9a-f]{8}$`)

// owned is an image that a query may change.
func (c *Cloud) owned(q *query, what string) (*image, *refusal) {
	i, e := c.image(q, q.form.Get("ImageId"))
	if e != nil {
		return nil, e
	}
	if i.owner != q.who && !q.admin {
		return nil, failure("Not authorized to %s", what)
	}
	return i, nil
}

func (c *Cloud) describeImages(q *query) (any, *refusal) {
	ids, owners, by := q.list("ImageId"), q.list("Owner"), q.list("ExecutableBy")
	for _, id := range ids {
		if _, e := c.image(q, id); e != nil {
			return nil, e
		}
	}
	filters := q.filters()
	all := []*image{}
	for _, i := range c.images {
		passes, e := match(filters, func(name string) ([]string, bool) { return c.about(i, name) })
		switch {
		case e != nil:
			return nil, e
		case !passes || !i.sees(q.who):
		case len(ids) > 0 && !slices.Contains(ids, i.id):
		case len(owners) > 0 && !slices.Contains(owners, i.owner.Number) && (!slices.Contains(owners, "self") || i.owner != q.who):
		case len(by) > 0 && !i.executableBy(q.who, by):
		default:
			all = append(all, i)
		}
	}
	from, to, next, e := c.window(q, len(all))
	if e != nil {
		return nil, e
	}
	out := struct {
		Items []imageItem `xml:"imagesSet>item"`
		Next  string      `xml:"nextToken,omitempty"`
	}{Next: next}
	for _, i := range all[from:to] {
		out.Items = append(out.Items, c.item(i))
	}
	if len(out.Items) == 0 {
		return struct {
			Items struct{} `xml:"imagesSet"`
		}{}, nil
	}
	return out, nil
}

func (i *image) executableBy(who *Account, by []string) bool {
	return slices.ContainsFunc(by, func(b string) bool {
		switch b {
		case "all":
			return i.public
		case "self":
			return slices.Contains(i.launch, who.Number)
		}
		return slices.Contains(i.launch, b)
	})
}

func (c *Cloud) item(i *image) imageItem {
	return imageItem{
		ID: i.id, Location: i.location, State: i.state, Owner: i.owner.Number, Public: i.public, Arch: i.arch, Kind: i.kind,
		Kernel: i.kernel, Ramdisk: i.ramdisk, Platform: i.platform, Name: i.name, Description: i.description,
		RootDeviceType: i.rootType, RootDevice: i.root, Devices: i.devices, Virtualization: i.virt,
		Tags: c.tagItems(i.id), Created: i.created.UTC().Format(stamp),
	}
}

// about is what an image is by the name of a filter.
func (c *Cloud) about(i *image, name string) ([]string, bool) {
	switch name {
	case "image-id":
		return []string{i.id}, true
	case "name":
		return []string{i.name}, true
	case "description":
		return []string{i.description}, true
	case "state":
		return []string{i.state}, true
	case "image-type":
		return []string{i.kind}, true
	case "architecture":
		return []string{i.arch}, true
	case "owner-id":
		return []string{i.owner.Number}, true
	case "root-device-type":
		return []string{i.rootType}, true
	case "manifest-location":
		return []string{i.location}, true
	case "virtualization-type":
		return []string{i.virt}, true
	case "is-public":
		return []string{map[bool]string{true: "true", false: "false"}[i.public]}, true
	}
	return c.aboutTags(i.id, name)
}

func (c *Cloud) deregisterImage(q *query) (any, *refusal) {
	i, e := c.owned(q, "deregister image")
	if e != nil {
		return nil, e
	}
	c.images = slices.DeleteFunc(c.images, func(o *image) bool { return o == i })
	delete(c.tags, i.id)
	return done{true}, nil
}

// unique checks the name of an image to be.
func (c *Cloud) unique(q *query) *refusal {
	name := q.form.Get("Name")
	if !imageName.MatchString(name) {
		return refuse(http.StatusBadRequest, "InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_'")
	}
	for _, i := range c.images {
		if i.name == name && i.owner == q.who && (i.state == "available" || i.state == "pending") {
			return refuse(http.StatusBadRequest, "InvalidAMIName.Duplicate", "AMI name %s is already in use by EMI %s", name, i.id)
		}
	}
	if len(q.form.Get("Description")) > 255 {
		return refuse(http.StatusBadRequest, "InvalidParameter", "AMI descriptions must be less than 256 characters long")
	}
	return nil
}

var imageName = regexp.MustCompile(`^[A-Za-z0-9()./_-]{3,128}$`)

// createImage makes a pending one of an instance that boots from a volume.
func (c *Cloud) createImage(q *query) (any, *refusal) {
	if e := c.unique(q); e != nil {
		return nil, e
	}
	v, e := c.instance(q, q.form.Get("InstanceId"))
	if e != nil {
		return nil, e
	}
	if v.EBS == "" {
		return nil, failure("Cannot create an image from an instance which is not booted from an EBS volume")
	}
	if v.State != "running" && v.State != "stopped" {
		return nil, failure("Cannot create an image from an instance which is not in either the 'running' or 'stopped' state: %s is in state %s", v.ID, v.State)
	}
	i := &image{
		id: c.id("emi"), name: q.form.Get("Name"), description: q.form.Get("Description"), state: "pending", owner: q.who,
		kind: "machine", arch: "x86_64", root: "/dev/sda", rootType: "ebs", virt: "hvm", created: c.o.Now(),
	}
	i.location = q.who.Number + "/" + i.name
	c.images = append(c.images, i)
	return struct {
		ID string `xml:"imageId"`
	}{i.id}, nil
}

// SetImageState has an image in another state: an image of CreateImage stays pending until
// then. It tells whether there is one.
func (c *Cloud) SetImageState(id, state string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.images {
		if i.id == id {
			i.state = state
			return true
		}
	}
	return false
}

// ImageIDs are those of all images, of whomever.
func (c *Cloud) ImageIDs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, i := range c.images {
		ids = append(ids, i.id)
	}
	return ids
}

// filterTag is the key in "tag:key".
func filterTag(name string) (string, bool) { return strings.CutPrefix(name, "tag:") }
