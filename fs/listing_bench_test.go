package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"chromogenic/pipeline"
	"chromogenic/providers/local"
)

// BenchmarkReaddir lists a directory of 2,000 images of a cloud, in five formats.
func BenchmarkReaddir(b *testing.B) {
	m := mountSites(b, func(m *testMount, o *Options) {
		for i := range 2000 {
			if err := os.WriteFile(filepath.Join(m.a, fmt.Sprintf("image-%04d.raw", i)), make([]byte, 512), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		o.Formats = []string{"raw", "qcow2", "vmdk", "ova", JSONName}
	}, func(o *pipeline.Options) {
		o.Sites[0].Provider = distant{o.Sites[0].Provider.(*local.Provider)}
	})
	for b.Loop() {
		if n := len(list(b, m.path("a/images"))); n != 10000 {
			b.Fatalf("%d files", n)
		}
	}
}
