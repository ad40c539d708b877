package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestQemuCreate: an empty disk that is made on purpose is an image.
func TestQemuCreate(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	b := newSite(t, "b")
	s := mount(t, config{sites: []site{b}})
	for _, format := range []string{"raw", "qcow2"} {
		run(t, "qemu-img", "create", "-q", "-f", format, s.images("b", "empty-"+format+"."+format), "4M")
		file := filepath.Join(b.images, "empty-"+format+"."+format)
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, err := os.Stat(file); err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: no image after 20 s\n%s", format, s.reasons(t))
			}
		}
		if out := run(t, "qemu-img", "info", file); out == "" {
			t.Errorf("%s cannot be read", file)
		}
	}
}
