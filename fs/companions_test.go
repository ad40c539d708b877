package fs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// bootFile is what a machine boots with: of an odd size, and with the mark of a boot
// sector, as the kernels of Linux have it.
func bootFile(role providers.Role) []byte {
	p := pattern(int64(len(role)), 300_001)
	copy(p, "MZ")
	copy(p[510:], "\x55\xaa")
	return p
}

// withKernel mounts with the image web in a, that boots with a kernel and a ramdisk.
func withKernel(t *testing.T, change func(o *Options)) *testMount {
	t.Helper()
	return mountTwo(t, func(m *testMount, o *Options) {
		writeImage(t, filepath.Join(m.a, "web.raw"), bootDisk())
		for _, role := range providers.Roles() {
			writeImage(t, filepath.Join(m.a, "web."+string(role)), bootFile(role))
		}
		if change != nil {
			change(o)
		}
	})
}

var setFiles = []string{"web.json", "web.kernel", "web.ova", "web.qcow2", "web.ramdisk", "web.raw", "web.vmdk"}

// wantBoot fails unless the image of a name in b boots with both.
func (m *testMount) wantBoot(t *testing.T, name string) {
	t.Helper()
	for _, role := range providers.Roles() {
		for _, path := range []string{m.path("b/images/" + name + "." + string(role)), filepath.Join(m.b, name+"."+string(role))} {
			if got := readFile(t, path); !bytes.Equal(got, bootFile(role)) {
				t.Errorf("%s holds other bytes", path)
			}
		}
	}
	if got := readFile(t, m.path("b/images/"+name+".raw")); !bytes.Equal(got, bootDisk()) {
		t.Errorf("the disk of %s is another", name)
	}
}

// TestCompanions: a kernel and a ramdisk are files beside their image, and go along with
// it.
func TestCompanions(t *testing.T) {
	m := withKernel(t, func(o *Options) { o.AllowDelete = true })
	if diff := cmp.Diff(setFiles, list(t, m.path("a/images"))); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	run(t, 0, "cp", m.path("a/images/web.qcow2"), m.path("b/images/"))
	m.wantBoot(t, "web")
	records := m.tree.p.Jobs().List()
	if rec := records[len(records)-1]; rec.State != jobs.Done || len(rec.Companions) != 2 || rec.Companions[1].Bytes != 300_001 || rec.Companions[1].BytesDigest == "" {
		t.Errorf("the record is %+v", rec)
	}
	run(t, 0, "cp", m.path("a/images/web.kernel"), m.path("b/images/")) // the same again
	other := filepath.Join(t.TempDir(), "other.kernel")
	writeImage(t, other, pattern(77, 1<<20))
	run(t, 1, "cp", other, m.path("b/images/web.kernel"))
	m.wantBoot(t, "web")

	// A rename takes them along, and so does a removal.
	run(t, 1, "mv", m.path("b/images/web.kernel"), m.path("b/images/mail.kernel"))
	run(t, 0, "mv", m.path("b/images/web.qcow2"), m.path("b/images/mail.qcow2"))
	m.wantBoot(t, "mail")
	run(t, 1, "rm", m.path("b/images/mail.kernel"))
	run(t, 0, "rm", m.path("b/images/mail.raw"))
	if got := list(t, m.b); len(got) != 0 {
		t.Errorf("the folder holds %q", got)
	}
}

// TestCompanionsRestored: what rsync has saved it brings back, file by file.
func TestCompanionsRestored(t *testing.T) {
	m := withKernel(t, func(o *Options) { o.AllowDelete = true })
	backup := t.TempDir()
	run(t, 0, "rsync", "-a", m.path("a/images")+"/", backup)
	if diff := cmp.Diff(setFiles, list(t, backup)); diff != "" {
		t.Errorf("the backup holds (-want +got):\n%s", diff)
	}
	moved := func(args ...string) {
		t.Helper()
		if out := run(t, 0, "rsync", append([]string{"-ai"}, args...)...); strings.Contains(out, ">f") {
			t.Errorf("rsync of what is there moves %s", out)
		}
	}
	moved(m.path("a/images")+"/", backup)
	run(t, 0, "rsync", "-a", backup+"/", m.path("b/images"))
	m.wantBoot(t, "web")
	moved(backup+"/", m.path("b/images"))
	run(t, 0, "rsync", "-a", "--delete", t.TempDir()+"/", m.path("b/images"))
	if got := list(t, m.b); len(got) != 0 {
		t.Errorf("the folder holds %q", got)
	}

	// In another order; what waits resolves, is not listed, and can be removed.
	for _, file := range []string{"web.ramdisk", "web.raw", "web.kernel"} {
		run(t, 0, "cp", "-p", filepath.Join(backup, file), m.path("b/images"))
		if file == "web.ramdisk" {
			if got := list(t, m.path("b/images")); len(got) != 0 {
				t.Errorf("a ramdisk without an image is listed: %q", got)
			}
			if got := readFile(t, m.path("b/images/web.ramdisk")); !bytes.Equal(got, bootFile(providers.Ramdisk)) {
				t.Error("what waits holds other bytes")
			}
		}
	}
	m.wantBoot(t, "web")
	run(t, 0, "cp", filepath.Join(backup, "web.kernel"), m.path("b/images/mail.kernel"))
	run(t, 0, "rm", m.path("b/images/mail.kernel"))
	time.Sleep(1100 * time.Millisecond) // the kernel keeps names for a second
	_, err := os.Stat(m.path("b/images/mail.kernel"))
	wantErrno(t, "stat of what was removed", err, syscall.ENOENT)
	// A true name never looks like that of a companion.
	run(t, 0, "cp", filepath.Join(backup, "web.raw"), m.path("b/images/odd.kernel.raw"))
	if got := list(t, m.path("b/images")); !cmp.Equal(got[0], "odd%2Ekernel.json") {
		t.Errorf("listed are %q", got)
	}
}
