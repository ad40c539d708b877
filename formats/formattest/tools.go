package formattest

import (
	"os"
	"os/exec"
	"testing"

	"chromogenic/disk"
)

// Need skips a test that lacks a tool, and fails it where CI is set in the
// environment.
func Need(t testing.TB, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", tool)
		}
		t.Skipf("SKIPPED, NOT TESTED: %s is not installed", tool)
	}
}

// Run runs a tool, which must succeed, and returns all that it prints.
func Run(t testing.TB, tool string, args ...string) string {
	t.Helper()
	Need(t, tool)
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct", "LC_ALL=C", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", tool, args, err, out)
	}
	return string(out)
}

// OpenFile opens a file for the time of the test.
func OpenFile(t testing.TB, name string) disk.Image {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := disk.OpenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// WriteFile makes a sparse file of img.
func WriteFile(t testing.TB, name string, img disk.Image) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(img.Size()); err != nil {
		t.Fatal(err)
	}
	if err := disk.Copy(t.Context(), f, img, disk.CopyOptions{}); err != nil {
		t.Fatalf("write %q: %v", name, err)
	}
}
