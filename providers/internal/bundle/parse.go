package bundle

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"chromogenic/disk"
)

// Bounds of a manifest. EC2 takes images of 10 GiB; 50,000 parts are 488 GiB.
const (
	// MaxManifest is how many bytes a manifest may have.
	MaxManifest = 16 << 20
	maxParts    = 50_000
	maxDepth    = 8       // the deepest element that is known has five above it
	maxText     = 8 << 10 // bytes of one element: a key of 16384 bits in hex is half of it
	maxName     = 255     // bytes of a part's name, as of a file's
	maxSize     = 1 << 46 // bytes of a disk: 64 TiB
)

// Parse reads a manifest. It is Malformed where it is no well-formed XML, declares a
// document type (there is no other way to define an entity), or says what cannot
// be: parts that are missing or there twice, names with a folder in them, sizes
// that do not go together. A version that is not known is Unsupported.
//
// What it says of itself is not proven by that: see Verify, and Unbundle for what
// it says of the parts.
func Parse(text []byte) (*Manifest, error) {
	m, err := parse(text)
	if err != nil {
		err = fmt.Errorf("read manifest: %w", err)
		return nil, disk.Hint(err, "fetch it anew from where the bundle was made; a manifest is an XML file of some kilobytes that ends in %s", ManifestSuffix)
	}
	return m, nil
}

func parse(text []byte) (*Manifest, error) {
	if len(text) > MaxManifest {
		return nil, malformed("%d bytes are more than any manifest has", len(text))
	}
	p := parser{m: &Manifest{}, text: text, parts: map[int]Part{}, count: -1}
	d := newDecoder(text)
	for {
		before := d.InputOffset()
		t, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, malformed("%w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			err = p.start(t, before)
		case xml.EndElement:
			err = p.end(d.InputOffset())
		case xml.CharData:
			err = p.chars(t)
		case xml.Directive:
			err = malformed("document type declarations are refused")
		}
		if err != nil {
			return nil, fmt.Errorf("at byte %d: %w", before, err)
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.m, nil
}

// newDecoder knows no entities but XML's own five.
func newDecoder(text []byte) *xml.Decoder {
	d := xml.NewDecoder(bytes.NewReader(text))
	d.CharsetReader = func(label string, r io.Reader) (io.Reader, error) {
		if strings.EqualFold(label, "us-ascii") || strings.EqualFold(label, "ascii") {
			return r, nil // lxml says so of what has no other character
		}
		return nil, fmt.Errorf("encoding %q is not supported", label)
	}
	return d
}

// rootElement is the name of the outermost element, which must begin in the first
// kilobytes.
func rootElement(text []byte) (string, error) {
	d := newDecoder(text[:min(len(text), 4<<10)])
	for {
		t, err := d.Token()
		if err != nil {
			return "", err
		}
		if e, ok := t.(xml.StartElement); ok {
			return e.Name.Local, nil
		}
	}
}

// A parser goes through the elements of a manifest in order and keeps none.
type parser struct {
	m      *Manifest
	text   []byte
	levels []level // the open elements, the innermost last
	count  int     // of parts, as the manifest says; -1 for not yet
	parts  map[int]Part
	cipher string // algorithm of the other key

	index   int // of the part that is open
	part    Part
	mapping Mapping
	signed  [2][]byte // machine_configuration and image
}

// A level is an open element.
type level struct {
	path string // from the root on: "manifest/image/name"
	from int64  // its first byte in the file
	attr map[string]string
	text []byte
	seen map[string]bool // the children that may be there only once
}

// repeated tells which elements may stand beside another of their name.
func repeated(name string) bool {
	switch name {
	case "mapping", "block_device_mapping", "product_code", "part", "ancestor_ami_id":
		return true
	}
	return false
}

func (p *parser) start(t xml.StartElement, from int64) error {
	name := t.Name.Local
	l := level{path: name, from: from}
	if n := len(p.levels); n > 0 {
		up := &p.levels[n-1]
		l.path = up.path + "/" + name
		if !repeated(name) {
			if up.seen[name] {
				return malformed("element %q is there twice", l.path)
			}
			if up.seen == nil {
				up.seen = map[string]bool{}
			}
			up.seen[name] = true
		}
	}
	if len(p.levels) == maxDepth {
		return malformed("elements are nested more than %d deep", maxDepth)
	}
	for _, a := range t.Attr {
		if l.attr == nil {
			l.attr = map[string]string{}
		}
		l.attr[a.Name.Local] = strings.TrimSpace(a.Value)
	}
	p.levels = append(p.levels, l)
	switch l.path {
	case "manifest/image/parts":
		n, err := number("count", l.attr["count"], maxParts)
		p.count = int(n)
		return err
	case "manifest/image/parts/part":
		n, err := number("index", l.attr["index"], maxParts)
		p.index, p.part = int(n), Part{}
		return err
	}
	return nil
}

func (p *parser) chars(text []byte) error {
	n := len(p.levels)
	if n == 0 {
		if len(bytes.TrimSpace(text)) > 0 {
			return malformed("text outside of all elements")
		}
		return nil
	}
	l := &p.levels[n-1]
	text = bytes.TrimSpace(text)
	if len(l.text)+len(text) > maxText {
		return malformed("element %q has more than %d bytes", l.path, maxText)
	}
	l.text = append(l.text, text...)
	return nil
}

func (p *parser) end(to int64) error {
	l := p.levels[len(p.levels)-1]
	p.levels = p.levels[:len(p.levels)-1]
	path, ok := strings.CutPrefix(l.path, "manifest")
	switch {
	case !ok || path != "" && path[0] != '/':
		return malformed("the outermost element is %q, not \"manifest\"", l.path)
	case path == "/machine_configuration":
		p.signed[0] = p.text[l.from:to]
	case path == "/image":
		p.signed[1] = p.text[l.from:to]
	}
	if err := p.value(path, string(l.text), l.attr); err != nil {
		return fmt.Errorf("%s: %w", strings.TrimPrefix(path, "/"), err)
	}
	return nil
}

// value takes up an element; one that is not known is passed over.
func (p *parser) value(path, text string, attr map[string]string) (err error) {
	m := p.m
	switch path {
	case "/version":
		m.Version = text
	case "/bundler/name":
		m.Bundler.Name = text
	case "/bundler/version":
		m.Bundler.Version = text
	case "/bundler/release":
		m.Bundler.Release = text
	case "/machine_configuration/architecture":
		m.Architecture = text
	case "/machine_configuration/kernel_id":
		m.KernelID = text
	case "/machine_configuration/ramdisk_id":
		m.RamdiskID = text
	case "/machine_configuration/product_codes/product_code", "/machine_configuration/productcodes/product_code":
		m.ProductCodes = append(m.ProductCodes, text)
	// The second spelling is the one that euca2ools reads, though it writes the first.
	case "/machine_configuration/block_device_mapping/mapping", "/machine_configuration/block_device_mappings/block_device_mapping":
		m.BlockDevices = append(m.BlockDevices, p.mapping)
		p.mapping = Mapping{}
	case "/machine_configuration/block_device_mapping/mapping/virtual", "/machine_configuration/block_device_mappings/block_device_mapping/virtual":
		p.mapping.Virtual = text
	case "/machine_configuration/block_device_mapping/mapping/device", "/machine_configuration/block_device_mappings/block_device_mapping/device":
		p.mapping.Device = text
	case "/image/name":
		m.Name = text
	case "/image/user":
		m.User = text
	case "/image/type":
		m.Type = text
	case "/image/kernel_name":
		m.KernelName = text
	case "/image/ancestry/ancestor_ami_id":
		m.Ancestors = append(m.Ancestors, text)
	case "/image/digest":
		return digest(m.Digest[:], text, attr)
	case "/image/size":
		m.Size, err = number("size", text, maxSize)
	case "/image/bundled_size":
		m.BundledSize, err = number("size", text, maxSize)
	case "/image/ec2_encrypted_key":
		m.Algorithm = attr["algorithm"]
		m.Cloud.Key, err = sealed(text)
	case "/image/user_encrypted_key":
		p.cipher = attr["algorithm"]
		m.Owner.Key, err = sealed(text)
	case "/image/ec2_encrypted_iv":
		m.Cloud.IV, err = sealed(text)
	case "/image/user_encrypted_iv":
		m.Owner.IV, err = sealed(text)
	case "/image/parts/part":
		return p.addPart()
	case "/image/parts/part/filename":
		p.part.Name = text
		return plainName(text)
	case "/image/parts/part/digest":
		return digest(p.part.SHA1[:], text, attr)
	case "/signature":
		if text != "" && text != unsigned {
			m.Signature, err = sealed(text)
		}
	}
	return err
}

func (p *parser) addPart() error {
	switch _, twice := p.parts[p.index]; {
	case twice:
		return malformed("part %d is there twice", p.index)
	case p.count >= 0 && p.index >= p.count:
		return malformed("part %d of %d", p.index, p.count)
	case p.part.Name == "":
		return malformed("part %d has no file name", p.index)
	case p.part.SHA1 == Part{}.SHA1:
		return malformed("part %d has no digest", p.index)
	}
	p.parts[p.index] = p.part
	return nil
}

// finish checks what is there when all is read.
func (p *parser) finish() error {
	m := p.m
	required := []struct {
		missing bool
		name    string
	}{
		{p.signed[1] == nil, "image"},
		{m.Version == "", "version"},
		{m.Name == "", "image/name"},
		{m.User == "", "image/user"},
		{m.Digest == Part{}.SHA1, "image/digest"},
		{m.Size == 0, "image/size"},
		{m.BundledSize == 0, "image/bundled_size"},
		{p.count < 1, "image/parts"},
	}
	for _, r := range required {
		if r.missing {
			return malformed("element %q is missing or empty", r.name)
		}
	}
	switch m.Version {
	case Version, "2007-08-29", "3":
	default:
		return disk.Errorf(disk.Unsupported, "version %q is not known", m.Version)
	}
	names := map[string]bool{}
	for i := range p.count {
		part, ok := p.parts[i]
		switch {
		case !ok:
			return malformed("part %d of %d is missing", i, p.count)
		case names[part.Name]:
			return malformed("two parts are named %q", part.Name)
		}
		names[part.Name] = true
		m.Parts = append(m.Parts, part)
	}
	// All parts but the last two have bytes in them: euca2ools writes an empty one
	// behind a last part that is full.
	if m.BundledSize%aes.BlockSize != 0 || m.BundledSize < int64(p.count-1) {
		return malformed("%d bytes in %d parts cannot be", m.BundledSize, p.count)
	}
	if m.Algorithm == "" {
		m.Algorithm = p.cipher
	} else if p.cipher != "" && p.cipher != m.Algorithm {
		return malformed("one key is for %q, the other for %q", m.Algorithm, p.cipher)
	}
	m.signed = append(append([]byte{}, p.signed[0]...), p.signed[1]...)
	return nil
}

// number reads a decimal number from 0 to limit.
func number(what, text string, limit int64) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, malformed("%s %q is no number", what, text)
	}
	if int64(n) > limit {
		return 0, malformed("%s %d is more than %d", what, n, limit)
	}
	return int64(n), nil
}

// digest reads a SHA-1.
func digest(sum []byte, text string, attr map[string]string) error {
	if a := attr["algorithm"]; a != "" && !strings.EqualFold(a, "SHA1") && !strings.EqualFold(a, "SHA-1") {
		return disk.Errorf(disk.Unsupported, "digest algorithm %q is not known", a)
	}
	p, err := hex.DecodeString(text)
	if err != nil || len(p) != len(sum) {
		return malformed("digest %q is none of SHA-1", text)
	}
	copy(sum, p)
	return nil
}

// sealed reads a ciphertext in hex, which may be empty.
func sealed(text string) ([]byte, error) {
	p, err := hex.DecodeString(text)
	if err != nil {
		return nil, malformed("%d characters are not in hex", len(text))
	}
	return p, nil
}

// plainName refuses what is not the name of a file in the folder of the manifest.
func plainName(name string) error {
	bad := name == "" || name == "." || name == ".." || len(name) > maxName || !utf8.ValidString(name) ||
		strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == '\\' || unicode.IsControl(r) })
	if bad {
		return malformed("%q is no plain file name", name)
	}
	return nil
}
