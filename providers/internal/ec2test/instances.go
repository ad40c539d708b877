package ec2test

import (
	"net/http"
	"regexp"
	"slices"
	"time"

	"chromogenic/disk"
)

// An Instance is a machine. Disk is its root disk; the test may change it between bundles.
type Instance struct {
	ID       string // given by Launch
	Image    string
	State    string // "running" for an empty one
	EBS      string // the volume that it boots from; empty for instance-store
	Disk     disk.Image
	Type     string
	Kernel   string
	Ramdisk  string
	KeyName  string
	Platform string
	Launched time.Time
	Tags     map[string]string

	Restarts int // how often bundling has restarted it

	owner *Account
	task  *task
}

// Launch runs a machine of an account, and gives its id.
func (c *Cloud) Launch(owner *Account, i Instance) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	i.ID, i.owner = c.id("i"), owner
	if i.State == "" {
		i.State = "running"
	}
	if i.Type == "" {
		i.Type = "m1.small"
	}
	if i.Launched.IsZero() {
		i.Launched = c.o.Now().UTC().Truncate(time.Millisecond)
	}
	if i.Tags != nil {
		c.tags[i.ID] = i.Tags
	}
	c.instances = append(c.instances, &i)
	return i.ID
}

// Instance is how a machine is now; its ID is empty where there is none.
func (c *Cloud) Instance(id string) Instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.instances {
		if i.ID == id {
			return *i
		}
	}
	return Instance{}
}

// SetInstance changes a machine.
func (c *Cloud) SetInstance(id string, change func(*Instance)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.instances {
		if i.ID == id {
			change(i)
		}
	}
}

var instanceID = regexp.MustCompile(`^i-[0-9a-f]{8}$`)

// instance finds one of the account of a query.
func (c *Cloud) instance(q *query, id string) (*Instance, *refusal) {
	if !instanceID.MatchString(id) {
		return nil, refuse(http.StatusBadRequest, "InvalidInstanceID.Malformed", "Invalid id: %q", id)
	}
	for _, i := range c.instances {
		if i.ID == id && (i.owner == q.who || q.admin) {
			return i, nil
		}
	}
	return nil, refuse(http.StatusBadRequest, "InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
}

type instanceItem struct {
	ID    string `xml:"instanceId"`
	Image string `xml:"imageId"`
	State struct {
		Code int    `xml:"code"`
		Name string `xml:"name"`
	} `xml:"instanceState"`
	Private  string `xml:"privateIpAddress"`
	Public   string `xml:"ipAddress"`
	KeyName  string `xml:"keyName"`
	Type     string `xml:"instanceType"`
	Launched string `xml:"launchTime"`
	Zone     string `xml:"placement>availabilityZone"`
	Kernel   string `xml:"kernelId,omitempty"`
	Ramdisk  string `xml:"ramdiskId,omitempty"`
	Platform string `xml:"platform,omitempty"`
	Arch     string `xml:"architecture"`
	RootType string `xml:"rootDeviceType"`
	Root     string `xml:"rootDeviceName"`
	Devices  []struct {
		Device   string `xml:"deviceName"`
		Volume   string `xml:"ebs>volumeId"`
		Status   string `xml:"ebs>status"`
		Attached string `xml:"ebs>attachTime"`
		Delete   bool   `xml:"ebs>deleteOnTermination"`
	} `xml:"blockDeviceMapping>item"`
	Virtualization string    `xml:"virtualizationType"`
	Tags           []tagItem `xml:"tagSet>item"`
}

// stateCodes are those of EC2.
var stateCodes = map[string]int{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}

func (c *Cloud) describeInstances(q *query) (any, *refusal) {
	ids := q.list("InstanceId")
	for _, id := range ids {
		if _, e := c.instance(q, id); e != nil {
			return nil, e
		}
	}
	filters := q.filters()
	var all []*Instance
	for _, i := range c.instances {
		passes, e := match(filters, func(name string) ([]string, bool) {
			switch name {
			case "instance-id":
				return []string{i.ID}, true
			case "instance-state-name":
				return []string{i.State}, true
			}
			return c.aboutTags(i.ID, name)
		})
		if e != nil {
			return nil, e
		}
		if passes && i.owner == q.who && (len(ids) == 0 || slices.Contains(ids, i.ID)) {
			all = append(all, i)
		}
	}
	from, to, next, e := c.window(q, len(all))
	if e != nil {
		return nil, e
	}
	type reservation struct {
		ID    string         `xml:"reservationId"`
		Owner string         `xml:"ownerId"`
		Items []instanceItem `xml:"instancesSet>item"`
	}
	out := struct {
		Reservations []reservation `xml:"reservationSet>item"`
		Next         string        `xml:"nextToken,omitempty"`
	}{Next: next}
	for _, i := range all[from:to] {
		out.Reservations = append(out.Reservations, reservation{"r-" + i.ID[2:], i.owner.Number, []instanceItem{c.machine(i)}})
	}
	return out, nil
}

func (c *Cloud) machine(i *Instance) instanceItem {
	m := instanceItem{
		ID: i.ID, Image: i.Image, Private: "10.0.0.7", Public: "192.0.2.7", KeyName: i.KeyName, Type: i.Type,
		Launched: i.Launched.UTC().Format(stamp), Zone: "one", Kernel: i.Kernel, Ramdisk: i.Ramdisk, Platform: i.Platform,
		Arch: "x86_64", RootType: "instance-store", Root: "/dev/sda", Virtualization: "hvm", Tags: c.tagItems(i.ID),
	}
	m.State.Name, m.State.Code = i.State, stateCodes[i.State]
	if i.EBS != "" {
		m.RootType = "ebs"
		m.Devices = append(m.Devices, struct {
			Device   string `xml:"deviceName"`
			Volume   string `xml:"ebs>volumeId"`
			Status   string `xml:"ebs>status"`
			Attached string `xml:"ebs>attachTime"`
			Delete   bool   `xml:"ebs>deleteOnTermination"`
		}{m.Root, i.EBS, "attached", m.Launched, true})
	}
	return m
}
