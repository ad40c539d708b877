package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestKilledWriters kills every program of the table at about a tenth, the half
// and nearly the whole of its time, with all that it has started. What it was
// copying is then there, whole, or not at all, and nothing else is.
func TestKilledWriters(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	a, b := newSite(t, "a"), newSite(t, "b")
	disk := gptExt4(t, 181)
	run(t, "cp", "--sparse=always", disk, filepath.Join(a.images, "web.raw"))
	s := mount(t, config{sites: []site{a, b}})
	outside := t.TempDir()
	outcomes := map[string]int{}
	for _, p := range programs() {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
			for _, part := range []int{10, 50, 99} {
				for _, within := range []bool{true, false} {
					if os.Getenv("CHROMOGENIC_FULL") == "" && chance.IntN(6) != 0 {
						continue
					}
					if within && p.moves {
						continue // an image of the mount is not moved away
					}
					src := s.images("a", "web.raw")
					if !within {
						src = filepath.Join(outside, "web.raw")
						run(t, "cp", "--sparse=always", disk, src)
					}
					at := fmt.Sprintf("%s, %v at %d %%, within: %v", p.name, sig, part, within)
					outcomes[killWriter(t, s, b, p, src, disk, sig, part, at)]++
				}
			}
		}
	}
	t.Log(outcomes)
	noTemporaries(t, b)
	for end := time.Now().Add(10 * time.Second); diskUsage(filepath.Join(s.state, "spool")) != 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) { // it goes behind its writer
			t.Fatalf("the spool still takes %d bytes", diskUsage(filepath.Join(s.state, "spool")))
		}
	}
}

// killWriter runs a program twice: to its end, for its time, and to a part of that.
func killWriter(t *testing.T, s *server, to site, p program, src, disk string, sig syscall.Signal, part int, at string) string {
	t.Helper()
	name := "x" + p.ext(src)
	keep := src + ".keep"
	if p.moves {
		run(t, "cp", "--sparse=always", src, keep)
	}
	began := time.Now()
	if r := p.copy(t, src, s.images("b", name)); r.code != 0 {
		t.Fatalf("%s: without a signal: %s", at, r.out)
	}
	whole := time.Since(began)
	clearImages(t, s, to)
	if p.moves {
		run(t, "mv", keep, src)
	}

	cmd := p.line(src, s.images("b", name))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	start(t, cmd)
	time.Sleep(whole * time.Duration(part) / 100)
	syscall.Kill(-cmd.Process.Pid, sig)
	err := cmd.Wait()
	ended(t, cmd)
	s.settled(t)
	left := names(t, to.images)
	outcome := "absent"
	switch {
	case len(left) == 0 && err == nil:
		t.Errorf("%s: it ended with 0 and there is no image", at)
	case len(left) > 0:
		outcome = "there"
		file, format := stored(t, to, "x")
		same(t, disk, file, format)
	}
	if _, e := os.Stat(src); e != nil && len(left) == 0 {
		t.Errorf("%s: neither the original nor an image is there", at)
	}
	clearImages(t, s, to)
	return outcome
}

// ended waits until all of a program's process group is gone.
func ended(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); syscall.Kill(-cmd.Process.Pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q is still there", cmd.Args)
		}
	}
}

// clearImages removes what a folder holds, and waits until the kernel knows too: who is
// told of an image that is gone, rsync, takes it for up to date.
func clearImages(t *testing.T, s *server, in site) {
	t.Helper()
	removed := names(t, in.images)
	for _, n := range removed {
		if err := os.RemoveAll(filepath.Join(in.images, n)); err != nil {
			t.Fatal(err)
		}
	}
	s.refresh(t)
	for _, n := range removed {
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, err := os.Lstat(s.images(in.name, n)); err != nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s is still there", n)
			}
		}
	}
}
