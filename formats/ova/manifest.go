package ova

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"

	"chromogenic/disk"
)

// A manifest holds the digests of files by name (DSP0243 6.4).
type manifest map[string][]digest

// A digest is of a whole file.
type digest struct {
	algorithm string // "SHA256"
	sum       []byte
}

// newHash makes the hash of an algorithm, by the names that DSP0243, openssl
// dgst (of version 3 too) and sha256sum --tag give it; nil for any other.
func newHash(algorithm string) hash.Hash {
	switch algorithm {
	case "SHA1":
		return sha1.New()
	case "SHA256":
		return sha256.New()
	case "SHA384":
		return sha512.New384()
	case "SHA512":
		return sha512.New()
	}
	return nil
}

func canonicalAlgorithm(name string) string {
	name = strings.ToUpper(strings.TrimSpace(name))
	if rest, ok := strings.CutPrefix(name, "SHA2-"); ok { // openssl 3
		return "SHA" + rest
	}
	return strings.Replace(name, "SHA-", "SHA", 1)
}

// parseManifest reads lines of the form "SHA256(disk1.vmdk)= 6d1a…". One that is
// not of that form is an error: what it was to protect is not known.
func parseManifest(text []byte) (manifest, error) {
	m := manifest{}
	text = bytes.TrimPrefix(text, []byte(utf8BOM))
	for n, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		head, rest, ok := strings.Cut(line, "(")
		shut := strings.LastIndexByte(rest, ')')
		if !ok || shut < 0 {
			return nil, disk.Errorf(disk.Malformed, "parse manifest: line %d is not of the form SHA256(name)= digest", n+1)
		}
		name := strings.TrimPrefix(rest[:shut], "./")
		value, ok := strings.CutPrefix(strings.TrimSpace(rest[shut+1:]), "=")
		if !ok || name == "" {
			return nil, disk.Errorf(disk.Malformed, "parse manifest: line %d is not of the form SHA256(name)= digest", n+1)
		}
		d := digest{algorithm: canonicalAlgorithm(head)}
		h := newHash(d.algorithm)
		if h == nil {
			return nil, disk.Hint(disk.Errorf(disk.Unsupported, "parse manifest: line %d: unknown digest algorithm %q", n+1, head),
				"take the manifest out of the package if you trust the file")
		}
		var err error
		if d.sum, err = hex.DecodeString(strings.TrimSpace(value)); err != nil || len(d.sum) != h.Size() {
			return nil, disk.Errorf(disk.Malformed, "parse manifest: line %d: not a %s digest of %q", n+1, d.algorithm, name)
		}
		if m, err = m.join(manifest{name: {d}}); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// join adds the digests of other. Two of one file and algorithm must agree.
func (m manifest) join(other manifest) (manifest, error) {
	if m == nil {
		return other, nil
	}
	for name, digests := range other {
	next:
		for _, d := range digests {
			for _, have := range m[name] {
				if have.algorithm != d.algorithm {
					continue
				}
				if !bytes.Equal(have.sum, d.sum) {
					return nil, disk.Errorf(disk.Malformed, "parse manifest: two %s digests of %q that differ", d.algorithm, name)
				}
				continue next
			}
			m[name] = append(m[name], d)
		}
	}
	return m, nil
}

// hashChunk is how much is read at a time to compute a digest, in bytes.
const hashChunk = 1 << 20

// verify compares img with the digests of the file of that name. Where there is
// none it reads nothing.
func (m manifest) verify(ctx context.Context, name string, img disk.Image) error {
	for _, d := range m[name] {
		h := newHash(d.algorithm)
		buf := make([]byte, min(hashChunk, img.Size()))
		for off := int64(0); off < img.Size(); off += int64(len(buf)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := buf[:min(int64(len(buf)), img.Size()-off)]
			if err := disk.ReadFull(img, p, off); err != nil {
				return err
			}
			h.Write(p)
		}
		if sum := h.Sum(nil); !bytes.Equal(sum, d.sum) {
			return disk.Hint(disk.Errorf(disk.Malformed, "verify %q: the manifest says %s %x, the file has %x", name, d.algorithm, d.sum, sum),
				"the package is damaged or was changed after it was made; fetch it again")
		}
	}
	return nil
}
