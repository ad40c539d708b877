package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestInterrupted ends writers half-way: nothing of the image appears.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	b := newSite(t, "b")
	s := mount(t, config{sites: []site{b}})
	disk := gptExt4(t, 81)
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	writers := map[string][]string{
		"cp":  {"cp"},
		"dd":  {"sh", "-c", `exec dd if="$1" of="$2" bs=64K iflag=fullblock`, "sh"},
		"tee": {"sh", "-c", `exec tee "$2" < "$1" > /dev/null`, "sh"},
		"cat": {"sh", "-c", `exec cat "$1" > "$2"`, "sh"},
	}
	for writer, line := range writers {
		for signal, sig := range signals {
			t.Run(writer+"-"+signal, func(t *testing.T) {
				name := writer + "-" + signal
				w := watching(s, b, s.images("b", name+".raw"))
				interruptHalfway(t, disk, s.images("b", name+".raw"), line, sig)
				w.nothing(t)
				// The name is free for the next, who is not in a hurry.
				copyIn(t, s, b, pick("cp")[0], disk, source(t, containers()[0], disk), name)
			})
		}
	}
	for signal, sig := range signals {
		for _, options := range []string{"-P", "-aP", "-a", "-a --inplace"} {
			t.Run("rsync"+options+"-"+signal, func(t *testing.T) {
				interruptRsync(t, s, b, disk, strings.Fields(options), sig)
			})
		}
	}
	noTemporaries(t, b)
}

// interruptRsync kills rsync after some of the disk has been copied.
func interruptRsync(t *testing.T, s *server, b site, disk string, options []string, sig syscall.Signal) {
	t.Helper()
	name := fmt.Sprint("rsync", strings.Join(options, ""), sig)
	dst := s.images("b", name+".raw")
	w := watching(s, b, dst)
	cmd := command("rsync", append(options, "--bwlimit=8M", disk, dst)...)
	start(t, cmd)
	time.Sleep(700 * time.Millisecond)
	cmd.Process.Signal(sig)
	if err := cmd.Wait(); err == nil {
		t.Error("rsync was faster than the signal")
	}
	time.Sleep(300 * time.Millisecond) // its child renames the partial file
	w.nothing(t)
}

// interruptHalfway gives the writer half of a disk through a pipe, and then a
// signal.
func interruptHalfway(t *testing.T, disk, dst string, line []string, sig syscall.Signal) {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(line[0], append(append([]string{}, line[1:]...), fifo, dst)...)
	start(t, cmd)
	pipe, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	in, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := io.CopyN(struct{ io.Writer }{pipe}, in, 12*mib); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	cmd.Process.Signal(sig)
	if err := cmd.Wait(); err == nil {
		t.Errorf("%q ends with 0 after %v", line, sig)
	}
}

// start starts a command that the end of the test ends.
func start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
}

// TestCutOff writes the first half of an image, as a pipe does whose producer
// died: an end like any other, but the image is truncated by what it says.
func TestCutOff(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	need(t, "mkfs.ext4")
	a, b := newSite(t, "a"), newSite(t, "b")
	disk := gptExt4(t, 82)
	serve(t, a, []plainDisk{{"web", disk}}, containers())
	bare := sparse(t, filepath.Join(t.TempDir(), "bare.raw"), 16*mib)
	run(t, "mkfs.ext4", "-q", "-F", bare)
	s := mount(t, config{sites: []site{a, b}})
	sources := map[string]string{
		"gpt": source(t, containers()[0], disk), "mbr": source(t, containers()[0], mbrXFS(t, 83)), "ext4": bare,
		"qcow2": source(t, containers()[1], disk), "zlib": source(t, containers()[2], disk),
		"sparse-vmdk": source(t, containers()[4], disk), "stream-vmdk": source(t, containers()[5], disk), "ova": source(t, containers()[6], disk),
		"view-raw": s.images("a", "web-raw.raw"), "view-qcow2": s.images("a", "web-zlib.qcow2"), "view-vmdk": s.images("a", "web-raw.vmdk"), "view-ova": s.images("a", "web-raw.ova"),
	}
	for name, src := range sources {
		for _, part := range []string{"50", "98"} {
			t.Run(name+"-"+part, func(t *testing.T) {
				dst := s.images("b", name+"-"+part+filepath.Ext(src))
				w := watching(s, b, dst)
				r := try(t, "bash", "-c", `head -c $(($(stat -c %s "$1") * $3 / 100 / 512 * 512)) "$1" | cat > "$2"`, "bash", src, dst, part)
				w.nothing(t)
				if r.code == 0 {
					t.Errorf("exit status 0 %s", r.out)
				}
				if !strings.Contains(r.out, "Bad message") {
					t.Errorf("cat does not say that the image is bad: %s", r.out)
				}
			})
		}
	}
}
