// Package crypt encrypts content for clouds, and seals the keys for those who may
// read it: what the bundles of EC2 and Eucalyptus are made with, apart from their
// container. It knows no cloud and does no input or output.
//
// A content key (Secret) is random and is used once. It is sealed with the public
// keys of its readers (Seal), and a reader unseals it (Unseal). The content itself
// goes through a Tool, which is chosen by the name that the container gives.
package crypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"strings"

	"chromogenic/disk"
)

// A Secret is what content is encrypted with. Whoever has it reads the content,
// so it belongs into no log.
type Secret struct {
	Key, IV []byte
}

// String keeps the secret out of messages.
func (Secret) String() string { return "(secret)" }

// GoString does so for %#v.
func (Secret) GoString() string { return "(secret)" }

// A Tool is one way to encrypt content: a block cipher in a mode that a reader can
// begin at any block, given what stands before it.
type Tool interface {
	// Algorithm is the name that containers give it.
	Algorithm() string
	// Accepts tells whether an algorithm, as a container names it, is this one.
	// Case does not matter.
	Accepts(algorithm string) bool
	// NewSecret makes a random secret.
	NewSecret() Secret
	// Encrypt runs the cipher over whole blocks in order, from the first on. A secret
	// of the wrong length is Malformed.
	Encrypt(s Secret) (cipher.BlockMode, error)
	// Decrypt does so the other way. Before is the ciphertext block in front of
	// the first that it is given, nil for the first of all.
	Decrypt(s Secret, before []byte) (cipher.BlockMode, error)
}

// Tools are all the tools there are, the preferred one first.
func Tools() []Tool { return []Tool{AES128CBC{}} }

// Find is the tool that accepts an algorithm. An unknown one is Unsupported.
func Find(algorithm string) (Tool, error) {
	for _, t := range Tools() {
		if t.Accepts(algorithm) {
			return t, nil
		}
	}
	return nil, disk.Errorf(disk.Unsupported, "find cipher: algorithm %q is not known", algorithm)
}

// AES128CBC is AES with keys of 128 bits, FIPS 197, in CBC mode, NIST SP 800-38A.
// It is what openssl-enc(1) calls -aes-128-cbc with -K and -iv: no salt, and no
// header. Padding is the caller's.
type AES128CBC struct{}

const aesKeySize = 16 // bytes, of 128 bits

// Algorithm is "AES-128-CBC".
func (AES128CBC) Algorithm() string { return "AES-128-CBC" }

// Accepts is that of Tool.
func (t AES128CBC) Accepts(algorithm string) bool { return strings.EqualFold(algorithm, t.Algorithm()) }

// NewSecret is a random key and a random first block.
func (AES128CBC) NewSecret() Secret {
	s := Secret{Key: make([]byte, aesKeySize), IV: make([]byte, aes.BlockSize)}
	rand.Read(s.Key) // never fails: crypto/rand
	rand.Read(s.IV)
	return s
}

// Encrypt is that of Tool.
func (t AES128CBC) Encrypt(s Secret) (cipher.BlockMode, error) {
	block, err := t.block(s)
	if err != nil {
		return nil, err
	}
	return cipher.NewCBCEncrypter(block, s.IV), nil
}

// Decrypt is that of Tool.
func (t AES128CBC) Decrypt(s Secret, before []byte) (cipher.BlockMode, error) {
	block, err := t.block(s)
	if err != nil {
		return nil, err
	}
	if before == nil {
		before = s.IV
	}
	return cipher.NewCBCDecrypter(block, before), nil
}

func (AES128CBC) block(s Secret) (cipher.Block, error) {
	if len(s.Key) != aesKeySize || len(s.IV) != aes.BlockSize {
		return nil, disk.Errorf(disk.Malformed, "use key: key of %d bytes and initialization vector of %d, want %d and %d",
			len(s.Key), len(s.IV), aesKeySize, aes.BlockSize)
	}
	return aes.NewCipher(s.Key)
}
