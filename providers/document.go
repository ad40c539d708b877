package providers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"chromogenic/disk"
)

// MaxDocument is the most that a document may have, in bytes.
const MaxDocument = 1 << 20

// documentSchema is the version of the schema, docs/image.schema.json.
const documentSchema = 1

// A Document is what <name>.json says: one schema for all providers.
type Document struct {
	Name string // of the image; the file's own name decides
	Metadata
	Disks []DocumentDisk // of a machine with several; for information
	Notes []string       // what keeps the image from being all there; for information
}

// A DocumentDisk is what a document says of one disk.
type DocumentDisk struct {
	Device string `json:"device,omitempty"`
	Bus    string `json:"bus,omitempty"`
	Size   int64  `json:"size"` // bytes
}

// Encode writes the document: the same bytes for the same content, its keys in
// order, without what is not known.
func (d Document) Encode() []byte {
	root := map[string]any{"schema": documentSchema}
	if d.Name != "" {
		root["name"] = d.Name
	}
	for _, f := range metaFields(&d.Meta) {
		if f.text() == "" {
			continue
		}
		at, key := root, f.key
		if head, tail, nested := strings.Cut(f.key, "."); nested {
			inner, ok := root[head].(map[string]any)
			if !ok {
				inner = map[string]any{}
				root[head] = inner
			}
			at, key = inner, tail
		}
		at[key] = f.value
	}
	if len(d.Props) > 0 {
		root["properties"] = d.Props
	}
	if len(d.Disks) > 0 {
		root["disks"] = d.Disks
	}
	if len(d.Notes) > 0 {
		root["notes"] = d.Notes
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(root) // texts, numbers and lists of them, into memory: it does not fail
	return b.Bytes()
}

// DecodeDocument reads a document. It is strict about types: errors are Malformed
// and name the key. A key that is not of the schema becomes a property, so that
// nothing is lost; so does one within "os", as "os.KEY".
func DecodeDocument(p []byte) (Document, error) {
	d, err := decodeDocument(p)
	if err != nil {
		return Document{}, fmt.Errorf("parse metadata: %w", err)
	}
	return d, nil
}

func decodeDocument(p []byte) (d Document, err error) {
	if len(p) > MaxDocument {
		return d, disk.Errorf(disk.TooLarge, "%d bytes, at most %d", len(p), MaxDocument)
	}
	if !json.Valid(p) {
		var syntax *json.SyntaxError
		if err := json.Unmarshal(p, new(any)); errors.As(err, &syntax) {
			return d, disk.Errorf(disk.Malformed, "byte %d: %w", syntax.Offset, err)
		}
		return d, disk.Errorf(disk.Malformed, "it is not JSON")
	}
	root, err := object("", p)
	if err != nil {
		return d, err
	}
	r := &documentReader{fields: map[string]metaField{}, unknown: map[string]string{}}
	for _, f := range metaFields(&d.Meta) {
		r.fields[f.key] = f
	}
	for _, key := range slices.Sorted(maps.Keys(root)) {
		raw := root[key]
		switch key {
		case "schema":
			schema := documentSchema
			if err = value(key, raw, &schema, "a whole number"); err == nil && schema != documentSchema {
				err = disk.Errorf(disk.Unsupported, "key %q: schema %d, this program knows %d", key, schema, documentSchema)
			}
		case "name":
			err = value(key, raw, &d.Name, "a text")
		case "disks":
			err = value(key, raw, &d.Disks, "a list of disks")
		case "notes":
			err = value(key, raw, &d.Notes, "a list of texts")
		case "properties":
			d.Props, err = properties(key, raw)
		case "os":
			err = r.nested(key, raw)
		default:
			err = r.take(key, raw)
		}
		if err != nil {
			return d, err
		}
	}
	if len(r.unknown) > 0 {
		maps.Copy(r.unknown, d.Props)
		d.Props = r.unknown
	}
	return d, nil
}

// IsDocument tells whether a text says of itself that it is a document, of whatever
// version and with whatever mistakes: it is a JSON object with a number as "schema".
// Nothing else is ever written over or removed for one.
func IsDocument(p []byte) bool {
	var d struct {
		Schema json.Number `json:"schema"`
	}
	return json.Unmarshal(p, &d) == nil && d.Schema != ""
}

// A documentReader fills the fields by their keys.
type documentReader struct {
	fields  map[string]metaField
	unknown map[string]string
}

func (r *documentReader) nested(path string, raw json.RawMessage) error {
	inner, err := object(path, raw)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(inner)) {
		if err := r.take(path+"."+key, inner[key]); err != nil {
			return err
		}
	}
	return nil
}

// take gives a value to the field of its key, or keeps it as a property: a text as
// it is, anything else as JSON.
func (r *documentReader) take(path string, raw json.RawMessage) error {
	f, ok := r.fields[path]
	if !ok {
		if path == "" {
			return disk.Errorf(disk.Malformed, "a key is empty")
		}
		var text string
		if json.Unmarshal(raw, &text) != nil {
			var b bytes.Buffer
			if err := json.Compact(&b, raw); err != nil {
				return disk.Errorf(disk.Malformed, "key %.80q: %w", path, err)
			}
			text = b.String()
		}
		if text != "" {
			r.unknown[path] = text
		}
		return nil
	}
	want := "a text"
	switch f.value.(type) {
	case *bool:
		want = "true or false"
	case *int, *int64:
		want = "a whole number"
	case *[]string:
		want = "a list of texts"
	}
	if err := value(path, raw, f.value, want); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return disk.Errorf(disk.Malformed, "key %q: %w", path, err)
	}
	return nil
}

// value decodes one value; null is one that is not known.
func value(path string, raw json.RawMessage, into any, want string) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return disk.Errorf(disk.Malformed, "key %.80q: want %s, got %.40s", path, want, raw)
	}
	return nil
}

// object decodes the keys of an object.
func object(path string, raw json.RawMessage) (map[string]json.RawMessage, error) {
	var o map[string]json.RawMessage
	err := json.Unmarshal(raw, &o)
	if err == nil && (o != nil || path != "") {
		return o, nil
	}
	if path == "" {
		return nil, disk.Errorf(disk.Malformed, "want an object, got %.40s", raw)
	}
	return nil, disk.Errorf(disk.Malformed, "key %q: want an object, got %.40s", path, raw)
}

// properties decodes the properties: each key that is not null has a text.
func properties(path string, raw json.RawMessage) (map[string]string, error) {
	inner, err := object(path, raw)
	if err != nil {
		return nil, err
	}
	props := map[string]string{}
	for key, raw := range inner {
		if key == "" {
			return nil, disk.Errorf(disk.Malformed, "key %q: a key in it is empty", path)
		}
		var text *string
		if err := value(path+"."+key, raw, &text, "a text"); err != nil {
			return nil, err
		}
		if text != nil {
			props[key] = *text
		}
	}
	return props, nil
}
