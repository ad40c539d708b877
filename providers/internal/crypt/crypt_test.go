package crypt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

func newKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// openssl runs openssl in dir, which must succeed.
func openssl(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("SKIPPED, NOT TESTED: openssl is not installed")
	}
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("openssl %q: %v\n%s", args, err, errs.String())
	}
	return out.Bytes()
}

func writeFile(t *testing.T, dir, name string, p []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, dir, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A key, a certificate, a seal and a signature of openssl are ours, and the other
// way round.
func TestOpenssl(t *testing.T) {
	dir := t.TempDir()
	openssl(t, dir, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout", "key.pem", "-out", "cert.pem")
	openssl(t, dir, "rsa", "-in", "key.pem", "-traditional", "-out", "old.pem")
	key, err := ParsePrivateKey(readFile(t, dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	old, err := ParsePrivateKey(readFile(t, dir, "old.pem"))
	if err != nil || !old.Equal(key) {
		t.Errorf("the key in PKCS#1 is %v, %v", old, err)
	}
	public, err := ParsePublicKey(append(readFile(t, dir, "key.pem"), readFile(t, dir, "cert.pem")...))
	if err != nil || !public.Equal(&key.PublicKey) {
		t.Fatalf("the key of the certificate is %v, %v", public, err)
	}

	s := AES128CBC{}.NewSecret()
	sealed, err := Seal(public, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ sealed, plain []byte }{{sealed.Key, s.Key}, {sealed.IV, s.IV}} {
		writeFile(t, dir, "sealed", row.sealed)
		got := openssl(t, dir, "pkeyutl", "-decrypt", "-inkey", "key.pem", "-in", "sealed")
		if string(got) != hex.EncodeToString(row.plain) {
			t.Errorf("openssl unseals %q, want %x", got, row.plain)
		}
	}
	writeFile(t, dir, "plain", []byte(hex.EncodeToString(s.Key)+"\n"))
	theirs := openssl(t, dir, "pkeyutl", "-encrypt", "-certin", "-inkey", "cert.pem", "-in", "plain")
	got, err := Unseal(key, Sealed{theirs, sealed.IV})
	if err != nil || !bytes.Equal(got.Key, s.Key) || !bytes.Equal(got.IV, s.IV) {
		t.Errorf("unsealed %x, %x, %v", got.Key, got.IV, err)
	}

	message := []byte("<machine_configuration/><image/>")
	writeFile(t, dir, "message", message)
	signature, err := Sign(key, message)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "signature", signature)
	openssl(t, dir, "x509", "-in", "cert.pem", "-noout", "-pubkey", "-out", "pub.pem")
	openssl(t, dir, "dgst", "-sha1", "-verify", "pub.pem", "-signature", "signature", "message")
	if public, err = ParsePublicKey(readFile(t, dir, "pub.pem")); err != nil {
		t.Fatal(err)
	}
	if err := Verify(public, message, openssl(t, dir, "dgst", "-sha1", "-sign", "key.pem", "message")); err != nil {
		t.Error(err)
	}
	if err := Verify(public, append(message, ' '), signature); disk.KindOf(err) != disk.Malformed {
		t.Errorf("a signature of something else is %v", err)
	}

	openssl(t, dir, "pkey", "-in", "key.pem", "-aes128", "-passout", "pass:x", "-out", "locked.pem")
	openssl(t, dir, "rsa", "-in", "key.pem", "-traditional", "-aes128", "-passout", "pass:x", "-out", "oldlocked.pem")
	for _, name := range []string{"locked.pem", "oldlocked.pem"} {
		if _, err := ParsePrivateKey(readFile(t, dir, name)); disk.KindOf(err) != disk.Unsupported || disk.AsError(err).Hint == "" {
			t.Errorf("%s: %v of kind %v", name, err, disk.KindOf(err))
		}
	}
}

// The ciphertext is that of openssl, and can be read from any block on.
func TestCBC(t *testing.T) {
	dir := t.TempDir()
	s := AES128CBC{}.NewSecret()
	plain := make([]byte, 1<<16)
	disktest.Fill(plain, 0)
	mode, err := AES128CBC{}.Encrypt(s)
	if err != nil {
		t.Fatal(err)
	}
	sealed := make([]byte, len(plain))
	mode.CryptBlocks(sealed, plain)
	writeFile(t, dir, "plain", plain)
	want := openssl(t, dir, "enc", "-e", "-nopad", "-aes-128-cbc", "-K", hex.EncodeToString(s.Key), "-iv", hex.EncodeToString(s.IV), "-in", "plain")
	if !bytes.Equal(sealed, want) {
		t.Error("the ciphertext is not that of openssl")
	}
	for _, off := range []int{0, 16, 4096} {
		var before []byte
		if off > 0 {
			before = sealed[off-16 : off]
		}
		mode, err := AES128CBC{}.Decrypt(s, before)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(sealed)-off)
		mode.CryptBlocks(got, sealed[off:])
		if !bytes.Equal(got, plain[off:]) {
			t.Errorf("read from %d is wrong", off)
		}
	}
}

func TestFind(t *testing.T) {
	for _, name := range []string{"AES-128-CBC", "aes-128-cbc"} {
		if _, err := Find(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "AES-256-CBC"} {
		if _, err := Find(name); disk.KindOf(err) != disk.Unsupported {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := (AES128CBC{}).Encrypt(Secret{Key: make([]byte, 32), IV: make([]byte, 16)}); disk.KindOf(err) != disk.Malformed {
		t.Errorf("a key of 256 bits: %v", err)
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	s := Secret{Key: []byte("0123456789abcdef"), IV: []byte("0123456789abcdef")}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, s); text != "(secret)" {
			t.Errorf("%s prints %s", format, text)
		}
	}
}

func TestUnsealRefuses(t *testing.T) {
	mine, other := newKey(t, 2048), newKey(t, 2048)
	sealed, err := Seal(&mine.PublicKey, AES128CBC{}.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	words, err := rsa.EncryptPKCS1v15(rand.Reader, &mine.PublicKey, []byte("no hex at all")) //nolint:staticcheck // the format asks for this padding
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		key    *rsa.PrivateKey
		sealed Sealed
		want   disk.Kind
	}{
		"other key":  {other, sealed, disk.Denied},
		"other size": {newKey(t, 1024), sealed, disk.Denied},
		"nobody":     {mine, Sealed{}, disk.Denied},
		"no iv":      {mine, Sealed{Key: sealed.Key}, disk.Denied},
		"no hex":     {mine, Sealed{Key: words, IV: sealed.IV}, disk.Malformed},
		"cut":        {mine, Sealed{Key: sealed.Key[1:], IV: sealed.IV}, disk.Denied},
	} {
		if _, err := Unseal(row.key, row.sealed); disk.KindOf(err) != row.want {
			t.Errorf("%s: %v of kind %v, want %v", name, err, disk.KindOf(err), row.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, p []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: p}))
	}
	for name, row := range map[string]struct {
		file string
		want disk.Kind
	}{
		"empty":    {"", disk.Malformed},
		"text":     {"no key", disk.Malformed},
		"garbage":  {block("PRIVATE KEY", []byte("x")), disk.Malformed},
		"old":      {block("RSA PRIVATE KEY", []byte("x")), disk.Malformed},
		"curve":    {block("PRIVATE KEY", der), disk.Unsupported},
		"large":    {strings.Repeat("x", maxPEM+1), disk.Malformed},
		"only one": {block("CERTIFICATE", []byte("x")), disk.Malformed},
	} {
		if _, err := ParsePrivateKey([]byte(row.file)); disk.KindOf(err) != row.want {
			t.Errorf("%s: %v of kind %v, want %v", name, err, disk.KindOf(err), row.want)
		}
	}
	if _, err := ParsePublicKey([]byte(block("CERTIFICATE", []byte("x")))); disk.KindOf(err) != disk.Malformed {
		t.Errorf("a certificate of garbage: %v", err)
	}
}

// FuzzParse reads any file as a key and as a certificate.
func FuzzParse(f *testing.F) {
	key := newKey(f, 1024)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAA==\n-----END RSA PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		if key, err := ParsePrivateKey(p); err == nil && key.N.BitLen() < minBits {
			t.Errorf("a key of %d bits", key.N.BitLen())
		} else if k := disk.KindOf(err); err != nil && k != disk.Malformed && k != disk.Unsupported {
			t.Errorf("%v of kind %v", err, k)
		}
		if _, err := ParsePublicKey(p); err != nil {
			if k := disk.KindOf(err); k != disk.Malformed && k != disk.Unsupported {
				t.Errorf("%v of kind %v", err, k)
			}
		}
	})
}

// FuzzHex reads any text as the key that was sealed.
func FuzzHex(f *testing.F) {
	f.Add([]byte("6f8fc62300000000000000000000ffff"))
	f.Add([]byte("6F8FC623\n"))
	f.Add([]byte("0x6f"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parseHex(text)
		if err != nil {
			if disk.KindOf(err) != disk.Malformed {
				t.Errorf("%v of kind %v", err, disk.KindOf(err))
			}
			return
		}
		if len(p) == 0 || len(p) > maxSecret || !strings.EqualFold(hex.EncodeToString(p), strings.TrimSpace(string(text))) {
			t.Errorf("%q is %x", text, p)
		}
	})
}
