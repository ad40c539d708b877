package providers

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
)

// full has a value in every field.
func full() Document {
	d := Document{Name: "web <1>", Disks: []DocumentDisk{{"vda", "virtio", 1 << 30}, {Size: 512}}, Notes: []string{"x"}}
	for i, f := range metaFields(&d.Meta) {
		switch v := f.value.(type) {
		case *string:
			*v = f.key + "\n\"é"
		case *bool:
			*v = true
		case *int:
			*v = i + 1
		case *int64:
			*v = int64(i + 1)
		case *[]string:
			*v = []string{"b", "a b"}
		}
	}
	d.Meta.Firmware = "uefi"
	d.Props = map[string]string{"hw_x": "1", "a.b": "", "é": "<&>"}
	return d
}

func TestDocument(t *testing.T) {
	for name, d := range map[string]Document{"full": full(), "empty": {}, "one": {Name: "x", Metadata: Metadata{Meta: disk.Meta{MinDisk: 3, OSType: "linux"}}}} {
		p := d.Encode()
		if again := d.Encode(); string(again) != string(p) || p[len(p)-1] != '\n' {
			t.Errorf("%s: encoded twice: %s, %s", name, p, again)
		}
		got, err := DecodeDocument(p)
		if diff := cmp.Diff(d, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		checkSchema(t, name, p)
	}
	const want = "{\n  \"firmware\": \"bios\",\n  \"name\": \"x\",\n  \"os\": {\n    \"type\": \"linux\"\n  },\n  \"schema\": 1\n}\n"
	if got := string((Document{Name: "x", Metadata: Metadata{Meta: disk.Meta{Firmware: "bios", OSType: "linux"}}}).Encode()); got != want {
		t.Errorf("encoded: %s, want %s", got, want)
	}
}

func TestDecodeDocument(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`{}`, ""},
		{`{"schema": 1, "firmware": null, "properties": {"x": null}, "secure_boot": false}`, ""},
		{`{"tpm": {"version": 2.0}, "vendor": "me", "os": {"codename": "trixie"}}`, "prop.os.codename=trixie prop.tpm={\"version\":2.0} prop.vendor=me"},
		{`{"vendor": "me", "properties": {"vendor": "you"}}`, "prop.vendor=you"},
		{`{"Firmware": 3}`, "prop.Firmware=3"},
	} {
		d, err := DecodeDocument([]byte(tt.in))
		var got []string
		for _, key := range d.Keys() {
			text, _ := d.Get(key)
			got = append(got, key+"="+text)
		}
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q, %v, want %q", tt.in, got, err, tt.want)
		}
	}
	for in, want := range map[string]string{
		`[]`:                             "want an object",
		`null`:                           "want an object",
		``:                               "byte 0",
		`{"a":}`:                         "byte 6",
		`{} {}`:                          "byte 4",
		`{"firmware": 3}`:                `key "firmware": want a text, got 3`,
		`{"firmware": "efi"}`:            `key "firmware": "efi" is neither`,
		`{"min_disk": 1.5}`:              `key "min_disk": want a whole number`,
		`{"min_ram": -1}`:                `key "min_ram": -1 is less than 0`,
		`{"secure_boot": "yes"}`:         `key "secure_boot": want true or false`,
		`{"tags": "x"}`:                  `key "tags": want a list of texts`,
		`{"os": "linux"}`:                `key "os": want an object`,
		`{"os": {"type": 1}}`:            `key "os.type": want a text`,
		`{"properties": {"hw_x": 1}}`:    `key "properties.hw_x": want a text, got 1`,
		`{"properties": {"": "x"}}`:      `a key in it is empty`,
		`{"disks": [{"size": "big"}]}`:   `key "disks"`,
		`{"schema": "1"}`:                `key "schema"`,
		`{"": 1}`:                        "a key is empty",
		`{"name": ["x"]}`:                `key "name"`,
		`{"x":` + strings.Repeat("[", 9): "byte",
	} {
		_, err := DecodeDocument([]byte(in))
		if disk.KindOf(err) != disk.Malformed || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
	if _, err := DecodeDocument([]byte(`{"schema": 2}`)); disk.KindOf(err) != disk.Unsupported {
		t.Errorf("a later schema: %v", err)
	}
	if _, err := DecodeDocument(make([]byte, MaxDocument+1)); disk.KindOf(err) != disk.TooLarge {
		t.Errorf("too large: %v", err)
	}
}

func TestMetadataKeys(t *testing.T) {
	var m Metadata
	for _, arg := range []string{"firmware=uefi", "min_disk=7", "cpus=2", "secure_boot=true", "tags=a,b", "os.distro=debian", "prop.x=1=2", "prop.y=z"} {
		key, text, _ := strings.Cut(arg, "=")
		if err := m.Set(key, text); err != nil {
			t.Errorf("set %s: %v", arg, err)
		}
		if got, err := m.Get(key); got != text || err != nil {
			t.Errorf("get %s: %q, %v", key, got, err)
		}
	}
	if want := []string{"cpus", "firmware", "min_disk", "os.distro", "secure_boot", "tags", "prop.x", "prop.y"}; !slices.Equal(m.Keys(), want) {
		t.Errorf("keys %q, want %q", m.Keys(), want)
	}
	for _, arg := range []string{"firmware=efi", "min_disk=x", "min_ram=-1", "cpus=1.5", "secure_boot=maybe", "hw_x=1", "prop.=1", "name=x"} {
		key, text, _ := strings.Cut(arg, "=")
		if err := m.Set(key, text); disk.KindOf(err) != disk.Invalid {
			t.Errorf("set %s: %v", arg, err)
		}
	}
	old := m
	for _, key := range m.Keys() {
		if err := m.Set(key, ""); err != nil {
			t.Error(err)
		}
	}
	if !m.Empty() || old.Props["x"] != "1=2" {
		t.Errorf("what is left: %+v; of the one before: %+v", m, old)
	}
}

func TestOver(t *testing.T) {
	a := Metadata{Meta: disk.Meta{Firmware: "uefi", Tags: []string{"a"}}, Props: map[string]string{"x": "1"}}
	b := Metadata{Meta: disk.Meta{Firmware: "bios", MinRAM: 5}, Props: map[string]string{"x": "2", "y": "3"}, MetaTime: time.Unix(5, 0)}
	want := Metadata{Meta: disk.Meta{Firmware: "uefi", Tags: []string{"a"}, MinRAM: 5}, Props: map[string]string{"x": "1", "y": "3"}}
	if diff := cmp.Diff(want, a.Over(b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// checkSchema validates a document against docs/image.schema.json.
func checkSchema(t *testing.T, name string, p []byte) {
	t.Helper()
	text, err := os.ReadFile("../docs/image.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(p, &v); err != nil {
		t.Fatal(err)
	}
	for _, fault := range s.faults("", v) {
		t.Errorf("%s: %s", name, fault)
	}
	if name != "full" {
		return
	}
	// Nothing is in the one and not in the other.
	for _, bad := range []string{`{}`, `{"schema":2}`, `{"schema":1,"min_ram":-1}`, `{"schema":1,"firmware":"efi"}`, `{"schema":1,"tags":[1]}`, `{"schema":1,"os":{"type":1}}`, `{"schema":1,"properties":{"x":1}}`, `{"schema":1,"cpus":1.5}`} {
		if err := json.Unmarshal([]byte(bad), &v); err != nil || s.faults("", v) == nil {
			t.Errorf("the schema takes %s, %v", bad, err)
		}
	}
	if err := json.Unmarshal(p, &v); err != nil {
		t.Fatal(err)
	}
	for key := range s.Properties {
		if _, ok := v.(map[string]any)[key]; !ok {
			t.Errorf("the schema has a key %q that no document has", key)
		}
	}
	for key := range v.(map[string]any) {
		if s.Properties[key] == nil {
			t.Errorf("the schema lacks the key %q", key)
		}
	}
}

// A schema is as much of JSON Schema as ours needs.
type schema struct {
	Type                 string
	Const                any
	Enum                 []any
	Minimum              *float64
	Required             []string
	Properties           map[string]*schema
	Items                *schema
	AdditionalProperties json.RawMessage
}

// faults tells what is wrong with a value.
func (s *schema) faults(path string, v any) (faults []string) {
	kind := "null"
	switch v := v.(type) {
	case string:
		kind = "string"
	case bool:
		kind = "boolean"
	case float64:
		if kind = "number"; v == math.Trunc(v) {
			kind = "integer"
		}
		if s.Minimum != nil && v < *s.Minimum {
			faults = append(faults, path+": too small")
		}
	case []any:
		kind = "array"
		for _, x := range v {
			if s.Items != nil {
				faults = append(faults, s.Items.faults(path+"[]", x)...)
			}
		}
	case map[string]any:
		kind = "object"
		for _, key := range s.Required {
			if _, ok := v[key]; !ok {
				faults = append(faults, path+": lacks "+key)
			}
		}
		var more *schema
		if len(s.AdditionalProperties) > 0 && s.AdditionalProperties[0] == '{' {
			more = &schema{}
			if err := json.Unmarshal(s.AdditionalProperties, more); err != nil {
				faults = append(faults, err.Error())
			}
		}
		for key, x := range v {
			at := s.Properties[key]
			if at == nil {
				at = more
			}
			if at != nil {
				faults = append(faults, at.faults(path+"."+key, x)...)
			}
		}
	}
	if s.Type != "" && kind != s.Type {
		faults = append(faults, path+": is "+kind+", not "+s.Type)
	}
	if s.Const != nil && v != s.Const || s.Enum != nil && !slices.Contains(s.Enum, v) {
		faults = append(faults, path+": is another value")
	}
	return faults
}

// FuzzDocument: whatever is read, is written and read again as the same.
func FuzzDocument(f *testing.F) {
	f.Add(full().Encode())
	f.Add([]byte(`{"os":{"x":[1,"é"]},"y":null,"properties":{"y":"1"},"tags":[],"min_disk":1e2}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		d, err := DecodeDocument(p)
		if err != nil {
			if disk.KindOf(err) == disk.Other {
				t.Fatalf("an error without a kind: %v", err)
			}
			return
		}
		enc := d.Encode()
		again, err := DecodeDocument(enc)
		if err != nil || string(again.Encode()) != string(enc) {
			t.Fatalf("%s: read again: %v\n%s", enc, err, again.Encode())
		}
	})
}
