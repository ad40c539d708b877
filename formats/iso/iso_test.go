package iso

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// TestSize: genisoimage says how large its volume is.
func TestSize(t *testing.T) {
	tool, err := exec.LookPath("genisoimage")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.iso")
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-no-pad"}, {"-pad", "-J", "-R"}, {"-no-pad", "-udf"}} {
		if out, err := exec.Command(tool, append(args, "-quiet", "-o", path, filepath.Join(dir, "file"))...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		img, err := disk.OpenFile(f)
		if err != nil {
			t.Fatal(err)
		}
		size, err := Size(img)
		if err != nil || size <= 3<<20 || size > img.Size() || img.Size()-size > 400<<10 {
			t.Errorf("%q: %d bytes of %d, %v", args, size, img.Size(), err)
		}
		if again, err := Size(disk.Section(img, 0, 1<<20)); again != size || err != nil {
			t.Errorf("%q: of a part %d, %v", args, again, err)
		}
		img.Close()
	}
}

func TestISO(t *testing.T) {
	for _, size := range []int64{0, 1, descriptors, descriptors + sector, 300 << 10} {
		img := disktest.Pattern(size, nil)
		if n, err := Size(img); n != 0 || err != nil {
			t.Errorf("what is no ISO has a volume of %d bytes, %v", n, err)
		}
		m, err := Open(img)
		if err != nil || len(m.Disks) != 1 {
			t.Fatal(err)
		}
		disktest.Compare(t, m.Disks[0], img)
	}
}
