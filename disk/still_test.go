package disk_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chromogenic/disk"
)

// A file that must stay as it is gives its bytes until it is changed or removed, and
// then says which file it is, and where.
func TestOpenStill(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 1024)
	for name, tt := range map[string]struct {
		change func(path string) error
		stale  bool
	}{
		"nothing":  {func(string) error { return nil }, false},
		"renamed":  {func(path string) error { return os.Rename(path, path+"2") }, false},
		"mode":     {func(path string) error { return os.Chmod(path, 0o400) }, false},
		"removed":  {os.Remove, true},
		"replaced": {func(path string) error { return os.Rename(write(t, content), path) }, true},
		"cut":      {func(path string) error { return os.Truncate(path, 100) }, true},
		"grown":    {func(path string) error { return os.Truncate(path, 1<<20) }, true},
		"touched":  {func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(5, 0)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, content)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			img, err := disk.OpenStill(f)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			p := make([]byte, 100)
			if _, err := img.ReadAt(p, 16); err != nil || !bytes.Equal(p, content[16:116]) {
				t.Fatalf("before: %v", err)
			}
			if err := tt.change(path); err != nil {
				t.Fatal(err)
			}
			_, err = img.ReadAt(p, 32)
			_, extentErr := img.Extent(32, 100)
			for _, err := range []error{err, extentErr} {
				if stale := disk.KindOf(err) == disk.Stale; (err != nil) != tt.stale || stale != tt.stale {
					t.Errorf("read: %v", err)
				}
				if err != nil && (!strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "at offset 32")) {
					t.Errorf("the reason lacks file or offset: %v", err)
				}
			}
		})
	}
}

// One that never had a name may go on without.
func TestOpenStillNameless(t *testing.T) {
	path := write(t, []byte("something"))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	img, err := disk.OpenStill(f)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if _, err := img.ReadAt(make([]byte, 4), 0); err != nil {
		t.Error(err)
	}
}

func write(t *testing.T, p []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.raw")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
