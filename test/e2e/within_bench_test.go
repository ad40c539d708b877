package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

const (
	// withinPairs is how often both sides of the comparison run.
	withinPairs = 5
	// withinMost is how much longer than the peer a copy inside the mount may take:
	// 0.6 of its speed.
	withinMost = 1 / 0.6
)

// withinSize is the size of the disks that are copied, in bytes.
func withinSize(t testing.TB) int {
	t.Helper()
	text := os.Getenv("CHROMOGENIC_BENCH_MIB")
	if text == "" {
		return 1024 * mib
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 8 {
		t.Fatalf("CHROMOGENIC_BENCH_MIB=%q is no size in MiB, at least 8", text)
	}
	return n * mib
}

// TestBenchWithin prints how long programs take to copy a raw disk from one provider
// of a mount to another, where it is stored, made durable, read back and verified,
// and how long the same takes by hand between plain folders of the same file system:
// cp, sync and sha256sum. The sides take turns, so that a busy machine is unfair to
// both. A ratio below 1 means that the mount is faster.
func TestBenchWithin(t *testing.T) {
	if os.Getenv("CHROMOGENIC_BENCH") == "" {
		t.Skip("for make bench")
	}
	needPrograms(t)
	size := withinSize(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	for kind, every := range map[string]int{"dense": 1, "sparse": 4} {
		dataIn(t, filepath.Join(a.images, kind+".raw"), size, every)
	}
	age(t, time.Hour, a.images)
	s := mount(t, config{sites: []site{a, b}})
	plain := t.TempDir()
	t.Logf("disks of %d MiB, the sparse one with data in every fourth; medians of %d, in seconds", size/mib, withinPairs)
	t.Logf("%-23s %8s %8s   ratio (least to most)", "", "ours", "peer")
	for _, kind := range []string{"dense", "sparse"} {
		src := filepath.Join(a.images, kind+".raw")
		for _, p := range pick("cp", "cp-a", "dd", "rsync", "shutil.copyfile", "install", "tar") {
			name := p.name + "-" + kind
			ours := func() result { return p.copy(t, s.images("a", kind+".raw"), s.images("b", name+".raw")) }
			peer := func() result {
				return try(t, "sh", "-ec", `cp "$1" "$2"; sync "$2"; sha256sum "$2"`, "sh", src, filepath.Join(plain, name+".raw"))
			}
			x := timed{ours, filepath.Join(b.images, name+".raw")}
			y := timed{peer, filepath.Join(plain, name+".raw")}
			ratio := sideBySide(t, name, x, y)
			if ratio > withinMost {
				t.Errorf("%s of a %s disk takes %.2f times as long as the peer, want at most %.2f", p.name, kind, ratio, withinMost)
			}
		}
	}
}

// A timed is a copy that is measured, and the file that it makes.
type timed struct {
	run  func() result
	made string
}

// once runs it, and removes what it made.
func (c timed) once(t testing.TB) float64 {
	t.Helper()
	began := time.Now()
	r := c.run()
	took := time.Since(began).Seconds()
	if r.code != 0 {
		t.Fatalf("exit status %d\n%s", r.code, r.out)
	}
	if err := os.Remove(c.made); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // the mount knows what is in a folder for a second
	return took
}

// sideBySide measures two copies in turns, prints a row, and gives the median of the
// ratios of the pairs.
func sideBySide(t testing.TB, what string, ours, peer timed) float64 {
	t.Helper()
	ours.once(t) // the first run fills caches
	peer.once(t)
	var a, b, ratios []float64
	for range withinPairs {
		x, y := ours.once(t), peer.once(t)
		a, b, ratios = append(a, x), append(b, y), append(ratios, x/y)
	}
	for _, all := range [][]float64{a, b, ratios} {
		slices.Sort(all)
	}
	middle := withinPairs / 2
	t.Logf("%-23s %8.3f %8.3f   %.2f (%.2f to %.2f)", what, a[middle], b[middle], ratios[middle], ratios[0], ratios[withinPairs-1])
	return ratios[middle]
}

// dataIn makes a file of which one MiB in every so many is random bytes, and the rest
// holes.
func dataIn(t testing.TB, file string, size, every int) {
	t.Helper()
	sparse(t, file, int64(size))
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	random, p := rand.NewChaCha8([32]byte{}), make([]byte, mib)
	for off := 0; off < size; off += every * mib {
		random.Read(p)
		if _, err := f.WriteAt(p[:min(mib, size-off)], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}
