package crypt

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	"chromogenic/disk"
)

// Bounds of a key. Go uses none below minBits (crypto/rsa), and one operation with
// more than maxBits takes seconds.
const (
	minBits = 1024
	maxBits = 16384
	maxPEM  = 1 << 20 // bytes of a file, chains of certificates included
)

// ParsePrivateKey reads an RSA key from a file in PEM (RFC 7468): PKCS#8 ("PRIVATE
// KEY") or PKCS#1 ("RSA PRIVATE KEY", RFC 8017 A.1.2), whatever else stands in the
// file. A file without one is Malformed, one with a passphrase Unsupported.
func ParsePrivateKey(file []byte) (*rsa.PrivateKey, error) {
	var key any
	err := blocks("private key", file, func(b *pem.Block) (found bool, err error) {
		switch {
		case b.Type == "ENCRYPTED PRIVATE KEY" || b.Type == "RSA PRIVATE KEY" && strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED"):
			return false, disk.Hint(disk.Errorf(disk.Unsupported, "the key has a passphrase"),
				"write one without: openssl pkey -in KEY -out PLAIN, and keep that file to yourself")
		case b.Type == "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		case b.Type == "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
		default:
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, disk.Errorf(disk.Unsupported, "read private key: %T is not of RSA", key)
	}
	if err := checkBits(&private.PublicKey); err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	return private, nil
}

// ParsePublicKey reads the RSA key of the first certificate (X.509), or the first
// public key (PKIX), of a file in PEM. Neither the dates nor the issuer of a
// certificate are looked at: those of clouds are mostly their own, and long over.
func ParsePublicKey(file []byte) (*rsa.PublicKey, error) {
	var key any
	err := blocks("certificate", file, func(b *pem.Block) (found bool, err error) {
		switch b.Type {
		case "CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE":
			cert, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return true, err
			}
			key = cert.PublicKey
		case "PUBLIC KEY":
			key, err = x509.ParsePKIXPublicKey(b.Bytes)
		default:
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, disk.Errorf(disk.Unsupported, "read certificate: key %T is not of RSA", key)
	}
	if err := checkBits(public); err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return public, nil
}

// blocks looks at the blocks of a file until one is found.
func blocks(what string, file []byte, look func(*pem.Block) (found bool, err error)) error {
	if len(file) > maxPEM {
		return disk.Errorf(disk.Malformed, "file of %d bytes is no key", len(file))
	}
	for rest := file; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return disk.Hint(disk.Errorf(disk.Malformed, "no %s in the file", what),
				"it must be in PEM: text that begins with -----BEGIN")
		}
		found, err := look(b)
		if err != nil {
			if disk.KindOf(err) == disk.Other {
				err = disk.Errorf(disk.Malformed, "%s: %w", b.Type, err)
			}
			return err
		}
		if found {
			return nil
		}
	}
}

func checkBits(key *rsa.PublicKey) error {
	if n := key.N.BitLen(); n < minBits || n > maxBits {
		return disk.Errorf(disk.Unsupported, "key of %d bits, want %d to %d", n, minBits, maxBits)
	}
	return nil
}
