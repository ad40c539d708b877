package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/fs"
)

const (
	benchSize = 256 << 20 // bytes of the disks
	benchRun  = 1 << 20   // bytes of a run of data: at 50 % they alternate with holes
	benchRuns = 5         // how often each side is measured
)

// utilisations are the shares of data, in percent.
func utilisations() []int { return []int{0, 50, 100} }

// benchDisk makes a raw disk with a share of random data.
func benchDisk(tb testing.TB, percent int) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(benchSize); err != nil {
		tb.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{})
	p := make([]byte, benchRun)
	for i := int64(0); i < benchSize/benchRun; i++ {
		if i*int64(percent)/100 == (i+1)*int64(percent)/100 {
			continue
		}
		random.Read(p)
		if _, err := f.WriteAt(p, i*benchRun); err != nil {
			tb.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		tb.Fatal(err)
	}
	return path
}

// benchFile is benchDisk in a format.
func benchFile(tb testing.TB, format string, percent int) string {
	tb.Helper()
	raw := benchDisk(tb, percent)
	if format == "raw" {
		return raw
	}
	path := filepath.Join(tb.TempDir(), "disk."+format)
	if err := convert(context.Background(), raw, path, conversion{}); err != nil {
		tb.Fatal(err)
	}
	return path
}

// each runs a benchmark for every format and utilisation.
func each(b *testing.B, run func(b *testing.B, format string, percent int)) {
	for _, format := range []string{"raw", "qcow2", "vmdk", "ova"} {
		for _, percent := range utilisations() {
			b.Run(fmt.Sprintf("%s/%d%%", format, percent), func(b *testing.B) { run(b, format, percent) })
		}
	}
}

// drain reads all of img, as a program that knows no holes does.
func drain(b *testing.B, img disk.Image) {
	b.Helper()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.NewSectionReader(img, 0, img.Size()), make([]byte, 1<<20)); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkReader reads the virtual disk of a container.
func BenchmarkReader(b *testing.B) {
	each(b, func(b *testing.B, format string, percent int) {
		src, err := openSource(benchFile(b, format, percent), "", nil)
		if err != nil {
			b.Fatal(err)
		}
		defer src.Close()
		b.SetBytes(benchSize)
		for b.Loop() {
			drain(b, src.Disks[0])
		}
	})
}

// BenchmarkLayout lays out a container and reads all of it.
func BenchmarkLayout(b *testing.B) {
	each(b, func(b *testing.B, format string, percent int) {
		src, err := openSource(benchDisk(b, percent), "", nil)
		if err != nil {
			b.Fatal(err)
		}
		defer src.Close()
		f, err := formatByName(format)
		if err != nil {
			b.Fatal(err)
		}
		file, err := layOut(src.Machine, f)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(file.Size())
		for b.Loop() {
			drain(b, file)
		}
	})
}

// BenchmarkMount reads the files of a mount through the kernel, dropped from its
// page cache before each pass.
func BenchmarkMount(b *testing.B) {
	each(b, func(b *testing.B, format string, percent int) {
		path := benchMounted(b, benchDisk(b, percent), format)
		info, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(info.Size())
		for b.Loop() {
			readFile(b, path)
		}
	})
}

// readFile reads a file, which goes to the page cache and leaves it again.
func readFile(tb testing.TB, path string) {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		tb.Fatal(err)
	}
	dropCache(f)
}

// benchMounted mounts the folder of a raw disk, and gives the path of a view.
func benchMounted(tb testing.TB, raw, format string) string {
	tb.Helper()
	conf, err := folderConfig(filepath.Dir(raw))
	if err != nil {
		tb.Fatal(err)
	}
	mnt := tb.TempDir()
	p, err := conf.open("", mnt, nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	server, err := fs.Mount(context.Background(), fs.Options{Pipeline: p, Mountpoint: mnt, Version: version})
	if err != nil {
		p.Close()
		tb.Skipf("!!!!! NOT MEASURED: %v", err)
	}
	if err := server.WaitMount(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			tb.Error(err)
		}
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
	})
	return filepath.Join(mnt, "local", "images", "disk."+format)
}

// TestBenchQemu prints how long we take for what qemu-img does too, and for
// reading a view where the peer is cat of the same bytes in a file. The sides
// take turns, so that a busy machine is unfair to both. A ratio below 1 means
// that we are faster.
func TestBenchQemu(t *testing.T) {
	if os.Getenv("CHROMOGENIC_BENCH") == "" {
		t.Skip("for make bench")
	}
	need(t, "qemu-img")
	t.Logf("disks of %d MiB in runs of %d KiB; seconds are medians of %d", benchSize>>20, benchRun>>10, benchRuns)
	t.Logf("%-24s %5s %9s %9s   ratio (least to most)", "", "data", "ours", "peer")
	for _, percent := range utilisations() {
		raw := benchDisk(t, percent)
		for _, format := range []string{"qcow2", "vmdk"} {
			file := benchFile(t, format, percent)
			compareSides(t, "raw to "+format, percent, convertRun(t, raw, format), qemuRun(t, raw, "raw", format))
			compareSides(t, format+" to raw", percent, convertRun(t, file, "raw"), qemuRun(t, file, format, "raw"))
		}
		for _, format := range []string{"raw", "qcow2", "vmdk"} {
			view := benchMounted(t, raw, format)
			file := benchFile(t, format, percent)
			compareSides(t, "read "+format+" of the mount", percent,
				func() { readFile(t, view) }, func() { readFile(t, file) })
		}
	}
}

func convertRun(t *testing.T, from, format string) func() {
	to := filepath.Join(t.TempDir(), "out."+format)
	return func() {
		if err := convert(context.Background(), from, to, conversion{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
}

// qemuRun has qemu-img do the same, and reach the disk like we do (-t none
// would need direct I/O, so the file is synced).
func qemuRun(t *testing.T, from, source, format string) func() {
	to := filepath.Join(t.TempDir(), "out."+format)
	args := []string{"convert", "-q", "-t", "writeback", "-f", source, "-O", format}
	if format == "vmdk" {
		args = append(args, "-o", "subformat=streamOptimized")
	}
	args = append(args, from, to)
	return func() {
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img: %v\n%s", err, out)
		}
		f, err := os.Open(to)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
}

// compareSides measures two ways in turns and prints a row.
func compareSides(t *testing.T, what string, percent int, ours, peer func()) {
	t.Helper()
	clock := func(run func()) float64 {
		begin := time.Now()
		run()
		return time.Since(begin).Seconds()
	}
	ours() // the first run fills caches
	peer()
	var a, b, ratios []float64
	for range benchRuns {
		x, y := clock(ours), clock(peer)
		a, b, ratios = append(a, x), append(b, y), append(ratios, x/y)
	}
	slices.Sort(a)
	slices.Sort(b)
	slices.Sort(ratios)
	t.Logf("%-24s %4d%% %9.3f %9.3f   %.2f (%.2f to %.2f)", what, percent,
		a[benchRuns/2], b[benchRuns/2], ratios[benchRuns/2], ratios[0], ratios[benchRuns-1])
}
