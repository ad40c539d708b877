package pipeline

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"chromogenic/disk"
)

// TestRealFileSystemsThatEndTooEarly has the sizes told by those who make the
// file systems.
func TestRealFileSystemsThatEndTooEarly(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	const size = 128 << 20
	for name, command := range map[string][]string{
		"ext4":  {"mkfs.ext4", "-q", "-F"},
		"xfs":   {"mkfs.xfs", "-q", "-f", "-d", "size=128m", "--unsupported"},
		"btrfs": {"mkfs.btrfs", "-q", "-f"},
		"fat32": {"mkfs.vfat", "-F", "32"},
		"fat16": {"mkfs.vfat", "-F", "16"},
		"swap":  {"mkswap"},
	} {
		if _, err := exec.LookPath(command[0]); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Logf("SKIPPED %s: %v", name, err)
			continue
		}
		file := filepath.Join(t.TempDir(), name)
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(command[0], append(command[1:], file)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		for _, end := range []int64{size, size / 2} {
			if err := f.Truncate(end); err != nil {
				t.Fatal(err)
			}
			g, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			img, err := disk.OpenFile(g)
			if err != nil {
				t.Fatal(err)
			}
			err = checkWhole(img)
			img.Close()
			if cut := end < size; cut != (disk.KindOf(err) == disk.Malformed) {
				t.Errorf("%s of %d bytes in %d: %v", name, int64(size), end, err)
			}
		}
		f.Close()
	}
}
