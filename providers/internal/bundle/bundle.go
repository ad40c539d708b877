// Package bundle makes and takes apart the bundles that instance-store images are
// kept in, by EC2 and by Eucalyptus alike: a manifest in XML, and the disk as
//
//	tar | gzip | openssl enc -aes-128-cbc | split
//
// It is a codec and no more: a Fetch gives it the parts, wherever they lie, and a
// Sink takes those that it makes. What is encrypted for whom is of package crypt.
//
// There are two ways to read. Unbundle passes over all parts once, verifies them,
// and gives the disk to a spool. Open reads at random and needs no spool, but an
// index, which Bundle makes beside the parts and which is kept as an object of its
// own that no other program looks at.
//
// The sources are the programs that made the format: ec2-ami-tools (bundle.rb,
// manifestv20071010.rb) and euca2ools (bundle/manifest.py, bundle/pipes), and on
// the side of the servers Eucalyptus 4.4 (ImageManifests.java).
package bundle

import (
	"context"
	"crypto/rsa"
	"fmt"
	"io"

	"chromogenic/disk"
)

const (
	// PartSize is the length of every part but the last, in bytes: 10 MiB, as all
	// known programs have it. It is a multiple of the cipher's block.
	PartSize = 10 << 20
	// ManifestSuffix makes the name of a manifest of that of its bundle.
	ManifestSuffix = ".manifest.xml"
	// IndexSuffix makes the name of an index of that of its bundle.
	IndexSuffix = ".chromogenic-index"
)

// A Fetch reads n bytes of a part from off on, or all from there on where n is
// negative. The name is a plain one, as the manifest has it: the part lies beside
// the manifest. More calls than one may be under way. Its errors, and those of the
// reader, are passed on with the name; a part that is not there is NotFound, and one
// that is shorter than asked for ends with io.EOF. Trying again is up to Fetch.
type Fetch func(ctx context.Context, part string, off, n int64) (io.ReadCloser, error)

// A Spool is where Unbundle writes a disk.
type Spool interface {
	// Begin tells the size of the disk and the sum of the parts, in bytes, before
	// anything is read. The sizes are those that the manifest claims; an error
	// ends all. From then on the spool reads as zeros up to size.
	Begin(size, bundled int64) error
	// WriteAt writes data. Zeros are mostly left out, at any place; what comes,
	// comes in ascending order, from one goroutine.
	io.WriterAt
}

// A Tool takes apart one kind of bundle.
type Tool interface {
	// Accepts tells whether a document describes a bundle of this kind. It looks no
	// further than it must, so Run may refuse what was accepted.
	Accepts(document []byte) bool
	// Run writes the disk of the bundle to a spool, verified. The spool of a Run that
	// fails is worth nothing. Progress, which may be nil, is called with the bytes of
	// the parts that are done.
	Run(ctx context.Context, document []byte, fetch Fetch, spool Spool, progress func(done int64)) error
}

// InstanceStore is the Tool for the manifests of EC2 and Eucalyptus.
type InstanceStore struct {
	Account string            // whose bundles are taken; empty means anybody's
	Keys    []*rsa.PrivateKey // the user's, the cloud's: one of them must open the bundle
}

var _ Tool = InstanceStore{}

// Accepts tells whether a document begins like a manifest.
func (InstanceStore) Accepts(document []byte) bool {
	root, err := rootElement(document)
	return err == nil && root == "manifest"
}

// Run is that of Tool. See Parse, CheckUser, Secret and Unbundle for its errors.
func (t InstanceStore) Run(ctx context.Context, document []byte, fetch Fetch, spool Spool, progress func(done int64)) error {
	m, err := Parse(document)
	if err != nil {
		return err
	}
	if t.Account != "" {
		if err := m.CheckUser(t.Account); err != nil {
			return err
		}
	}
	s, err := m.Secret(t.Keys...)
	if err != nil {
		return err
	}
	return Unbundle(ctx, m, s, fetch, spool, progress)
}

// malformed is an error of kind Malformed about a bundle.
func malformed(format string, args ...any) error {
	return disk.Errorf(disk.Malformed, format, args...)
}

// damaged adds what to do about a bundle that is not what its manifest says.
func damaged(err error) error {
	return disk.Hint(err, "the bundle is damaged where it is kept: bundle the image anew, or copy its parts anew from where they are whole")
}

// partError names the part that err is about.
func partError(verb, part string, err error) error {
	err = fmt.Errorf("%s part %q: %w", verb, part, err)
	if disk.KindOf(err) == disk.NotFound {
		return disk.Hint(err, "the bundle is not complete: the part lies beside the manifest, or the image must be bundled anew")
	}
	return err
}
