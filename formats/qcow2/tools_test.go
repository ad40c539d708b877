package qcow2

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"chromogenic/disk"
)

// need skips the test loudly where a tool is missing, and fails it in CI.
func need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", tool)
		}
		t.Skipf("NOT TESTED: %s is not installed", tool)
	}
}

// shell runs a script in dir and returns its standard output. It knows three
// short commands: create and io for qemu-img and qemu-io, poke for a byte.
func shell(t testing.TB, dir, script string) string {
	t.Helper()
	const preamble = `set -e
create() { qemu-img create -q -f qcow2 "$@"; }
io() { qemu-io -f qcow2 "$@" > /dev/null; }
poke() { printf "\\x$3" | dd of=$1 bs=1 seek=$2 conv=notrunc status=none; }
`
	c := exec.Command("bash", "-c", preamble+script)
	c.Dir = dir
	var out, msg bytes.Buffer
	c.Stdout, c.Stderr = &out, &msg
	if err := c.Run(); err != nil {
		t.Fatalf("run %s: %v\n%s%s", script, err, out.Bytes(), msg.Bytes())
	}
	return out.String()
}

// openFile opens a file of the test's folder.
func openFile(t testing.TB, name string) disk.Image {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := disk.OpenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// openDisk opens a qcow2 file and its backing chain, of which a name that ends
// in .raw is the last.
func openDisk(t testing.TB, chain ...string) disk.Image {
	t.Helper()
	f := openFile(t, chain[0])
	if filepath.Ext(chain[0]) == ".raw" {
		return f
	}
	var backing disk.Image
	if len(chain) > 1 {
		backing = openDisk(t, chain[1:]...)
	}
	m, err := Open(f, backing)
	if err != nil {
		t.Fatal(err)
	}
	return m.Disks[0].Image
}

// materialise reads all of img into a sparse file.
func materialise(t testing.TB, img disk.Image, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < img.Size(); off += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), img.Size()-off)]
		if err := disk.ReadFull(img, p, off); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(p, zero[:len(p)]) {
			continue
		}
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(img.Size()); err != nil {
		t.Fatal(err)
	}
}

// sample writes the inputs of the fixtures: random.raw, whose length is one
// sector over a 64 KiB cluster and not a whole one of any larger size, and
// mixed.raw, of text, noise and zeros.
func sample(t testing.TB, dir string) {
	t.Helper()
	random := make([]byte, 1<<20+65536+512)
	rnd := rand.NewChaCha8([32]byte{7})
	rnd.Read(random)
	mixed := make([]byte, 5<<20+512)
	for off := 0; off+1<<16 < len(mixed); off += 1 << 16 {
		switch p := mixed[off : off+1<<16]; off >> 16 % 5 {
		case 0, 3:
			for i := range p {
				p[i] = "a line of text, "[i%16] + byte(i>>12&3)
			}
		case 1:
			rnd.Read(p)
		case 2:
			rnd.Read(p[:3000])
		}
	}
	mixed[len(mixed)-1] = 'x'
	for name, p := range map[string][]byte{"random.raw": random, "mixed.raw": mixed} {
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
