package crypt

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strings"

	"chromogenic/disk"
)

// A Sealed is a secret that the holder of one private key can read: key and
// initialization vector, each encrypted by itself. The zero value is sealed for
// nobody.
type Sealed struct {
	Key, IV []byte // RSA ciphertext, as long as the modulus
}

// maxSecret is how many bytes of a key, or of an initialization vector, are sealed
// at the most: 256 bits.
const maxSecret = 32

// Seal seals a secret as the bundles of EC2 have it: the key and the initialization
// vector are written in hex, and the characters are encrypted with RSA PKCS#1 v1.5
// (RFC 8017, 7.2). Two seals of one secret differ.
func Seal(to *rsa.PublicKey, s Secret) (Sealed, error) {
	key, err := sealHex(to, s.Key)
	if err != nil {
		return Sealed{}, disk.Errorf(disk.Invalid, "seal key: %w", err)
	}
	iv, err := sealHex(to, s.IV)
	if err != nil {
		return Sealed{}, disk.Errorf(disk.Invalid, "seal initialization vector: %w", err)
	}
	return Sealed{key, iv}, nil
}

func sealHex(to *rsa.PublicKey, p []byte) ([]byte, error) {
	return rsa.EncryptPKCS1v15(rand.Reader, to, []byte(hex.EncodeToString(p))) //nolint:staticcheck // the format asks for this padding
}

// Unseal reads a secret. A private key that it is not sealed for gives Denied, and
// so does a Sealed of nobody; what it is sealed for but is no secret is Malformed.
func Unseal(with *rsa.PrivateKey, s Sealed) (Secret, error) {
	key, err := unsealHex(with, s.Key)
	if err != nil {
		return Secret{}, fmt.Errorf("unseal key: %w", err)
	}
	iv, err := unsealHex(with, s.IV)
	if err != nil {
		return Secret{}, fmt.Errorf("unseal initialization vector: %w", err)
	}
	return Secret{key, iv}, nil
}

func unsealHex(with *rsa.PrivateKey, p []byte) ([]byte, error) {
	if len(p) == 0 {
		return nil, disk.Errorf(disk.Denied, "it is sealed for nobody")
	}
	text, err := rsa.DecryptPKCS1v15(nil, with, p) //nolint:staticcheck // the format asks for this padding
	if err != nil {
		return nil, disk.Errorf(disk.Denied, "it is not sealed for this private key: %w", err)
	}
	return parseHex(text)
}

// parseHex reads what was sealed: hex digits, and the line feed that a shell puts
// behind them.
func parseHex(text []byte) ([]byte, error) {
	p, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(p) == 0 || len(p) > maxSecret {
		return nil, disk.Errorf(disk.Malformed, "what is sealed are %d bytes that are no key in hex", len(text))
	}
	return p, nil
}

// Sign signs a message: RSA PKCS#1 v1.5 with SHA-1 (RFC 8017, 8.2), as
// `openssl dgst -sha1 -sign` does.
func Sign(with *rsa.PrivateKey, message []byte) ([]byte, error) {
	sum := sha1.Sum(message)
	signature, err := rsa.SignPKCS1v15(nil, with, crypto.SHA1, sum[:])
	if err != nil {
		return nil, disk.Errorf(disk.Invalid, "sign: %w", err)
	}
	return signature, nil
}

// Verify checks a signature of Sign. One that is not of this message and key is
// Malformed.
func Verify(by *rsa.PublicKey, message, signature []byte) error {
	sum := sha1.Sum(message)
	if err := rsa.VerifyPKCS1v15(by, crypto.SHA1, sum[:], signature); err != nil {
		return disk.Errorf(disk.Malformed, "verify signature: %w", err)
	}
	return nil
}
