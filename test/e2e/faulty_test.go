package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"chromogenic/test/faultfs"
)

// faultArg makes the test binary a server of package faultfs.
const faultArg = "serve-faults"

// serveFaults is the main of that server: FOLDER MOUNTPOINT CACHED.
func serveFaults(args []string) int {
	if err := faultfs.Serve(args[0], args[1], args[2] == "cached", os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A faulty is a folder on a disk that can be told to fail.
type faulty struct {
	*faultfs.Mount
	dir    string // where it is mounted
	below  string // the folder as it is on the sound disk
	cached bool
}

// newFaulty makes an empty folder on a faulty disk. Of a cached one the kernel keeps
// pages, as it does of every disk; otherwise each read and write of a program is a
// request.
func newFaulty(t testing.TB, cached bool) *faulty {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	f := &faulty{dir: filepath.Join(root, "disk"), below: filepath.Join(root, "below"), cached: cached}
	for _, d := range []string{f.dir, f.below} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.plug(t)
	t.Cleanup(func() {
		if f.Mount == nil {
			return
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// plug mounts the disk, anew after a Kill.
func (f *faulty) plug(t testing.TB) {
	t.Helper()
	if f.Mount != nil {
		must(t, f.Close())
	}
	how := "direct"
	if f.cached {
		how = "cached"
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if f.Mount, err = faultfs.Start(exec.Command(self, faultArg, f.below, f.dir, how), f.dir); err != nil {
		t.Fatalf("mount a faulty disk: %v", err)
	}
}

// set makes something go wrong from now on.
func (f *faulty) set(t testing.TB, x faultfs.Fault) (fault int) {
	t.Helper()
	n, err := f.Set(x)
	if err != nil {
		t.Fatalf("set %+v: %v", x, err)
	}
	return n
}

// mend ends all faults.
func (f *faulty) mend(t testing.TB) {
	t.Helper()
	if err := f.Clear(); err != nil {
		t.Fatal(err)
	}
}

// struck is how often a fault has struck.
func (f *faulty) struck(t testing.TB, fault int) int {
	t.Helper()
	n, err := f.Hits(fault)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// await waits until a fault has struck.
func (f *faulty) await(t testing.TB, fault int) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); f.struck(t, fault) == 0; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("fault %d has not struck", fault)
		}
	}
}
