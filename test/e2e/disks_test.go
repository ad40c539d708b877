package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// gptExt4 makes a disk with a GPT and an ext4 of a few files, sparse.
func gptExt4(t testing.TB, seed uint64) string {
	t.Helper()
	need(t, "sgdisk", "mkfs.ext4")
	return partitioned(t, 24*mib, seed, func(disk, files string) {
		run(t, "sgdisk", "-n", "1:2048:0", disk)
		run(t, "mkfs.ext4", "-q", "-F", "-d", files, "-E", "offset=1048576", disk, "22M")
	})
}

// mbrXFS makes a disk with an MBR and an xfs, sparse.
func mbrXFS(t testing.TB, seed uint64) string {
	t.Helper()
	need(t, "sfdisk", "mkfs.xfs")
	return partitioned(t, 40*mib, seed, func(disk, files string) {
		script(t, `echo '2048,,83' | sfdisk -q "$1"`, disk)
		part := filepath.Join(t.TempDir(), "part")
		sparse(t, part, 38*mib)
		// Below 300 MiB mkfs.xfs wants to be asked twice.
		run(t, "mkfs.xfs", "-q", "--unsupported", part)
		run(t, "dd", "if="+part, "of="+disk, "bs=1M", "seek=1", "conv=notrunc,sparse")
	})
}

// partitioned makes a sparse file and fills it by mkfs, with a folder of files
// that differ with the seed.
func partitioned(t testing.TB, size int64, seed uint64, mkfs func(disk, files string)) string {
	t.Helper()
	dir := t.TempDir()
	disk, files := filepath.Join(dir, "disk"), filepath.Join(dir, "files")
	sparse(t, disk, size)
	if err := os.Mkdir(files, 0o755); err != nil {
		t.Fatal(err)
	}
	random(t, filepath.Join(files, "random"), 3*mib+777, seed)
	text := make([]byte, 2*mib)
	for i := range text {
		text[i] = "a line of text that compresses well\n"[i%36]
	}
	if err := os.WriteFile(filepath.Join(files, "text"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	mkfs(disk, files)
	return disk
}

// random writes a file of random bytes, the same for the same seed.
func random(t testing.TB, file string, size int, seed uint64) string {
	t.Helper()
	writeFile(t, file, randomBytes(size, seed))
	return file
}

// randomBytes are the same for the same seed.
func randomBytes(size int, seed uint64) []byte {
	b := make([]byte, size)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(b)
	return b
}

// sparse makes a file that is one hole.
func sparse(t testing.TB, file string, size int64) string {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return file
}

// islands makes a sparse file with a few runs of random bytes: at its start,
// its end, and where a 4 GiB or cluster boundary is in the middle of one.
func islands(t testing.TB, file string, size int64) string {
	t.Helper()
	sparse(t, file, size)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := rand.New(rand.NewPCG(1, uint64(size)))
	for _, off := range []int64{0, size/3 - 5, size / 2, size - 1000} {
		b := make([]byte, 1000)
		for i := range b {
			b[i] = byte(r.Uint32() | 1)
		}
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// A plainDisk is a disk of the test, as raw bytes.
type plainDisk struct{ name, path string }

// smallDisks makes one disk of every kind but the huge ones.
func smallDisks(t testing.TB) []plainDisk {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	return []plainDisk{
		{"gpt-ext4", gptExt4(t, 1)},
		{"mbr-xfs", mbrXFS(t, 2)},
		{"dense", random(t, at("dense"), 5*mib, 3)},
		{"zeros", sparse(t, at("zeros"), 8*mib)},
		{"sector", random(t, at("sector"), 512, 4)},
		{"cluster-and-sector", random(t, at("cluster"), 64*kib+512, 5)},
	}
}

// writeFile writes a small file.
func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
