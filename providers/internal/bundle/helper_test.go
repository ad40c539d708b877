package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers/internal/crypt"
)

// keys are those of a user, of a cloud, and of somebody else.
var keys = sync.OnceValue(func() (k struct{ user, cloud, other *rsa.PrivateKey }) {
	for _, p := range []**rsa.PrivateKey{&k.user, &k.cloud, &k.other} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		*p = key
	}
	return k
})

// store is a bucket: parts by name.
type store map[string][]byte

func (s store) fetch(_ context.Context, part string, off, n int64) (io.ReadCloser, error) {
	p, ok := s[part]
	if !ok {
		return nil, disk.Errorf(disk.NotFound, "no such object")
	}
	p = p[min(off, int64(len(p))):]
	if n >= 0 {
		p = p[:min(n, int64(len(p)))]
	}
	return io.NopCloser(bytes.NewReader(p)), nil
}

// sink is a Sink that keeps all.
func (s store) sink(_ context.Context, w Written, body []byte) error {
	s[w.Name] = bytes.Clone(body)
	return nil
}

// all are the parts of m in order.
func (s store) all(m *Manifest) []byte {
	var b []byte
	for _, p := range m.Parts {
		b = append(b, s[p.Name]...)
	}
	return b
}

// spool is a Spool in memory. What is not written reads as zeros.
type spool struct {
	p       []byte
	limit   int64 // of what may be spooled, 0 for any
	bundled int64
	written int64
	err     error // of a write
}

func (s *spool) Begin(size, bundled int64) error {
	if s.limit > 0 && size > s.limit {
		return disk.Errorf(disk.NoSpace, "no room for %d bytes", size)
	}
	s.p, s.bundled = make([]byte, size), bundled
	return nil
}

func (s *spool) WriteAt(p []byte, off int64) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.written += int64(len(p))
	return copy(s.p[off:], p), nil
}

// made is a bundle of a test.
type made struct {
	m      *Manifest
	secret crypt.Secret
	parts  store
	index  []byte
	text   []byte // of the manifest
}

// bundleOf bundles img for the keys of the test.
func bundleOf(t testing.TB, img disk.Image, index bool) made {
	t.Helper()
	b := made{secret: crypt.AES128CBC{}.NewSecret(), parts: store{}}
	var err error
	b.m, b.index, err = Bundle(t.Context(), img, Spec{Name: "web", Secret: b.secret, Index: index}, b.parts.sink)
	if err != nil {
		t.Fatal(err)
	}
	b.m.User, b.m.Architecture = "123456789012", "x86_64"
	b.m.Bundler = Bundler{"chromogenic", "1", "0"}
	b.m.BlockDevices = []Mapping{{"ami", "sda"}, {"root", "/dev/sda1"}}
	if err := b.m.Seal(b.secret, &keys().cloud.PublicKey, &keys().user.PublicKey); err != nil {
		t.Fatal(err)
	}
	if b.text, err = b.m.Encode(keys().user); err != nil {
		t.Fatal(err)
	}
	return b
}

// clone is a copy that may be changed.
func (b made) clone() made {
	m := *b.m
	m.Parts = slices.Clone(m.Parts)
	parts := store{}
	for name, p := range b.parts {
		parts[name] = bytes.Clone(p)
	}
	b.m, b.parts = &m, parts
	return b
}

// cut is the same bundle in n parts, as others make them of any length.
func (b made) cut(t testing.TB, n int) made {
	t.Helper()
	all := b.parts.all(b.m)
	b = b.clone()
	b.m.Parts = nil
	size := len(all)/n + 1
	for i := 0; len(all) > 0; i++ {
		p := all[:min(size, len(all))]
		all = all[len(p):]
		b.m.Parts = append(b.m.Parts, Part{Name: partName("web", i), SHA1: sum(p)})
		b.parts[partName("web", i)] = p
	}
	var err error
	if b.text, err = b.m.Encode(keys().user); err != nil {
		t.Fatal(err)
	}
	return b
}

// unbundle is the disk of b, as its manifest leads to it.
func (b made) unbundle(t testing.TB) []byte {
	t.Helper()
	var s spool
	err := InstanceStore{Account: "1234-5678-9012", Keys: []*rsa.PrivateKey{keys().user}}.Run(t.Context(), b.text, b.parts.fetch, &s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.p
}

// content is all of img.
func content(t testing.TB, img disk.Image) []byte {
	t.Helper()
	p, err := disktest.Read(img)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// need skips a test that lacks a program, and fails it where CI is set.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed", name)
			}
			t.Skipf("SKIPPED, NOT TESTED: %s is not installed", name)
		}
	}
}

// shell runs a script of bash in dir, which must succeed in all its pipes.
func shell(t testing.TB, dir, script string, env ...string) []byte {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, errs.String())
	}
	return out.Bytes()
}

func writeFile(t testing.TB, dir, name string, p []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, dir, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantError fails unless err is of a kind, says all words, and has a hint.
func wantError(t *testing.T, err error, kind disk.Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %v about %q", kind, words)
		return
	}
	if k := disk.KindOf(err); k != kind {
		t.Errorf("%v of kind %v, want %v", err, k, kind)
	}
	if disk.AsError(err).Hint == "" {
		t.Errorf("%v has no hint", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v does not say %q", err, w)
		}
	}
}

func sum(p []byte) [sha1.Size]byte { return sha1.Sum(p) }

// goTar is the first member of a tar stream as Go's library reads it, if it does and
// the member has so many bytes.
func goTar(stream []byte, size int64) ([]byte, bool) {
	r := tar.NewReader(bytes.NewReader(stream))
	h, err := r.Next()
	if err != nil || h.Size != size {
		return nil, false
	}
	p, err := io.ReadAll(r)
	return p, err == nil
}
