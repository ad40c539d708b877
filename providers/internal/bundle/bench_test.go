package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"chromogenic/disk"
	"chromogenic/providers/internal/crypt"
)

const benchPairs = 5 // how often both sides run

// benchDisk makes a raw disk in dir of size bytes, of which a share in percent is what
// disks are full of: the programs, libraries and texts of the system that this runs
// on. The rest are holes.
func benchDisk(tb testing.TB, dir string, size, percent int64) {
	tb.Helper()
	f, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		tb.Fatal(err)
	}
	const run = 16 << 20 // data and holes by turns, in proportion
	data := run * percent / 100
	at := int64(0)
	full := io.EOF
	write := func(p []byte) error {
		for len(p) > 0 {
			in := at % run
			if in >= data {
				at += run - in
				continue
			}
			n := min(int64(len(p)), data-in, size-at)
			if n <= 0 {
				return full
			}
			if _, err := f.WriteAt(p[:n], at); err != nil {
				return err
			}
			p, at = p[n:], at+n
		}
		return nil
	}
	for _, root := range []string{"/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/share", "/usr/lib", "/usr"} {
		err := filepath.WalkDir(root, func(path string, d iofs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			p, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			return write(append(p, make([]byte, -len(p)&4095)...))
		})
		if err == full {
			return
		} else if err != nil {
			tb.Fatal(err)
		}
	}
	tb.Fatalf("the system has only %d bytes for a disk of %d", at, size)
}

// A job is what a process of its own does, so that its memory is known.
type job struct {
	Dir      string
	Unbundle bool
}

func benchSecret() crypt.Secret {
	return crypt.Secret{Key: []byte("0123456789abcdef"), IV: []byte("fedcba9876543210")}
}

// TestBenchJob is that process.
func TestBenchJob(t *testing.T) {
	var j job
	if err := json.Unmarshal([]byte(os.Getenv("BUNDLE_BENCH_JOB")), &j); err != nil {
		t.Skip("run by TestBenchPipe")
	}
	defer func() {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, most, _ := bytes.Cut(status, []byte("VmHWM:")) // proc_pid_status(5), in KiB
		writeFile(t, j.Dir, "memory", bytes.Fields(most)[0])
	}()
	if !j.Unbundle {
		f, err := os.Open(filepath.Join(j.Dir, "disk"))
		if err != nil {
			t.Fatal(err)
		}
		img, err := disk.OpenFile(f)
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		m, _, err := Bundle(t.Context(), img, Spec{Name: "disk", Secret: benchSecret()}, func(_ context.Context, w Written, body []byte) error {
			return os.WriteFile(filepath.Join(j.Dir, w.Name), body, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
		m.User = "1"
		if err := m.Seal(benchSecret(), nil, &keys().user.PublicKey); err != nil {
			t.Fatal(err)
		}
		text, err := m.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, j.Dir, "manifest.xml", text)
		return
	}
	m, err := Parse(readFile(t, j.Dir, "manifest.xml"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(j.Dir, "ours"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fetch := func(_ context.Context, part string, _, _ int64) (io.ReadCloser, error) {
		return os.Open(filepath.Join(j.Dir, part))
	}
	if err := Unbundle(t.Context(), m, benchSecret(), fetch, fileSpool{f}, nil); err != nil {
		t.Fatal(err)
	}
}

type fileSpool struct{ *os.File }

func (f fileSpool) Begin(size, _ int64) error { return f.Truncate(size) }

// runJob does it, and gives the most memory that it had, in bytes.
func runJob(t *testing.T, j job) int64 {
	t.Helper()
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestBenchJob$")
	cmd.Env = append(os.Environ(), "BUNDLE_BENCH_JOB="+string(text))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kib, err := strconv.ParseInt(string(readFile(t, j.Dir, "memory")), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestBenchPipe prints how long we take for what the programs of the format do in a
// pipe, whatever of the processors they use. The sides take turns, so that a busy
// machine is unfair to both. The ratio is how much faster we are.
func TestBenchPipe(t *testing.T) {
	if os.Getenv("CHROMOGENIC_BENCH") == "" {
		t.Skip("for make bench")
	}
	need(t, "tar", "pigz", "gzip", "openssl", "split")
	size := int64(256)
	if text := os.Getenv("CHROMOGENIC_BENCH_MIB"); text != "" {
		var err error
		if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 32 {
			t.Fatalf("CHROMOGENIC_BENCH_MIB=%q is no size in MiB, at least 32", text)
		}
	}
	t.Logf("disks of %d MiB, of what a system has installed; seconds are medians of %d", size, benchPairs)
	t.Logf("%-28s %5s %8s %8s  ratio of time (least to most), of work", "", "data", "ours", "pipe")
	cipher := fmt.Sprintf("-aes-128-cbc -K %x -iv %x", benchSecret().Key, benchSecret().IV)
	var most int64
	for _, percent := range []int64{100, 50} {
		dir := t.TempDir()
		benchDisk(t, dir, size<<20, percent)
		compareSides(t, "bundle", percent,
			func() { most = max(most, runJob(t, job{Dir: dir})) },
			func() {
				shell(t, dir, "tar -cf - disk | pigz -6 -p2 | openssl enc -e "+cipher+" | split -b 10485760 - pipe.")
			})
		ours, pipe := total(t, dir, "disk.part.*"), total(t, dir, "pipe.*")
		t.Logf("%-28s %4d%% %8d %8d  %.3f of the pipe's, in KiB", "size of the parts", percent, ours>>10, pipe>>10, float64(ours)/float64(pipe))
		for _, gunzip := range []string{"pigz -dc", "gzip -dc"} {
			compareSides(t, "unbundle, against "+gunzip, percent,
				func() { most = max(most, runJob(t, job{Dir: dir, Unbundle: true})) },
				func() {
					shell(t, dir, "mkdir -p out; cat disk.part.* | openssl enc -d "+cipher+" | "+gunzip+" | tar -xf - -C out")
				})
		}
		shell(t, dir, "cmp disk ours; cmp disk out/disk")
	}
	t.Logf("most memory of ours: %d MiB", most>>20)
}

// compareSides measures two ways, which are processes of their own, in turns, and
// prints a row. On a machine that others use too the time of the processors tells more
// than that of the clock, for which a pipe of many processes has the larger share.
func compareSides(t *testing.T, what string, percent int64, ours, pipe func()) {
	t.Helper()
	measure := func(run func()) (clock, processors float64) {
		shell(t, "/", "sync")
		begin, before := time.Now(), childrenTime(t)
		run()
		return time.Since(begin).Seconds(), childrenTime(t) - before
	}
	ours() // the first run fills caches
	pipe()
	var a, b, ratios, work []float64
	for range benchPairs {
		x, u := measure(ours)
		y, v := measure(pipe)
		a, b, ratios, work = append(a, x), append(b, y), append(ratios, y/x), append(work, v/u)
	}
	for _, s := range [][]float64{a, b, ratios, work} {
		slices.Sort(s)
	}
	const mid, last = benchPairs / 2, benchPairs - 1
	t.Logf("%-28s %4d%% %8.2f %8.2f  %.2f (%.2f to %.2f)  %.2f (%.2f to %.2f)", what, percent, a[mid], b[mid],
		ratios[mid], ratios[0], ratios[last], work[mid], work[0], work[last])
}

// childrenTime is what the processes that have ended have taken of the processors, in
// seconds.
func childrenTime(t *testing.T) float64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// total is the sum of the files that a pattern finds.
func total(t *testing.T, dir, pattern string) (sum int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		sum += st.Size()
	}
	return sum
}

// benchImage is a disk in memory that compresses as programs do.
func benchImage(b *testing.B) disk.Image {
	b.Helper()
	dir := b.TempDir()
	benchDisk(b, dir, 64<<20, 75)
	return disk.Bytes(readFile(b, dir, "disk"))
}

func BenchmarkBundle(b *testing.B) {
	img := benchImage(b)
	b.SetBytes(img.Size())
	for b.Loop() {
		_, _, err := Bundle(b.Context(), img, Spec{Name: "a", Secret: benchSecret()}, func(context.Context, Written, []byte) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnbundle(b *testing.B) {
	img := benchImage(b)
	made := bundleOf(b, img, false)
	b.SetBytes(img.Size())
	for b.Loop() {
		if err := Unbundle(b.Context(), made.m, made.secret, made.parts.fetch, discard{}, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead reads 64 KiB at random places.
func BenchmarkRead(b *testing.B) {
	img := benchImage(b)
	made := bundleOf(b, img, true)
	back, err := Open(b.Context(), made.m, made.secret, made.index, made.parts.fetch)
	if err != nil {
		b.Fatal(err)
	}
	p, want := make([]byte, 64<<10), make([]byte, 64<<10)
	random := rand.New(rand.NewPCG(1, 1))
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		off := random.Int64N(img.Size() - int64(len(p)))
		if _, err := back.ReadAt(p, off); err != nil {
			b.Fatal(err)
		}
		if _, err := img.ReadAt(want, off); err != nil || !bytes.Equal(p, want) {
			b.Fatalf("read at %d is wrong", off)
		}
	}
}
