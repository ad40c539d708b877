package ec2test

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/http"
	"path"
	"strings"

	"chromogenic/providers/internal/bundle"
)

// registerImage is ImageManager.register: of a bundle, or of a snapshot.
func (c *Cloud) registerImage(q *query) (any, *refusal) {
	if e := c.unique(q); e != nil {
		return nil, e
	}
	virt := "paravirtual"
	switch v := q.form.Get("VirtualizationType"); strings.ToLower(v) {
	case "", "paravirtual":
	case "hvm":
		virt = "hvm"
	default:
		return nil, failure("Unknown virtualization-type")
	}
	i := &image{
		name: q.form.Get("Name"), description: q.form.Get("Description"), state: "available", owner: q.who, created: c.o.Now(),
		kernel: q.form.Get("KernelId"), ramdisk: q.form.Get("RamdiskId"), virt: virt, arch: q.form.Get("Architecture"), root: q.form.Get("RootDeviceName"),
	}
	if i.root == "" {
		i.root = "/dev/sda"
	}
	var e *refusal
	if i.devices, e = q.devices(); e != nil {
		return nil, e
	}
	if q.form.Get("ImageLocation") != "" {
		e = c.fromManifest(q, i)
	} else {
		e = fromSnapshot(q, i)
	}
	if e != nil {
		return nil, e
	}
	i.id = c.id(map[string]string{"machine": "emi", "kernel": "eki", "ramdisk": "eri"}[i.kind])
	c.images = append(c.images, i)
	return struct {
		ID string `xml:"imageId"`
	}{i.id}, nil
}

// devices are the block device mapping of a query.
func (q *query) devices() ([]device, *refusal) {
	var list []device
	for n := 1; ; n++ {
		p := fmt.Sprintf("BlockDeviceMapping.%d.", n)
		d := device{Device: q.form.Get(p + "DeviceName"), Virtual: q.form.Get(p + "VirtualName")}
		if d.Device == "" {
			return list, nil
		}
		if q.form.Has(p + "NoDevice") {
			none := ""
			d.NoDevice = &none
		}
		if s := q.form.Get(p + "Ebs.SnapshotId"); s != "" || q.form.Has(p+"Ebs.VolumeSize") {
			if q.form.Get("ImageLocation") != "" {
				return nil, refuse(http.StatusBadRequest, "InvalidBlockDeviceMapping", "EBS mappings are not allowed for instance store images")
			}
			d.Ebs = &struct {
				Snapshot string `xml:"snapshotId,omitempty"`
				Size     int    `xml:"volumeSize,omitempty"`
				Delete   bool   `xml:"deleteOnTermination"`
			}{s, max(0, number(q.form.Get(p+"Ebs.VolumeSize"))), q.form.Get(p+"Ebs.DeleteOnTermination") == "true"}
		}
		list = append(list, d)
	}
}

func fromSnapshot(q *query, i *image) *refusal {
	for _, d := range i.devices {
		if d.Device == i.root && d.Ebs != nil && d.Ebs.Snapshot != "" {
			i.kind, i.rootType, i.virt = "machine", "ebs", "hvm"
			i.location = q.who.Number + "/" + i.name
			return nil
		}
	}
	return failure("Invalid request:  the request must specify either ImageLocation for an instance-store image or a snapshot for the root device for an EBS image.")
}

// fromManifest reads what a bundle says of itself, as ImageManifests.java does, and looks
// into it, as nobody there does before the image is started.
func (c *Cloud) fromManifest(q *query, i *image) *refusal {
	i.location = strings.TrimLeft(q.form.Get("ImageLocation"), "/")
	bucket, key, _ := strings.Cut(i.location, "/")
	if len(bucket) < 2 || key == "" {
		return failure("Image registration failed:  Invalid image location: %s", q.form.Get("ImageLocation"))
	}
	text, e := c.S3.cloudReads(bucket, key, c.o.MaxManifest)
	if e != nil {
		return failure("Failed to read manifest file: %s/%s", bucket, key)
	}
	// Not by way of the parser that is tested with it: what Eucalyptus takes by XPath.
	var says struct {
		Architecture string `xml:"machine_configuration>architecture"`
		Kernel       string `xml:"machine_configuration>kernel_id"`
		Ramdisk      string `xml:"machine_configuration>ramdisk_id"`
		User         string `xml:"image>user"`
		Type         string `xml:"image>type"`
		Size         int64  `xml:"image>size"`
		Bundled      int64  `xml:"image>bundled_size"`
	}
	if err := xml.NewDecoder(bytes.NewReader(text)).Decode(&says); err != nil {
		return failure("Failed to read manifest file: %s/%s", bucket, key)
	}
	name := path.Base(key)
	is := func(kind, id, prefix string) bool {
		return says.Type == kind || id == "yes" || id == "true" || strings.HasPrefix(name, prefix)
	}
	i.kind, i.rootType = "machine", "instance-store"
	switch {
	case is("kernel", says.Kernel, "vmlinuz"):
		i.kind = "kernel"
	case is("ramdisk", says.Ramdisk, "initrd"):
		i.kind = "ramdisk"
	}
	if i.kind != "machine" && !q.admin {
		return failure("Only administrators can register %s images.", i.kind)
	}
	if says.User != q.who.Number {
		return refuse(http.StatusBadRequest, "AuthFailure", "Manifest is not accessible")
	}
	if i.kind != "machine" {
		i.virt, i.kernel, i.ramdisk = "paravirtual", "", ""
	} else if i.virt == "paravirtual" {
		if i.kernel == "" && !strings.HasPrefix(says.Kernel, "eki-") {
			return refuse(http.StatusBadRequest, "MissingParameter", "Kernel ID must be specified")
		}
		if i.ramdisk == "" && !strings.HasPrefix(says.Ramdisk, "eri-") {
			return refuse(http.StatusBadRequest, "MissingParameter", "Ramdisk ID must be specified")
		}
	}
	if i.kernel == "" && strings.HasPrefix(says.Kernel, "eki-") {
		i.kernel = says.Kernel
	}
	if i.ramdisk == "" && strings.HasPrefix(says.Ramdisk, "eri-") {
		i.ramdisk = says.Ramdisk
	}
	if c.o.MaxImage > 0 && says.Size > c.o.MaxImage {
		return failure("Cannot register image of size %d bytes because it exceeds the configured maximum instance-store image size of %d GB. Please contact your administrator ", says.Size, c.o.MaxImage>>30)
	}
	if i.arch == "" {
		i.arch = says.Architecture
	}
	if i.arch == "" {
		i.arch = "i386"
	}
	i.size = says.Size
	return c.starts(bucket, path.Dir(key), text)
}

// starts finds out whether the image can be started: whether the cloud may read all its
// parts, they have the sizes that the manifest claims, and its key opens them.
func (c *Cloud) starts(bucket, dir string, text []byte) *refusal {
	bad := func(format string, args ...any) *refusal {
		return refuse(http.StatusBadRequest, "InvalidManifest", format, args...)
	}
	m, err := bundle.Parse(text)
	if err != nil {
		return bad("%v", err)
	}
	if _, err := (&bundle.Manifest{Algorithm: m.Algorithm, Cloud: m.Cloud}).Secret(c.Key); err != nil {
		return bad("the cloud's key does not open ec2_encrypted_key: %v", err)
	}
	sum := int64(0)
	for _, p := range m.Parts {
		key := path.Join(dir, p.Name)
		if dir == "." {
			key = p.Name
		}
		part, e := c.S3.cloudReads(bucket, key, maxObject)
		if e != nil {
			return bad("part %s: %s", p.Name, e.code)
		}
		sum += int64(len(part))
	}
	if sum != m.BundledSize {
		return bad("bundled_size is %d, the parts have %d bytes", m.BundledSize, sum)
	}
	return nil
}
