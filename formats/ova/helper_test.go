package ova

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"chromogenic/disk"
	"chromogenic/formats/layout"
	"chromogenic/formats/vmdk"
)

// needTool skips a test without the tool, and fails it in CI.
func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("SKIPPED, NOT TESTED: %s is not installed", name)
	}
}

// run runs a tool and returns what it prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	needTool(t, name)
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct", "LC_ALL=C", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// A pattern is a disk whose every 8 bytes hold their own offset and a key, all
// of it data from one offset to another and zero elsewhere.
type pattern struct {
	size, from, to int64
	key            uint64
}

func (p pattern) Size() int64  { return p.size }
func (p pattern) Close() error { return nil }

func (p pattern) ReadAt(b []byte, off int64) (int, error) {
	q, err := disk.ClipRead(b, off, p.size)
	for i := range q {
		at := off + int64(i)
		q[i] = 0
		if at >= p.from && at < p.to {
			var word [8]byte
			binary.LittleEndian.PutUint64(word[:], uint64(at&^7)^p.key)
			q[i] = word[at&7]
		}
	}
	return len(q), err
}

func (p pattern) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, p.size)
	if err != nil {
		return disk.Extent{}, err
	}
	e := disk.Extent{Off: off, Zero: off < p.from || off >= p.to}
	switch {
	case off < p.from:
		e.Len = min(n, p.from-off)
	case off < p.to:
		e.Len = min(n, p.to-off)
	default:
		e.Len = n
	}
	return e, nil
}

// small is a disk of 1 MiB that begins with a key.
func small(key uint64) pattern {
	return pattern{size: 1 << 20, from: 0, to: 200 << 10, key: key<<56 | 0xa5a5}
}

func machine(disks ...disk.Image) *disk.Machine {
	m := &disk.Machine{}
	for _, d := range disks {
		m.Disks = append(m.Disks, disk.Disk{Image: d})
	}
	return m
}

// all is the whole content of img.
func all(t testing.TB, img disk.Image) []byte {
	t.Helper()
	p := make([]byte, img.Size())
	if err := disk.ReadFull(img, p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// stream is a streamOptimized VMDK of d, as bytes.
func stream(t testing.TB, d disk.Image) []byte {
	t.Helper()
	f, err := vmdk.Layout(machine(d), layout.Options{Seed: []byte("test")})
	if err != nil {
		t.Fatal(err)
	}
	return all(t, f)
}

// qemu converts d to a container by qemu-img, and returns its bytes.
func qemu(t *testing.T, d disk.Image, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "out")
	write(t, raw, all(t, d))
	run(t, "qemu-img", append(append([]string{"convert", "-f", "raw"}, args...), raw, out)...)
	p, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// utf16Text is a text in UTF-16.
func utf16Text(order binary.AppendByteOrder, text string) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		b = order.AppendUint16(b, unit)
	}
	return string(b)
}

func write(t testing.TB, name string, p []byte) {
	t.Helper()
	if err := os.WriteFile(name, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A tarFile is a member of a test archive. Its header is completed from the
// other fields.
type tarFile struct {
	name    string
	content []byte
	header  tar.Header
}

// pack makes an archive in the given dialect of tar.
func packTar(t testing.TB, format tar.Format, files ...tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.header
		h.Name, h.Size, h.Format = f.name, int64(len(f.content)), format
		if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// same fails unless img reads as want.
func same(t *testing.T, img, want disk.Image) {
	t.Helper()
	if img.Size() != want.Size() {
		t.Fatalf("size %d, want %d", img.Size(), want.Size())
	}
	if !bytes.Equal(all(t, img), all(t, want)) {
		t.Fatal("content differs")
	}
}
