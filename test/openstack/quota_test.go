package openstack

import (
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
	"chromogenic/providers/openstack"
)

// otherwise starts a service of the cloud anew with other variables of openstack.sh, and
// as it was at the end of the test.
func otherwise(t testing.TB, service string, vars ...string) {
	t.Helper()
	restart := func(vars ...string) {
		c := cloud
		c.env = append(c.env[:len(c.env):len(c.env)], vars...)
		if out, err := c.script("restart", service); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	restart(vars...)
	t.Cleanup(func() { restart() })
}

// TestQuota: Glance's quota of what a user stores, which it tells nobody before it
// strikes: nothing is left then.
func TestQuota(t *testing.T) {
	r := newRig(t, "a", func(o *openstack.Options) { o.Store, o.Stall = "raw", time.Minute })
	otherwise(t, "glance", "OPENSTACK_QUOTA=64MB")
	img := disktest.Pattern(40<<20, nil)
	left := func(images int) {
		t.Helper()
		if d := r.debris(t); len(d) > 0 {
			t.Errorf("left behind: %q", d)
		}
		if n := len(r.images(t)); n != images {
			t.Errorf("%d images, not %d", n, images)
		}
	}
	refused := func(err error) {
		t.Helper()
		if disk.KindOf(err) != disk.Quota {
			t.Errorf("%v of kind %v", err, disk.KindOf(err))
		}
	}

	// At once, where one alone is too large.
	_, err := upload(t, r, "large", disktest.Pattern(80<<20, nil))
	refused(err)
	// None, unless Glance takes more than a second to say so.
	t.Logf("one of 80 MiB: %d bytes were sent: %v", r.proxy.Received.Load(), err)
	left(0)

	// At the end, where another one was faster: Glance counts an image when it is whole.
	begun, proceed := make(chan struct{}), make(chan struct{})
	var sent atomic.Int64
	r.proxy.Inject(&Fault{Method: "PUT", Path: "/file", After: 20 << 20, Do: func() {
		if sent.Add(1) == 1 {
			close(begun)
			<-proceed
		}
	}})
	first := make(chan error, 1)
	go func() { _, err := upload(t, r, "one", img); first <- err }()
	<-begun
	_, err = upload(t, r, "two", img)
	close(proceed)
	if err != nil {
		t.Error(err)
	}
	err = <-first
	t.Logf("the second of 40 MiB: %v", err)
	refused(err)
	left(1)

	// By the mount.
	in := install(t, cloud.clouds, "  a: {type: openstack, cloud: a, store: raw}\n")
	dir := in.mount(t)
	source := t.TempDir()
	sh(t, "sh", "-c", `head -c 73400320 /dev/urandom >"$1"`, "sh", filepath.Join(source, "big.raw"))
	if out, err := tryCommand("cp", filepath.Join(source, "big.raw"), filepath.Join(dir, "a", "images")); err == nil || !strings.Contains(out, "Disk quota exceeded") {
		t.Errorf("cp: %v: %s", err, out)
	}
	left(1)

	// By way of the staging area Glance finds out when it imports, and does not say why.
	r = newRig(t, "a", func(o *openstack.Options) { o.Store, o.Import = "raw", true })
	_, err = upload(t, r, "large", disktest.Pattern(80<<20, nil))
	if err == nil || !strings.Contains(err.Error(), "the import into local has failed") {
		t.Errorf("by import: %v", err)
	}
	left(0)
}
