package bundle

import (
	"bytes"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"chromogenic/disk"
	"chromogenic/providers/internal/crypt"
)

// unsigned stands for a signature where there is none, as euca2ools writes it: EC2
// wants the element, and Eucalyptus does not look at it.
const unsigned = "UNSIGNED"

// Encode writes the manifest, signed where signer is not nil. A manifest that Parse
// would refuse is Invalid.
//
// Elements stand in the order of euca2ools, and nothing between them: what is
// signed is then the same bytes in the file and after any XML library has read and
// written it.
func (m *Manifest) Encode(signer *rsa.PrivateKey) ([]byte, error) {
	text, err := m.encode(signer)
	if err != nil {
		return nil, fmt.Errorf("write manifest of %q: %w", m.Name, err)
	}
	return text, nil
}

func (m *Manifest) encode(signer *rsa.PrivateKey) ([]byte, error) {
	if _, err := crypt.Find(m.Algorithm); err != nil {
		return nil, disk.Errorf(disk.Invalid, "%w", err)
	}
	signed := m.machine() + m.image()
	signature := unsigned
	if signer != nil {
		s, err := crypt.Sign(signer, []byte(signed))
		if err != nil {
			return nil, err
		}
		signature = hex.EncodeToString(s)
	}
	text := []byte(`<?xml version="1.0"?>` + "\n" + element("manifest",
		leaf("version", Version),
		element("bundler", leaf("name", m.Bundler.Name), leaf("version", m.Bundler.Version), leaf("release", m.Bundler.Release)),
		signed, leaf("signature", signature)))
	if _, err := parse(text); err != nil {
		return nil, disk.Errorf(disk.Invalid, "%w", err)
	}
	return text, nil
}

func (m *Manifest) machine() string {
	var devices, codes []string
	for _, d := range m.BlockDevices {
		devices = append(devices, element("mapping", leaf("virtual", d.Virtual), leaf("device", d.Device)))
	}
	for _, c := range m.ProductCodes {
		codes = append(codes, leaf("product_code", c))
	}
	return element("machine_configuration",
		optional("architecture", m.Architecture),
		parent("block_device_mapping", devices), parent("product_codes", codes),
		optional("kernel_id", m.KernelID), optional("ramdisk_id", m.RamdiskID))
}

func (m *Manifest) image() string {
	var ancestors, parts []string
	for _, a := range m.Ancestors {
		ancestors = append(ancestors, leaf("ancestor_ami_id", a))
	}
	const sha1 = ` algorithm="SHA1"`
	for i, p := range m.Parts {
		parts = append(parts, tag("part", fmt.Sprintf(` index="%d"`, i),
			leaf("filename", p.Name)+tag("digest", sha1, hex.EncodeToString(p.SHA1[:]))))
	}
	cipher := ` algorithm="` + escape(m.Algorithm) + `"`
	return element("image",
		leaf("name", m.Name), leaf("user", m.User),
		optional("type", m.Type), // Eucalyptus finds it behind the user alone
		optional("kernel_name", m.KernelName), parent("ancestry", ancestors),
		tag("digest", sha1, hex.EncodeToString(m.Digest[:])),
		leaf("size", strconv.FormatInt(m.Size, 10)), leaf("bundled_size", strconv.FormatInt(m.BundledSize, 10)),
		tag("ec2_encrypted_key", cipher, hex.EncodeToString(m.Cloud.Key)),
		tag("user_encrypted_key", cipher, hex.EncodeToString(m.Owner.Key)),
		leaf("ec2_encrypted_iv", hex.EncodeToString(m.Cloud.IV)),
		leaf("user_encrypted_iv", hex.EncodeToString(m.Owner.IV)),
		tag("parts", fmt.Sprintf(` count="%d"`, len(m.Parts)), strings.Join(parts, "")))
}

// tag is an element. One without content is written as canonical libraries do.
func tag(name, attributes, content string) string {
	if content == "" {
		return "<" + name + attributes + "/>"
	}
	return "<" + name + attributes + ">" + content + "</" + name + ">"
}

func element(name string, content ...string) string { return tag(name, "", strings.Join(content, "")) }

func leaf(name, text string) string { return tag(name, "", escape(text)) }

// optional is a leaf that is left out when it is empty, and parent an element that
// is left out when it has no children.
func optional(name, text string) string {
	if text == "" {
		return ""
	}
	return leaf(name, text)
}

func parent(name string, children []string) string {
	if len(children) == 0 {
		return ""
	}
	return element(name, children...)
}

// escape escapes what any XML library would, and no more.
func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

// between finds the white space between two elements.
func between() *regexp.Regexp { return regexp.MustCompile(`>[ \t\r\n]+<`) }

// compact takes the white space between elements away.
func compact(text []byte) []byte {
	return between().ReplaceAll(bytes.TrimSpace(text), []byte("><"))
}
