package e2e

import (
	"path/filepath"
	"testing"
)

// TestAllowOther: other users read what the mount lets them, and write nothing.
func TestAllowOther(t *testing.T) {
	t.Parallel()
	needRoot(t)
	need(t, "setpriv")
	a := newSite(t, "a")
	random(t, filepath.Join(a.images, "x.raw"), mib, 151)
	as := func(script, dir string) int {
		return try(t, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script, "sh", dir).code
	}
	for _, c := range []struct {
		flags []string
		read  bool
	}{{nil, false}, {[]string{"--allow-other"}, true}} {
		s := mount(t, config{sites: []site{a}, flags: c.flags})
		// The folders above the mountpoint are the test's own.
		run(t, "chmod", "0755", filepath.Dir(s.dir), filepath.Dir(filepath.Dir(s.dir)))
		if code := as(`ls "$1"/a/images && cat "$1"/a/images/x.qcow2 >/dev/null`, s.dir); (code == 0) != c.read {
			t.Errorf("%q: another user reads with exit status %d", c.flags, code)
		}
		if code := as(`head -c 1M /dev/urandom > "$1"/a/images/y.raw`, s.dir); code == 0 {
			t.Errorf("%q: another user writes", c.flags)
		}
		s.stop(t)
	}
}
