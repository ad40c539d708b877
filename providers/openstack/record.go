package openstack

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A record is what Glance knows of an image.
type record struct {
	ID              string   `json:"id"`
	Name            string   `json:"name"`
	Status          string   `json:"status"`
	DiskFormat      string   `json:"disk_format"`
	ContainerFormat string   `json:"container_format"`
	Size            *int64   `json:"size"`
	VirtualSize     *int64   `json:"virtual_size"`
	Checksum        string   `json:"checksum"` // MD5
	HashAlgo        string   `json:"os_hash_algo"`
	HashValue       string   `json:"os_hash_value"`
	Created         string   `json:"created_at"`
	Updated         string   `json:"updated_at"`
	MinDisk         int64    `json:"min_disk"` // GiB
	MinRAM          int64    `json:"min_ram"`  // MiB
	Owner           string   `json:"owner"`
	Visibility      string   `json:"visibility"`
	Protected       bool     `json:"protected"`
	Tags            []string `json:"tags"`

	props map[string]string
}

// notProps are further keys of a record that are no properties.
func notProps(key string) bool {
	switch key {
	case "self", "file", "schema", "direct_url", "locations", "stores", "os_hidden":
		return true
	}
	return false
}

// UnmarshalJSON takes every text that has no field as a property.
func (r *record) UnmarshalJSON(p []byte) error {
	type plain record
	if err := json.Unmarshal(p, (*plain)(r)); err != nil {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(p, &all); err != nil {
		return err
	}
	r.props = map[string]string{}
	for key, raw := range all {
		var text string
		if !ofRecord(key) && !notProps(key) && json.Unmarshal(raw, &text) == nil && string(raw) != "null" {
			r.props[key] = text
		}
	}
	return nil
}

// ofRecord tells whether a key has a field.
func ofRecord(key string) bool {
	switch key {
	case "id", "name", "status", "disk_format", "container_format", "size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value",
		"created_at", "updated_at", "min_disk", "min_ram", "owner", "visibility", "protected", "tags":
		return true
	}
	return false
}

// size is that of the bytes, -1 for unknown.
func (r *record) size() int64 {
	if r.Size == nil {
		return -1
	}
	return *r.Size
}

// Reserved tells whether a property cannot be set: it is of the record, or says what
// state it is in.
func Reserved(key string) bool {
	return ofRecord(key) || notProps(key) || strings.HasPrefix(key, ownPrefix)
}

// Properties of ours. What is not finished, or not for others, has a state.
const (
	ownPrefix       = "chromogenic_"
	propState       = "chromogenic_state"
	propJob         = "chromogenic_job"
	propHost        = "chromogenic_host" // of the process that makes it, see host
	propMtime       = "chromogenic_mtime"
	propMetaTime    = "chromogenic_meta_time"
	propCPUs        = "chromogenic_cpus"
	propOf          = "chromogenic_capture_of"
	propTaken       = "chromogenic_capture_time"
	propName        = "chromogenic_capture_name"
	propConsistency = "chromogenic_consistency"
	propFor         = "chromogenic_for" // the name of the image that a companion waits for
)

// The states.
const (
	stateUpload   = "upload"
	stateCommit   = "commit" // all is there but the proof that nobody else has the name
	stateSnapshot = "snapshot"
	stateCapture  = "capture"
	stateWaiting  = "waiting" // a companion whose image is not there yet
)

// time is a time as Glance writes it, or as we do in a property.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// entry is the image as a listing shows it.
func (r *record) entry(p *Provider) providers.Entry {
	e := providers.Entry{
		Kind: providers.Images, ID: r.ID, Name: r.Name, Status: r.Status,
		Created: parseTime(r.Created), Size: -1, VirtualSize: -1,
		Metadata: r.metadata(),
	}
	// Bytes never change after they were written; what else may be updated is no
	// reason to copy them again.
	e.Updated = e.Created
	if t := parseTime(r.props[propMtime]); !t.IsZero() {
		e.Updated = t
	}
	if r.Size != nil && r.Status == "active" {
		e.Size = *r.Size
	}
	if r.VirtualSize != nil {
		e.VirtualSize = *r.VirtualSize
	}
	e.Format = r.format()
	if (e.Format == "raw" || e.Format == "iso") && e.Size >= 0 {
		e.VirtualSize = e.Size
	}
	e.Dense = r.DiskFormat == "raw" && e.Format == "raw" && e.Size > 0
	e.Version = r.version(e.Metadata)
	e.Reason = r.reason(p.o.Formats)
	return e
}

// format is that of the bytes, by the names of the table of formats.
func (r *record) format() string {
	switch {
	case r.ContainerFormat == "ova":
		return "ova"
	case r.DiskFormat == "ami":
		return "raw"
	}
	return r.DiskFormat
}

// reason is why the image cannot be read, empty for one that can.
func (r *record) reason(formats map[string]bool) string {
	switch r.Status {
	case "active":
	case "deactivated":
		return "it is deactivated"
	case "queued":
		return "it is queued: nothing has been uploaded yet"
	default:
		return "it is " + r.Status
	}
	switch {
	case r.DiskFormat == "aki" || r.DiskFormat == "ari":
		return "it is a kernel or a ramdisk, not a disk"
	case r.ContainerFormat == "docker" || r.ContainerFormat == "compressed":
		return "its container format is " + r.ContainerFormat
	case r.Size == nil || *r.Size == 0 && r.props["block_device_mapping"] != "":
		return "its disks are snapshots of volumes, and it has no bytes of its own"
	case formats != nil && !formats[r.format()]:
		return fmt.Sprintf("its format %q is not known", r.format())
	}
	return ""
}

// version changes with the bytes, and with the metadata behind a hyphen.
func (r *record) version(m providers.Metadata) string {
	v := short(cmp.Or(r.HashValue, r.Checksum, r.ID))
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

// texts are the fields of the metadata that a property has, by its key.
func texts(m *disk.Meta) map[string]*string {
	return map[string]*string{
		"architecture": &m.Arch, "hw_firmware_type": &m.Firmware, "hw_disk_bus": &m.DiskBus, "hw_vif_model": &m.NIC,
		"os_type": &m.OSType, "os_distro": &m.OSDistro, "os_version": &m.OSVersion, "description": &m.Description,
		"kernel_id": &m.Kernel, "ramdisk_id": &m.Ramdisk,
	}
}

// metadata is what the record says of the image besides its bytes. Private and shared
// are alike: an image is shared with its members, of whom the record says nothing.
func (r *record) metadata() providers.Metadata {
	m := providers.Metadata{MetaTime: parseTime(r.props[propMetaTime])}
	m.Meta.MinDisk, m.Meta.MinRAM = r.MinDisk, r.MinRAM
	if len(r.Tags) > 0 { // which Glance gives in an order that is another each time it is started
		m.Meta.Tags = slices.Sorted(slices.Values(r.Tags))
	}
	if r.Visibility != "private" && r.Visibility != "shared" {
		m.Meta.Visibility = r.Visibility
	}
	fields := texts(&m.Meta)
	for key, value := range r.props {
		field := fields[key]
		switch {
		case companionRole(key) != "": // no text, but a file beside it: see beside
		case key == "hw_firmware_type" && value != "bios" && value != "uefi":
			m.Props = with(m.Props, key, value)
		case field != nil:
			*field = value
		case key == "os_secure_boot" && value == "required":
			m.Meta.SecureBoot = true
		case key == propCPUs:
			m.Meta.CPUs, _ = strconv.Atoi(value) // ours; of anybody else it means nothing
		case hiddenProp(key):
		default:
			m.Props = with(m.Props, key, value)
		}
	}
	return m
}

func with(props map[string]string, key, value string) map[string]string {
	if props == nil {
		props = map[string]string{}
	}
	props[key] = value
	return props
}

// hiddenProp tells whether a property is not the image's own: it is ours, or of the
// program that has uploaded it.
func hiddenProp(key string) bool {
	return strings.HasPrefix(key, ownPrefix) && !strings.HasPrefix(key, providers.SourcePrefix) ||
		strings.HasPrefix(key, "owner_specified.openstack.") || strings.HasPrefix(key, "os_glance_")
}

// properties are those that say what m does.
func properties(m providers.Metadata) map[string]string {
	props := map[string]string{}
	for key, field := range texts(&m.Meta) {
		if *field != "" {
			props[key] = *field
		}
	}
	if m.Meta.SecureBoot {
		props["os_secure_boot"] = "required"
	}
	if m.Meta.CPUs > 0 {
		props[propCPUs] = fmt.Sprint(m.Meta.CPUs)
	}
	for key, value := range m.Props {
		if _, taken := props[key]; taken || ofInstance(key) {
			continue
		}
		if ofRecord(key) || notProps(key) || hiddenProp(key) {
			key = providers.SourcePrefix + key
		}
		props[key] = value
	}
	if !m.MetaTime.IsZero() {
		props[propMetaTime] = m.MetaTime.UTC().Format(time.RFC3339Nano)
	}
	return props
}

// ofInstance tells whether a property is of the server that an image was made of, and
// of no copy of it.
func ofInstance(key string) bool {
	switch key {
	case "image_type", "image_state", "image_location", "base_image_ref", "instance_uuid", "boot_roles", "user_id",
		"owner_id", "owner_project_name", "owner_user_name", "block_device_mapping", "bdm_v2", "root_device_name", "root_gb":
		return true
	}
	return strings.HasPrefix(key, "instance_type_")
}
