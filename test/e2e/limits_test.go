package e2e

import (
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// TestLimits: what a format cannot hold is not listed in it, and says why.
func TestLimits(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "rsync")
	a := newSite(t, "a")
	sparse(t, filepath.Join(a.images, "empty.raw"), 0)
	huge := islands(t, filepath.Join(a.images, "huge.raw"), 3*tib)
	s := mount(t, config{sites: []site{a}})
	listed := names(t, s.images("a"))
	for name, want := range map[string]syscall.Errno{"empty": syscall.EINVAL, "huge": syscall.EFBIG} {
		if !slices.Contains(listed, name+".raw") || !slices.Contains(listed, name+".qcow2") {
			t.Errorf("%s is not listed in the formats that take it: %q", name, listed)
		}
		for _, format := range []string{"vmdk", "ova"} {
			if slices.Contains(listed, name+"."+format) {
				t.Errorf("%s.%s is listed", name, format)
			}
			checkRefused(t, s.images("a", name+"."+format), []syscall.Errno{want})
		}
	}
	run(t, "ls", "-l", s.images("a"))
	run(t, "rsync", "-a", "--exclude=huge.raw", s.images("a")+"/", t.TempDir()+"/")
	compare(t, "-f", "raw", "-F", "qcow2", huge, s.images("a", "huge.qcow2"))
	if got := stat(t, s.images("a", "empty.raw")).Size; got != 0 {
		t.Errorf("the empty disk has %d bytes", got)
	}
}
