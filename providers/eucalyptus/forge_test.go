package eucalyptus

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/aes"
	"crypto/sha1"
	"fmt"
	"io"
	"testing"

	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/crypt"
	"chromogenic/providers/internal/ec2test"
)

// seal seals a manifest for others: its owner's key is that of another account, and so is
// the cloud's.
func (r *rig) seal(t *testing.T, at place, text string, other *ec2test.Account) {
	t.Helper()
	m, err := bundle.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := m.Secret(r.account.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Seal(secret, &other.Key.PublicKey, &other.Key.PublicKey); err != nil {
		t.Fatal(err)
	}
	r.encode(t, at, m)
}

func (r *rig) encode(t *testing.T, at place, m *bundle.Manifest) {
	t.Helper()
	p, err := m.Encode(r.account.Key)
	if err != nil {
		t.Fatal(err)
	}
	r.overwrite(t, at, p)
}

// forge puts a bundle of other content in the place of one, and a manifest that fits its
// parts.
func (r *rig) forge(t *testing.T, at place, text string, content forged) {
	t.Helper()
	m, err := bundle.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := m.Secret(r.account.Key)
	if err != nil {
		t.Fatal(err)
	}
	mode, err := crypt.AES128CBC{}.Encrypt(secret)
	if err != nil {
		t.Fatal(err)
	}
	n := aes.BlockSize - len(content.packed)%aes.BlockSize
	p := append(content.packed, bytes.Repeat([]byte{byte(n)}, n)...)
	mode.CryptBlocks(p, p)
	m.Parts, m.BundledSize, m.Digest = nil, int64(len(p)), content.sum
	for i := 0; len(p) > 0; i++ {
		part := p[:min(len(p), bundle.PartSize)]
		p = p[len(part):]
		name := fmt.Sprintf("web.part.%02d", i)
		r.overwrite(t, at.beside(name), part)
		m.Parts = append(m.Parts, bundle.Part{Name: name, SHA1: sha1.Sum(part)})
	}
	r.encode(t, at, m)
}

// forged is a packed tar and the SHA-1 of it.
type forged struct {
	packed []byte
	sum    [sha1.Size]byte
}

// tarOf is a tar with members of a size, and zeros behind its end.
func tarOf(t *testing.T, size int64, members int, behind int) forged {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range members {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint("web", i), Size: size, Mode: 0o600, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeroReader{}, size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.Write(bytes.Repeat([]byte{7}, behind))
	return packedTar(b.Bytes())
}

func packedTar(p []byte) forged {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(p)
	_ = w.Close()
	return forged{b.Bytes(), sha1.Sum(p)}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }
