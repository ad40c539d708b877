package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// makeTiB makes a qcow2 of 1 TiB with some data at both ends and between.
func makeTiB(t testing.TB, s site) string {
	t.Helper()
	need(t, "qemu-img", "qemu-io")
	file := filepath.Join(s.images, "tib.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", file, "1T")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 64k", "-c", "write -q -P 8 500G 1M", "-c", "write -q -P 9 1099511562240 64k", file)
	return file
}

// TestTiB reads a disk of 1 TiB at its ends, and its containers whole.
func TestTiB(t *testing.T) {
	t.Parallel()
	a := newSite(t, "a")
	file := makeTiB(t, a)
	s := mount(t, config{sites: []site{a}})
	raw := s.images("a", "tib.raw")
	if got := stat(t, raw); got.Size != tib || got.Blocks*512 > 16*mib {
		t.Errorf("raw: size %d, %d blocks", got.Size, got.Blocks)
	}
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off, want := range map[int64]byte{0: 7, 64*kib - 1: 7, 64 * kib: 0, 500 * gib: 8, 500*gib - 1: 0, tib - 64*kib: 9, tib - 1: 9, tib / 3: 0} {
		var b [1]byte
		if _, err := f.ReadAt(b[:], off); err != nil || b[0] != want {
			t.Errorf("raw at %d: %d, %v; want %d", off, b[0], err, want)
		}
	}
	if runs := dataRuns(t, raw); len(runs) != 3 || dataLen(runs) != mib+128*kib {
		t.Errorf("raw: data at %v", runs)
	}
	for _, format := range []string{"qcow2", "vmdk", "ova"} {
		view := s.images("a", "tib."+format)
		size := stat(t, view).Size
		if _, n, err := readThrough(view); err != nil || n != size {
			t.Errorf("%s: stat says %d bytes, read gives %d, %v", view, size, n, err)
		}
		if format != "ova" {
			compare(t, "-f", "qcow2", "-F", format, file, view)
		}
	}
}

// BenchmarkTiB measures ls -l of all formats, the first byte of each view, and
// the server's memory, each time with a fresh mount and a fresh state.
func BenchmarkTiB(b *testing.B) {
	a := newSite(b, "a")
	makeTiB(b, a)
	var ls, first time.Duration
	var rss int64
	for b.Loop() {
		s := mount(b, config{sites: []site{a}})
		began := time.Now()
		run(b, "ls", "-l", s.images("a"))
		ls = max(ls, time.Since(began))
		for _, format := range formats() {
			began := time.Now()
			f, err := os.Open(s.images("a", "tib."+format))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := f.Read(make([]byte, 1)); err != nil {
				b.Fatal(err)
			}
			first = max(first, time.Since(began))
			f.Close()
		}
		rss = max(rss, memory(b, s.pid, "VmHWM"))
		s.stop(b)
	}
	b.ReportMetric(float64(ls.Microseconds())/1000, "ms-ls-l")
	b.ReportMetric(float64(first.Microseconds())/1000, "ms-first-byte")
	b.ReportMetric(float64(rss)/mib, "MiB-peak-RSS")
	if ls > time.Second || first > 100*time.Millisecond || rss > 64*mib {
		b.Errorf("ls -l %v, want 1s; first byte %v, want 100ms; resident %d MiB, want 64", ls, first, rss/mib)
	}
}

// memory is a line of /proc/PID/status, in bytes.
func memory(t testing.TB, pid int, key string) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if k, v, _ := strings.Cut(lines.Text(), ":"); k == key {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n * kib
		}
	}
	t.Fatalf("/proc/%d/status has no %s", pid, key)
	return 0
}
