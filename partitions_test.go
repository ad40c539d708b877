package main

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// need skips a test, or fails it in CI, when a program is not installed.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed; CI must have it", p)
		}
		t.Skipf("!!!!! NOT TESTED: %s is not installed", p)
	}
}

// partitioned makes a disk of 16 MiB with sfdisk.
func partitioned(t *testing.T, script string) disk.Image {
	t.Helper()
	need(t, "sfdisk")
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 16<<20); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sfdisk", "--quiet", path)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	img, err := openImage(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

func TestPartitions(t *testing.T) {
	const linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	for _, c := range []struct {
		name, script, table string
		want                []partitionInfo
	}{
		{"gpt", "label: gpt\nstart=2048, size=4096, name=\"boot disk\"\nstart=8192, size=8192\n", "gpt", []partitionInfo{
			{1, linux, "boot disk", 1 << 20, 2 << 20}, {2, linux, "", 4 << 20, 4 << 20},
		}},
		{"mbr", "label: dos\nstart=2048, size=4096, type=83\nstart=8192, size=8192, type=7\n", "mbr", []partitionInfo{
			{1, "0x83", "", 1 << 20, 2 << 20}, {2, "0x07", "", 4 << 20, 4 << 20},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, got, err := partitions(partitioned(t, c.script))
			if err != nil || table != c.table {
				t.Errorf("table %q, %v", table, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// A header with a correct checksum may still promise four thousand million
// entries of four thousand million bytes, or of none.
func TestPartitionsHostile(t *testing.T) {
	for name, v := range map[string][2]uint32{
		"huge table":  {1 << 30, 128},
		"huge entry":  {128, 1 << 31},
		"empty entry": {128, 0},
		"odd entry":   {128, 130},
	} {
		t.Run(name, func(t *testing.T) {
			p := gptHeader(v[0], v[1])
			table, list, err := partitions(disk.Bytes(p))
			if table != "" || list != nil || err != nil {
				t.Errorf("got %q, %v, %v", table, list, err)
			}
		})
	}
}

// gptHeader is a disk of 4 KiB with nothing but a GPT header at sector 1. UEFI
// 2.10, table 5.5.
func gptHeader(entries, each uint32) []byte {
	p := make([]byte, 4<<10)
	h := p[512:1024]
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	binary.LittleEndian.PutUint64(h[24:], 1)
	binary.LittleEndian.PutUint64(h[32:], 7)
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], entries)
	binary.LittleEndian.PutUint32(h[84:], each)
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return p
}

// A disk whose reads fail is an error, not a disk without partitions.
func TestPartitionsReadError(t *testing.T) {
	img := disk.Bytes(make([]byte, 1<<20))
	img.Close()
	if _, _, err := partitions(img); err == nil {
		t.Error("no error")
	}
}

func FuzzPartitions(f *testing.F) {
	f.Add(gptHeader(128, 128))
	f.Add(gptHeader(1<<31, 1<<31))
	f.Add(make([]byte, 512))
	f.Add([]byte{})
	mbr := make([]byte, 4096)
	copy(mbr[446:], "\x80\x00\x02\x00\x83\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00")
	copy(mbr[510:], "\x55\xaa")
	f.Add(mbr)
	f.Fuzz(func(t *testing.T, p []byte) {
		disktest.Within(t)
		if _, _, err := partitions(disk.Bytes(p)); err != nil {
			t.Errorf("read of memory failed: %v", err)
		}
	})
}
