package providers

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"chromogenic/disk"
)

// Metadata is what is known of an image besides its bytes, and what travels with it
// from one provider to another.
type Metadata struct {
	Meta     disk.Meta
	Props    map[string]string // what Meta has no field for
	MetaTime time.Time         // when it was set, as a whole; zero where it is only what the provider happens to know
}

// A metaField is one field of Meta: its key in the document, with a dot where that
// nests, and the place of its value: a *string, *bool, *int, *int64 or *[]string.
type metaField struct {
	key   string
	value any
}

// metaFields is the one table of what Metadata and its document have in common.
func metaFields(m *disk.Meta) []metaField {
	return []metaField{
		{"arch", &m.Arch},
		{"cpus", &m.CPUs},
		{"description", &m.Description},
		{"disk_bus", &m.DiskBus},
		{"firmware", &m.Firmware},
		{"kernel", &m.Kernel},
		{"members", &m.Members},
		{"min_disk", &m.MinDisk},
		{"min_ram", &m.MinRAM},
		{"nic", &m.NIC},
		{"os.distro", &m.OSDistro},
		{"os.type", &m.OSType},
		{"os.version", &m.OSVersion},
		{"ramdisk", &m.Ramdisk},
		{"secure_boot", &m.SecureBoot},
		{"tags", &m.Tags},
		{"visibility", &m.Visibility},
	}
}

// text is the value as people write it; empty for one that is not known.
func (f metaField) text() string {
	switch v := f.value.(type) {
	case *string:
		return *v
	case *bool:
		if *v {
			return "true"
		}
	case *int:
		if *v != 0 {
			return strconv.Itoa(*v)
		}
	case *int64:
		if *v != 0 {
			return strconv.FormatInt(*v, 10)
		}
	case *[]string:
		return strings.Join(*v, ",")
	}
	return ""
}

// set takes the value from its text; an empty one is not known any longer.
func (f metaField) set(text string) (err error) {
	if text == "" {
		f.clear()
		return nil
	}
	switch v := f.value.(type) {
	case *string:
		*v = text
	case *bool:
		if *v, err = strconv.ParseBool(text); err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
	case *int:
		if *v, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
	case *int64:
		if *v, err = strconv.ParseInt(text, 10, 64); err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
	case *[]string:
		*v = strings.Split(text, ",")
	}
	return f.check()
}

func (f metaField) clear() {
	switch v := f.value.(type) {
	case *string:
		*v = ""
	case *bool:
		*v = false
	case *int:
		*v = 0
	case *int64:
		*v = 0
	case *[]string:
		*v = nil
	}
}

// check tells why a value makes no sense.
func (f metaField) check() error {
	switch v := f.value.(type) {
	case *string:
		if f.key == "firmware" && *v != "" && *v != "bios" && *v != "uefi" {
			return fmt.Errorf("%q is neither bios nor uefi", *v)
		}
	case *int:
		if *v < 0 {
			return fmt.Errorf("%d is less than 0", *v)
		}
	case *int64:
		if *v < 0 {
			return fmt.Errorf("%d is less than 0", *v)
		}
	}
	return nil
}

// propPrefix begins the keys of properties among those of the fields.
const propPrefix = "prop."

// Get gives the text of the value of a key: "firmware", "os.type", "prop.KEY" for a
// property. It is empty for what is not known, and an error for a key that there
// is none of.
func (m *Metadata) Get(key string) (string, error) {
	if prop, ok := strings.CutPrefix(key, propPrefix); ok {
		return m.Props[prop], nil
	}
	f, err := m.field(key)
	if err != nil {
		return "", err
	}
	return f.text(), nil
}

// Set sets the value of a key to what its text says; an empty text removes it. The
// items of a list have commas between them.
func (m *Metadata) Set(key, text string) error {
	if prop, ok := strings.CutPrefix(key, propPrefix); ok && prop != "" {
		m.Props = maps.Clone(m.Props)
		if text == "" {
			delete(m.Props, prop)
			return nil
		}
		if m.Props == nil {
			m.Props = map[string]string{}
		}
		m.Props[prop] = text
		return nil
	}
	f, err := m.field(key)
	if err != nil {
		return err
	}
	if err := f.set(text); err != nil {
		return disk.Errorf(disk.Invalid, "set %s: %w", key, err)
	}
	return nil
}

func (m *Metadata) field(key string) (metaField, error) {
	var keys []string
	for _, f := range metaFields(&m.Meta) {
		if f.key == key {
			return f, nil
		}
		keys = append(keys, f.key)
	}
	err := disk.Errorf(disk.Invalid, "find key %.80q: metadata has none of that name", key)
	return metaField{}, disk.Hint(err, "there are %s, and prop.KEY for a property", strings.Join(keys, ", "))
}

// Keys are the keys of all that is known, the properties last.
func (m *Metadata) Keys() []string {
	var keys []string
	for _, f := range metaFields(&m.Meta) {
		if f.text() != "" {
			keys = append(keys, f.key)
		}
	}
	for _, prop := range slices.Sorted(maps.Keys(m.Props)) {
		keys = append(keys, propPrefix+prop)
	}
	return keys
}

// Over is m, with what it does not know taken from o.
func (m Metadata) Over(o Metadata) Metadata {
	mine, theirs := metaFields(&m.Meta), metaFields(&o.Meta)
	for i, f := range mine {
		if f.text() == "" {
			f.take(theirs[i])
		}
	}
	props := maps.Clone(o.Props)
	if props == nil {
		props = map[string]string{}
	}
	maps.Copy(props, m.Props)
	m.Props = props
	return m
}

// take makes the value that of another field of the same type.
func (f metaField) take(o metaField) {
	switch v := f.value.(type) {
	case *string:
		*v = *o.value.(*string)
	case *bool:
		*v = *o.value.(*bool)
	case *int:
		*v = *o.value.(*int)
	case *int64:
		*v = *o.value.(*int64)
	case *[]string:
		*v = *o.value.(*[]string)
	}
}

// Same tells whether both say the same, whenever they were set.
func (m Metadata) Same(o Metadata) bool {
	return bytes.Equal(Document{Metadata: m}.Encode(), Document{Metadata: o}.Encode())
}

// Empty tells whether nothing is known.
func (m Metadata) Empty() bool { return m.Same(Metadata{}) }
