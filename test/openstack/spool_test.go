package openstack

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSpool: where a proxy loses the header Range, an image is fetched as a whole, if
// the configuration says so, and refused with a hint otherwise.
func TestSpool(t *testing.T) {
	a := login(t, "a")
	a.clear(t)
	guest := testDisk(t)
	file := filepath.Join(t.TempDir(), "web.qcow2")
	sh(t, "qemu-img", "convert", "-O", "qcow2", guest, file)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a.put(t, "web", "qcow2", f, nil)
	proxy, err := NewProxy(cloud.glance)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	proxy.Inject(&Fault{Method: http.MethodGet, Path: "/file", Whole: true})
	clouds := cloudsFile(t, "a", proxy.URL, "")
	got := filepath.Join(t.TempDir(), "web.raw")

	out, err := install(t, clouds, "  a: {type: openstack, cloud: a}\n").try("cp", "a:images/web.raw", got)
	if err == nil || !strings.Contains(out, "ignores ranges") || !strings.Contains(out, "spool: true") {
		t.Errorf("without spool: %v: %s", err, out)
	}
	in := install(t, clouds, "  a: {type: openstack, cloud: a, spool: true}\n")
	dir := in.mount(t)
	proxy.Clear()
	proxy.Inject(&Fault{Method: http.MethodGet, Path: "/file", Whole: true})
	sh(t, "cp", filepath.Join(dir, "a", "images", "web.raw"), got)
	sameFile(t, got, guest)
	sh(t, "cmp", filepath.Join(dir, "a", "images", "web.qcow2"), file)
	bytes := 0
	for _, line := range proxy.Log() {
		if strings.Contains(line, "/file") && !strings.Contains(line, "bytes=1-1") {
			bytes++
		}
	}
	if bytes != 1 {
		t.Errorf("it was fetched %d times: %q", bytes, proxy.Log())
	}
}
