package bundle

import (
	"crypto/rsa"
	"crypto/sha1"
	"fmt"
	"strings"

	"chromogenic/disk"
	"chromogenic/providers/internal/crypt"
)

// The kinds of image: image/type of a manifest.
const (
	Machine = "machine"
	Kernel  = "kernel"
	Ramdisk = "ramdisk"
)

// Version is that of the manifests that Encode writes.
const Version = "2007-10-10"

// A Manifest describes a bundle. It holds the elements of version 2007-10-10; those
// of 2007-08-29 and 3 are a part of them.
type Manifest struct {
	Version string
	Bundler Bundler

	// The machine's configuration. All may be empty; the architecture then means
	// i386 to Eucalyptus.
	Architecture string    // "x86_64", "i386"
	BlockDevices []Mapping // in the order of the manifest
	ProductCodes []string
	KernelID     string // "eki-…", "aki-…", or "true" for an image that is a kernel
	RamdiskID    string // "eri-…", "ari-…", or "true" for an image that is a ramdisk

	Name       string // of the image: what parts and tar member begin with
	User       string // the number of the account whose image it is
	Type       string // Machine, Kernel, Ramdisk, or empty
	KernelName string // the file of a kernel in its image
	Ancestors  []string

	Digest      [sha1.Size]byte // SHA-1 of the tar stream
	Size        int64           // of the disk, bytes
	BundledSize int64           // the sum of the parts, bytes

	Algorithm string       // of the cipher: "AES-128-CBC"
	Cloud     crypt.Sealed // the secret for the cloud
	Owner     crypt.Sealed // the secret for the user
	Parts     []Part

	Signature []byte // nil where there is none: "UNSIGNED", or nothing

	signed []byte // the text of both elements that are signed, as they stand in the file
}

// A Bundler is the program that made a bundle.
type Bundler struct {
	Name, Version, Release string
}

// A Mapping is a row of the block device mapping: "ami" is "sda1", "ephemeral0" is
// "sdb".
type Mapping struct {
	Virtual, Device string
}

// A Part is one file of the disk.
type Part struct {
	Name string // a plain one: no folder
	SHA1 [sha1.Size]byte
}

// CheckUser tells whether the image is of an account; another's is Denied. The
// hyphens that accounts are written with do not count.
func (m *Manifest) CheckUser(account string) error {
	if strings.ReplaceAll(m.User, "-", "") == strings.ReplaceAll(account, "-", "") {
		return nil
	}
	return disk.Hint(disk.Errorf(disk.Denied, "open bundle %q: it belongs to account %q, not %q", m.Name, m.User, account),
		"use the credentials of the account that made the bundle, or have its owner copy the image")
}

// Seal sets who can read the bundle: the cloud and the user, of whom one may be
// nil. A bundle to be registered needs the cloud.
func (m *Manifest) Seal(s crypt.Secret, cloud, user *rsa.PublicKey) error {
	m.Cloud, m.Owner = crypt.Sealed{}, crypt.Sealed{}
	for _, reader := range []struct {
		key    *rsa.PublicKey
		sealed *crypt.Sealed
	}{{cloud, &m.Cloud}, {user, &m.Owner}} {
		if reader.key == nil {
			continue
		}
		sealed, err := crypt.Seal(reader.key, s)
		if err != nil {
			return fmt.Errorf("seal bundle %q: %w", m.Name, err)
		}
		*reader.sealed = sealed
	}
	return nil
}

// Secret unseals the content key with the first of the keys that opens it, sealed
// for the user or for the cloud. Where none does it is Denied: the image cannot be
// read.
func (m *Manifest) Secret(keys ...*rsa.PrivateKey) (crypt.Secret, error) {
	var last error
	for _, key := range keys {
		for _, sealed := range []crypt.Sealed{m.Owner, m.Cloud} {
			if len(sealed.Key) == 0 {
				continue
			}
			s, err := crypt.Unseal(key, sealed)
			if err == nil {
				return s, nil
			}
			// That it is sealed for somebody else says less than what is wrong with it.
			if last == nil || disk.KindOf(last) == disk.Denied {
				last = err
			}
		}
	}
	switch {
	case len(m.Owner.Key) == 0 && len(m.Cloud.Key) == 0:
		return crypt.Secret{}, malformed("open bundle %q: its key is sealed for nobody", m.Name)
	case last == nil:
		last = disk.Errorf(disk.Denied, "no private key that it is sealed for")
	}
	err := fmt.Errorf("open bundle %q: %w", m.Name, last)
	if disk.KindOf(err) == disk.Denied {
		err = disk.Hint(err, "it needs the private key of the X.509 certificate that it was bundled with, or that of the cloud; without one of them nobody can read the image")
	}
	return crypt.Secret{}, err
}

// Verify checks the signature of the manifest against the certificate of who made
// it. Without one, and where it is not that of this text, it is Malformed.
//
// Signed are the elements machine_configuration and image, one behind the other.
// ec2-ami-tools signs them as they stand in the file; euca2ools without the white
// space that it may put between elements.
func (m *Manifest) Verify(by *rsa.PublicKey) error {
	if m.Signature == nil {
		return disk.Hint(malformed("verify manifest of %q: it is not signed", m.Name), "bundle the image anew with a private key")
	}
	err := crypt.Verify(by, m.signed, m.Signature)
	if err != nil && crypt.Verify(by, compact(m.signed), m.Signature) == nil {
		return nil
	}
	if err != nil {
		err = fmt.Errorf("verify manifest of %q: %w", m.Name, err)
		return disk.Hint(err, "the manifest was changed after it was signed, or signed with another key")
	}
	return nil
}
