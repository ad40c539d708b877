package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// A verified image comes with a digest.
type verified struct {
	disk.Image
	err error
}

func (v verified) Verify(context.Context) error { return v.err }

// TestWriteFileVerifiesItsSource: what is not the image that its source has a digest of
// gets no name, and replaces nothing.
func TestWriteFileVerifiesItsSource(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "web.raw")
	img := verified{Image: disktest.Pattern(1<<20, nil)}
	if err := writeFile(t.Context(), img, path, output{Verify: true}); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	img = verified{disktest.Pattern(2<<20, nil), disk.Errorf(disk.Malformed, "its digest is another")}
	for _, name := range []string{"web.raw", "new.raw"} {
		err := writeFile(t.Context(), img, filepath.Join(dir, name), output{Verify: true, Force: true})
		if disk.KindOf(err) != disk.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	after, err := os.ReadFile(path)
	if err != nil || string(after) != string(before) {
		t.Errorf("what was there has changed, %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("left are %q", left)
	}
}
