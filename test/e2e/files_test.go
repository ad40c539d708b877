package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// readThrough reads a file to its end and gives the digest and the number of
// bytes. What the kernel has cached of it is dropped first, so that the server
// is asked each time.
func readThrough(path string) (sum string, n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	h := sha256.New()
	n, err = io.CopyBuffer(struct{ io.Writer }{h}, f, make([]byte, mib))
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// digest is the SHA-256 of a file that can be read.
func digest(t testing.TB, path string) string {
	t.Helper()
	sum, _, err := readThrough(path)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// stat is stat(2) of a file that is there.
func stat(t testing.TB, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t)
}

// allocated is the space, in bytes, that a file takes by stat(2).
func allocated(t testing.TB, path string) int64 {
	t.Helper()
	return stat(t, path).Blocks * 512
}

// A run of a file's bytes.
type extent struct{ off, end int64 }

// dataRuns are the runs of a file that are no holes, by SEEK_DATA and SEEK_HOLE.
func dataRuns(t testing.TB, path string) []extent {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var runs []extent
	for off := int64(0); ; {
		data, err := f.Seek(off, unix.SEEK_DATA)
		if errno(err) == unix.ENXIO {
			return runs
		}
		if err != nil {
			t.Fatalf("seek data in %s at %d: %v", path, off, err)
		}
		hole, err := f.Seek(data, unix.SEEK_HOLE)
		if err != nil || hole <= data {
			t.Fatalf("seek hole in %s at %d: %d, %v", path, data, hole, err)
		}
		runs = append(runs, extent{data, hole})
		off = hole
	}
}

// names lists a directory that can be read.
func names(t testing.TB, dir string) []string {
	t.Helper()
	all, err := readNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// readNames lists a directory as one who has never read it.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := f.Readdirnames(-1)
	slices.Sort(all)
	return all, err
}

// stored finds the one file of a provider's folder that holds the image of
// that name, and its format.
func stored(t testing.TB, s site, name string) (path, format string) {
	t.Helper()
	var found []string
	for _, n := range names(t, s.images) {
		if filepath.Ext(n) != ".json" && strings.TrimSuffix(n, filepath.Ext(n)) == name {
			found = append(found, n)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s holds %q as %q, want one file", s.name, name, found)
	}
	return filepath.Join(s.images, found[0]), strings.TrimPrefix(filepath.Ext(found[0]), ".")
}

// formats are those of the listing.
func formats() []string { return []string{"raw", "qcow2", "vmdk", "ova"} }

// blocks is the space, in bytes, that a file takes.
func blocks(info os.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks * 512 }
