package ova

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"chromogenic/disk"
)

const utf8BOM = "\xef\xbb\xbf"

// Bounds of a descriptor as XML. The largest seen, a vApp of VMware with ten
// configurations, has 3,000 elements, and the deepest, of VirtualBox, 12 levels.
const (
	maxElements = 50_000
	maxDepth    = 64
)

// An element is one of XML with all below it. Names and attributes are looked
// for by their local part, and attributes of OVF by any of OVF's namespaces:
// these differ from version to version and from maker to maker.
type element struct {
	name  xml.Name
	attrs []xml.Attr
	kids  []*element
	raw   []byte // character data before the first child
	text  string // the same, trimmed
}

// parseXML reads a document. It knows no entities but XML's own five and refuses
// a document type declaration.
func parseXML(text []byte) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(toUTF8(text)))
	d.CharsetReader = charset
	root := &element{}
	stack := []*element{root}
	for count := 0; ; {
		t, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, disk.Errorf(disk.Malformed, "parse ovf: %w", err)
		}
		top := stack[len(stack)-1]
		switch t := t.(type) {
		case xml.StartElement:
			if count++; count > maxElements || len(stack) > maxDepth {
				return nil, disk.Errorf(disk.Malformed, "parse ovf: more than %d elements or %d levels", maxElements, maxDepth)
			}
			e := &element{name: t.Name, attrs: t.Copy().Attr}
			top.kids = append(top.kids, e)
			stack = append(stack, e)
		case xml.EndElement:
			top.text, top.raw = strings.TrimSpace(string(top.raw)), nil
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(top.kids) == 0 {
				top.raw = append(top.raw, t...)
			}
		case xml.Directive:
			return nil, disk.Errorf(disk.Malformed, "parse ovf: document type declarations are refused")
		}
	}
	if len(root.kids) != 1 {
		return nil, disk.Errorf(disk.Malformed, "parse ovf: %d root elements", len(root.kids))
	}
	return root.kids[0], nil
}

// toUTF8 decodes a text in UTF-16, as its byte order mark or its first "<" shows,
// and takes the mark away.
func toUTF8(text []byte) []byte {
	var order binary.ByteOrder
	switch string(text[:min(2, len(text))]) {
	case "\xff\xfe", "<\x00":
		order = binary.LittleEndian
	case "\xfe\xff", "\x00<":
		order = binary.BigEndian
	}
	if order != nil {
		units := make([]uint16, len(text)/2)
		for i := range units {
			units[i] = order.Uint16(text[2*i:])
		}
		text = []byte(string(utf16.Decode(units)))
	}
	return bytes.TrimPrefix(text, []byte(utf8BOM))
}

// charset decodes the encodings that descriptors are written in besides UTF-8.
func charset(label string, r io.Reader) (io.Reader, error) {
	switch strings.ToLower(label) {
	case "us-ascii", "ascii", "utf-16", "utf-16le", "utf-16be": // of UTF-16 is only the name left
		return r, nil
	case "iso-8859-1", "latin1", "windows-1252":
		latin, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		runes := make([]rune, len(latin))
		for i, b := range latin {
			runes[i] = rune(b)
		}
		return strings.NewReader(string(runes)), nil
	}
	return nil, fmt.Errorf("encoding %q is not supported", label)
}

// is tells whether e is a section of the kind ("DiskSection"). OVF 0.9 writes
// <Section xsi:type="ovf:DiskSection_Type">, and VirtualSystem as Content.
func (e *element) is(kind string) bool {
	switch e.name.Local {
	case kind:
		return true
	case "Section", "Content":
		for _, a := range e.attrs {
			if a.Name.Local == "type" {
				_, local, _ := strings.Cut(a.Value, ":")
				return local == kind+"_Type" || a.Value == kind+"_Type"
			}
		}
	}
	return false
}

// all is the children of the kind, first the first of them or an empty element.
func (e *element) all(kind string) []*element {
	var found []*element
	for _, k := range e.kids {
		if k.is(kind) {
			found = append(found, k)
		}
	}
	return found
}

func (e *element) first(kind string) *element {
	for _, k := range e.kids {
		if k.is(kind) {
			return k
		}
	}
	return &element{}
}

// attr is the value of an attribute of OVF: of one of its namespaces or of none.
func (e *element) attr(local string) string {
	for _, a := range e.attrs {
		if a.Name.Local == local && (a.Name.Space == "" || isOVF(a.Name.Space)) {
			return strings.TrimSpace(a.Value)
		}
	}
	return ""
}

// attrOf is the value of an attribute whose namespace contains the text.
func (e *element) attrOf(space, local string) string {
	for _, a := range e.attrs {
		if a.Name.Local == local && strings.Contains(a.Name.Space, space) {
			return strings.TrimSpace(a.Value)
		}
	}
	return ""
}

// isOVF tells whether a namespace is one of OVF's own: …/ovf/envelope/1 and /2 of
// DSP0243 1.x and 2.x, …/ovf/1/envelope of 0.9, or a prefix without declaration.
func isOVF(space string) bool {
	return space == "ovf" || strings.Contains(space, "/ovf") && strings.Contains(space, "envelope")
}
