package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// aRead is a read of strace that gave at least eight bytes, and what it gave.
var aRead = regexp.MustCompile(`"\\x(..)\\x(..)\\x(..)\\x(..)\\x(..)\\x(..)\\x..\\x.."\.*, \d+\) = (\d+)`)

// Opcodes of linux/fuse.h.
const (
	fuseLookup      = 1
	fuseGetattr     = 3
	fuseReaddir     = 28
	fuseReaddirplus = 44
)

// TestPlainLs counts the requests of an ls by tracing the server: a listing
// costs no lookup for each file.
func TestPlainLs(t *testing.T) {
	t.Parallel()
	needRoot(t)
	need(t, "strace")
	a := newSite(t, "a")
	for i := range 300 {
		random(t, filepath.Join(a.images, fmt.Sprintf("image-%d.raw", i)), 512, uint64(i))
	}
	s := mount(t, config{sites: []site{a}})
	count := traceFUSE(t, s, func() {
		if n := len(strings.Fields(run(t, "ls", "--color=never", s.images("a")))); n < 300*4 {
			t.Errorf("ls shows %d names", n)
		}
	})
	t.Logf("requests of ls by opcode: %v", count)
	if count[fuseReaddir]+count[fuseReaddirplus] == 0 {
		t.Fatal("the trace has no readdir: it saw nothing")
	}
	if n := count[fuseLookup] + count[fuseGetattr]; n > 10 {
		t.Errorf("ls of 300 images made %d lookups and %d getattrs", count[fuseLookup], count[fuseGetattr])
	}
	if count[fuseReaddirplus] > 0 {
		t.Errorf("ls made %d readdirplus", count[fuseReaddirplus])
	}
}

// traceFUSE counts the requests that the server gets while act runs.
func traceFUSE(t testing.TB, s *server, act func()) map[int]int {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trace")
	strace := command("strace", "-f", "-xx", "-s", "8", "-e", "trace=read", "-o", file, "-p", fmt.Sprint(s.pid))
	start(t, strace)
	awaitTracer(t, s.pid)
	act()
	time.Sleep(200 * time.Millisecond)
	strace.Process.Signal(syscall.SIGINT)
	strace.Wait()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	count := map[int]int{}
	for _, m := range aRead.FindAllStringSubmatch(string(b), -1) {
		// A request begins with its length and its opcode, four bytes each in
		// the order of x86; any other read would hardly begin with its length.
		var length, opcode int
		fmt.Sscanf(m[4]+m[3]+m[2]+m[1], "%x", &length)
		fmt.Sscanf(m[6]+m[5], "%x", &opcode)
		if fmt.Sprint(length) == m[7] {
			count[opcode]++
		}
	}
	return count
}

// awaitTracer waits until all threads of the process are traced.
func awaitTracer(t testing.TB, pid int) {
	t.Helper()
	for range 200 {
		all := true
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, f := range threads {
			b, _ := os.ReadFile(f)
			all = all && !strings.Contains(string(b), "TracerPid:\t0\n")
		}
		if all && len(threads) > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	missing(t, "strace cannot trace the server")
}
