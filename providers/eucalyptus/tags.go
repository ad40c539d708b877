package eucalyptus

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
	"chromogenic/providers/internal/ec2"
)

// What the cloud has no field for is kept in tags of the image, which its account alone
// sees. Ours begin with chromogenic: and are no tags to anybody else.
const (
	tagPrefix  = mark + ":"
	tagName    = tagPrefix + "name"         // the name, where the cloud takes it not or has it already
	tagJob     = tagPrefix + "job"          // that has made the image; all of ours have it
	tagMtime   = tagPrefix + "mtime"        // that a copy keeps
	tagSize    = tagPrefix + "virtual_size" // of the disk, bytes
	tagMeta    = tagPrefix + "meta."        // and a number: a part of the metadata, packed
	tagKernel  = tagPrefix + "kernel"       // an id, of an image that the cloud does not take with a kernel alone
	tagRamdisk = tagPrefix + "ramdisk"      // an id, of one with a ramdisk alone
	tagFor     = tagPrefix + "for"          // the image that a companion waits for
	tagCapture = tagPrefix + "capture"      // the instance, the time and the consistency of a capture
)

// The bounds of tags, in bytes, and of their number: those of Eucalyptus 4, which AWS
// had too.
const (
	maxTags     = 10
	maxTagKey   = 127
	maxTagValue = 255
	maxText     = 255 // of a description
)

// ours tells whether an image was made by this program, as this account knows it.
func (r *record) ours() bool { _, ok := r.Tags[tagJob]; return ok }

// size is that of the disk where a tag tells it, -1 otherwise.
func (r *record) size() int64 {
	n, err := strconv.ParseInt(r.Tags[tagSize], 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// packed is what is kept of the metadata where the cloud has no field for it.
type packed struct {
	Time     time.Time       `json:"time,omitzero"`
	Document json.RawMessage `json:"document"`
}

// maxPacked bounds the metadata that is unpacked, in bytes.
const maxPacked = providers.MaxDocument + 1<<10

// pack gives the tags of a text.
func pack(p packed) map[string]string {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // a time and a document: it cannot fail
	}
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression) // a level that there is
	_, _ = w.Write(text)                               // into memory
	_ = w.Close()
	s := base64.RawURLEncoding.EncodeToString(b.Bytes())
	tags := map[string]string{}
	for i := 0; s != ""; i++ {
		n := min(len(s), maxTagValue)
		tags[tagMeta+strconv.Itoa(i)] = s[:n]
		s = s[n:]
	}
	return tags
}

// unpack reads them again. Tags that somebody has changed say nothing.
func unpack(tags map[string]string) (m providers.Metadata, ok bool) {
	var s strings.Builder
	for i := 0; ; i++ {
		part, there := tags[tagMeta+strconv.Itoa(i)]
		if !there {
			break
		}
		s.WriteString(part)
	}
	if s.Len() == 0 {
		return m, false
	}
	b, err := base64.RawURLEncoding.DecodeString(s.String())
	if err != nil {
		return m, false
	}
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), maxPacked))
	if err != nil {
		return m, false
	}
	var p packed
	if json.Unmarshal(text, &p) != nil {
		return m, false
	}
	d, err := providers.DecodeDocument(p.Document)
	if err != nil {
		return m, false
	}
	d.MetaTime = p.Time
	return d.Metadata, true
}

// metadata is what is known of the image besides its bytes: what its tags keep, and what
// the cloud says of it. The architecture of our own images is what their metadata says:
// the cloud has one of each image, whether anybody knows it or not.
func (r *record) metadata() providers.Metadata {
	m, _ := unpack(r.Tags)
	if !r.hidden() && r.Description != noDescription {
		m.Meta.Description = r.Description
	}
	if m.Meta.Arch == "" && !r.ours() {
		m.Meta.Arch = ourArch(r.Architecture)
	}
	if m.Meta.OSType == "" {
		m.Meta.OSType = strings.ToLower(r.Platform)
	}
	if r.Public {
		m.Meta.Visibility = "public"
	}
	for key, value := range r.Tags {
		switch {
		case strings.HasPrefix(key, tagPrefix):
		case value == "":
			m.Meta.Tags = append(m.Meta.Tags, key)
		default:
			m.Meta.Tags = append(m.Meta.Tags, key+"="+value)
		}
	}
	slices.Sort(m.Meta.Tags)
	m.Meta.Tags = slices.Compact(m.Meta.Tags)
	return m
}

// ourArch is the name of an architecture in metadata, cloudArch that of the cloud: empty
// where it has none of it.
func ourArch(s string) string {
	switch s {
	case "i386":
		return "i686"
	case "arm64":
		return "aarch64"
	}
	return s
}

func cloudArch(s string) string {
	switch strings.ToLower(s) {
	case "i386", "i486", "i586", "i686", "x86":
		return "i386"
	case "x86_64", "amd64":
		return "x86_64"
	}
	return ""
}

// kept is how the cloud keeps metadata: a description, and tags.
func kept(m providers.Metadata, own map[string]string) (description string, tags map[string]string, err error) {
	tags = map[string]string{}
	maps.Copy(tags, own)
	description = noDescription
	if d := m.Meta.Description; d != "" && len(d) <= maxText && !(&record{Image: ec2.Image{Description: d}}).hidden() {
		description, m.Meta.Description = d, ""
	}
	rest := m
	rest.Meta.Visibility, rest.Meta.Members, rest.Meta.Tags = "", nil, nil
	room := maxTags - len(own) - len(pack(packed{m.MetaTime, document(m)})) // whatever is packed in the end takes no more
	plain := map[string]string{}
	for _, tag := range m.Meta.Tags {
		key, value, _ := strings.Cut(tag, "=")
		_, twice := plain[key]
		if twice || len(plain) >= room || !plainTag(key, value) || value == "" && strings.Contains(tag, "=") {
			rest.Meta.Tags = append(rest.Meta.Tags, tag)
			continue
		}
		plain[key] = value
	}
	maps.Copy(tags, plain)
	if !rest.Empty() || !rest.MetaTime.IsZero() {
		maps.Copy(tags, pack(packed{rest.MetaTime, document(rest)}))
	}
	if len(tags) > maxTags {
		err := disk.Errorf(disk.TooLarge, "its metadata takes %d tags, and the cloud has %d for an image", len(tags), maxTags)
		return "", nil, disk.Hint(err, "leave out properties, or shorten them: the provider keeps about 1,500 bytes of them, packed")
	}
	return description, tags, nil
}

func document(m providers.Metadata) json.RawMessage {
	return providers.Document{Metadata: m}.Encode()
}

// plainTag tells whether the cloud takes a tag as it is.
func plainTag(key, value string) bool {
	if key == "" || len(key) > maxTagKey || len(value) > maxTagValue || strings.TrimSpace(key) != key {
		return false
	}
	for _, reserved := range []string{tagPrefix, "aws:", "euca:"} {
		if strings.HasPrefix(strings.ToLower(key), reserved) {
			return false
		}
	}
	return true
}

// ownTags are those of an image that an upload makes, besides its metadata.
func ownTags(job, name, cloudName string, size int64, mtime time.Time) (map[string]string, error) {
	tags := map[string]string{tagJob: job}
	if size >= 0 {
		tags[tagSize] = strconv.FormatInt(size, 10)
	}
	if name != cloudName {
		if len(name) > maxTagValue {
			return nil, disk.Errorf(disk.Invalid, "a name of %d bytes, it may have %d", len(name), maxTagValue)
		}
		tags[tagName] = name
	}
	if !mtime.IsZero() {
		tags[tagMtime] = mtime.UTC().Format(time.RFC3339Nano)
	}
	return tags, nil
}

// changedTags are those to be set and to be removed for an image to have its own tags of
// ours and those that are wanted. What the cloud itself has set stays.
func (r *record) changedTags(want map[string]string) (set map[string]string, remove []string) {
	set = map[string]string{}
	for key, value := range want {
		if have, ok := r.Tags[key]; !ok || have != value {
			set[key] = value
		}
	}
	for key := range r.Tags {
		_, stays := want[key]
		if reserved := strings.HasPrefix(key, "aws:") || strings.HasPrefix(key, "euca:"); !stays && !reserved {
			remove = append(remove, key)
		}
	}
	slices.Sort(remove)
	return set, remove
}

// lasting are the tags of an image that stay whatever its metadata becomes.
func (r *record) lasting() map[string]string {
	own := map[string]string{}
	for key, value := range r.Tags {
		if strings.HasPrefix(key, tagPrefix) && !strings.HasPrefix(key, tagMeta) {
			own[key] = value
		}
	}
	return own
}

// A captureTag is what the tag of a capture says.
type captureTag struct {
	of    string
	taken time.Time
	how   providers.Consistency
}

func (c captureTag) String() string {
	return fmt.Sprintf("%s %s %s", c.of, c.taken.UTC().Format(time.RFC3339), c.how)
}

func parseCapture(s string) (c captureTag, ok bool) {
	words := strings.Fields(s)
	if len(words) != 3 {
		return c, false
	}
	taken, err := time.Parse(time.RFC3339, words[1])
	return captureTag{words[0], taken.UTC(), providers.Consistency(words[2])}, err == nil
}
