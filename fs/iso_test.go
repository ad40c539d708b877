package fs

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// disc is an ISO of some sectors, by its volume descriptor, that begins as a disk with a
// boot sector does.
func disc(sectors int) []byte {
	p := pattern(9, sectors*2048)
	clear(p[:17*2048])
	copy(p[510:], "\x55\xaa")
	copy(p[16*2048:], "\x01CD001\x01")
	binary.LittleEndian.PutUint32(p[16*2048+80:], uint32(sectors))
	binary.LittleEndian.PutUint16(p[16*2048+128:], 2048)
	return p
}

// TestISO: an ISO is listed as what it is, and is passed on byte for byte. What its
// extension says counts, not what its bytes look like.
func TestISO(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) {
		writeImage(t, filepath.Join(m.a, "debian.iso"), disc(300))
		writeImage(t, filepath.Join(m.a, "hybrid.raw"), disc(400))
	})
	if diff := cmp.Diff([]string{"debian.iso", "debian.json", "hybrid.json", "hybrid.ova", "hybrid.qcow2", "hybrid.raw", "hybrid.vmdk"}, list(t, m.path("a/images"))); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	for _, name := range []string{"debian.iso", "debian.raw"} {
		if got := readFile(t, m.path("a/images/"+name)); !bytes.Equal(got, disc(300)) {
			t.Errorf("%s holds other bytes", name)
		}
	}
	_, err := os.Stat(m.path("a/images/hybrid.iso"))
	wantErrno(t, "stat of a disk as an ISO", err, syscall.ENOENT)

	run(t, 0, "cp", m.path("a/images/debian.iso"), m.path("b/images/"))
	run(t, 0, "cp", m.path("a/images/debian.iso"), m.path("b/images/")) // the same again
	outside := filepath.Join(t.TempDir(), "x.iso")
	writeImage(t, outside, disc(500))
	run(t, 0, "cp", outside, m.path("b/images/odd.iso"))
	run(t, 1, "cp", outside, m.path("b/images/debian.iso"))
	if diff := cmp.Diff([]string{"debian.iso", "odd.iso"}, list(t, m.b)); diff != "" {
		t.Errorf("the folder holds (-want +got):\n%s", diff)
	}
	if got := readFile(t, filepath.Join(m.b, "odd.iso")); !bytes.Equal(got, disc(500)) {
		t.Error("odd.iso holds other bytes")
	}
	// Cut off behind its descriptor, and a container that is called so by mistake.
	writeImage(t, outside, disc(500)[:400*2048])
	run(t, 1, "cp", outside, m.path("b/images/half.iso"))
	_, err = os.Stat(filepath.Join(m.b, "half.iso"))
	wantErrno(t, "stat of half an ISO", err, syscall.ENOENT)

	backup := t.TempDir()
	run(t, 0, "rsync", "-a", m.path("a/images")+"/", backup)
	run(t, 0, "rsync", "-a", backup+"/debian.iso", m.path("b/images"))
	for _, args := range [][]string{{m.path("a/images") + "/", backup}, {backup + "/debian.iso", m.path("b/images") + "/"}} {
		if out := run(t, 0, "rsync", append([]string{"-ai", "--out-format=%i %n"}, args...)...); bytes.Contains([]byte(out), []byte(">f")) {
			t.Errorf("rsync of what is there moves %s", out)
		}
	}
}
