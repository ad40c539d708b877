package eucalyptus

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/ec2"
)

// A record is an image as the cloud describes it.
type record struct{ ec2.Image }

// bundle is the object of its manifest.
func (r *record) bundle() (place, error) {
	at := strings.TrimPrefix(r.Location, "/")
	bucket, key, ok := strings.Cut(at, "/")
	if !ok || bucket == "" || key == "" || strings.ContainsRune(at, 0) {
		return place{}, disk.Errorf(disk.Unsupported, "its location %.200q is no manifest in a bucket", r.Location)
	}
	return place{bucket, key}, nil
}

// name is that of the image: the one that we have given it where that was none for the
// cloud, its own, or that of its manifest.
func (r *record) name() string {
	if name, ok := r.Tags[tagName]; ok {
		return name
	}
	if r.Name != "" {
		return r.Name
	}
	if r.RootDeviceType != ec2.EBS {
		if base := strings.TrimSuffix(path.Base(r.Location), bundle.ManifestSuffix); base != "." && base != "/" {
			return base
		}
	}
	return r.ID
}

// reason is why the image cannot be read, as far as a listing tells; empty for one that
// can. Whether a key of ours opens it only its manifest says.
func (r *record) reason() string {
	switch {
	case r.State != "available":
		return "it is " + r.State
	case r.RootDeviceType == ec2.EBS:
		return "it boots from a volume, whose bytes this cloud gives to its own machines alone: there attach a volume of its snapshot, and copy that"
	}
	if _, err := r.bundle(); err != nil {
		return err.Error()
	}
	return ""
}

// unreadable is reason as an error.
func (r *record) unreadable() error {
	why := r.reason()
	switch {
	case why == "":
		return nil
	case r.State == "pending":
		return disk.Errorf(disk.Busy, "%s", why)
	}
	return disk.Errorf(disk.Unsupported, "%s", why)
}

// entry is the image as a listing shows it. Its size is known of those that we have made:
// of others the manifest tells it, which is read when they are opened.
func (r *record) entry() providers.Entry {
	e := providers.Entry{
		Kind: providers.Images, ID: r.ID, Name: r.name(), Status: r.State, Reason: r.reason(), Format: "raw",
		Created: r.Created.UTC(), Updated: r.updated(), Size: r.size(), Metadata: r.metadata(),
	}
	e.VirtualSize = e.Size
	e.Version = r.version(e.Metadata)
	return e
}

// updated is the time that a copy has kept, or that of the registration: the bytes do not
// change after it.
func (r *record) updated() time.Time {
	if t, err := time.Parse(time.RFC3339Nano, r.Tags[tagMtime]); err == nil {
		return t.UTC()
	}
	return r.Created.UTC()
}

// version changes with the bytes, and with the metadata behind a hyphen. An image is of one
// manifest for ever, which has the digests of its parts: its id and its location are its
// bytes. Who puts another bundle in that place makes it unreadable to the cloud itself, and
// to whom has it open here, for parts and manifest do not fit any longer.
func (r *record) version(m providers.Metadata) string {
	v := short(r.ID + "\x00" + r.Location + "\x00" + r.Created.UTC().Format(time.RFC3339Nano))
	if !m.Empty() {
		v += "-" + short(string(providers.Document{Metadata: m}.Encode()))
	}
	return v
}

func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// ofBytes is the part of a version that tells the bytes.
func ofBytes(version string) string {
	v, _, _ := strings.Cut(version, "-")
	return v
}

// role is what an image that is no machine's is.
func (r *record) role() providers.Role {
	switch r.Type {
	case ec2.Kernel:
		return providers.Kernel
	case ec2.Ramdisk:
		return providers.Ramdisk
	}
	return ""
}

// boots is the id of the companion of a role.
func (r *record) boots(role providers.Role) string {
	if role == providers.Kernel {
		return cmp.Or(r.Kernel, r.Tags[tagKernel])
	}
	return cmp.Or(r.Ramdisk, r.Tags[tagRamdisk])
}

// companion is the record as that of an image.
func (r *record) companion() providers.Companion {
	return providers.Companion{
		Role: r.role(), ID: r.ID, Version: ofBytes(r.version(providers.Metadata{})), Name: r.name(),
		Size: r.size(), Updated: r.updated(), Reason: r.reason(),
	}
}

// beside adds the companions to the entry of an image, from a listing of all that the
// account can see. What leads nowhere is a part of its metadata.
func (r *record) beside(e *providers.Entry, all map[string]*record) {
	for _, role := range providers.Roles() {
		id := r.boots(role)
		if id == "" {
			continue
		}
		c := providers.Companion{Role: role, ID: id, Size: -1, Reason: "there is no such image, or this account may not use it"}
		if k := all[id]; k != nil && k.role() == role {
			c = k.companion()
		}
		e.Companions = append(e.Companions, c)
		if c.Reason == "" {
			continue
		}
		if role == providers.Kernel {
			e.Meta.Kernel = id
		} else {
			e.Meta.Ramdisk = id
		}
		e.Version = r.version(e.Metadata)
	}
}

// byID finds records by their ids.
func byID(records []record) map[string]*record {
	all := make(map[string]*record, len(records))
	for i := range records {
		all[records[i].ID] = &records[i]
	}
	return all
}

// sorted are records by the time of their registration.
func sorted(records []record) []record {
	slices.SortFunc(records, func(a, b record) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return records
}
