package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRmParts: an image goes with all its files, by the mount and by the command.
func TestRmParts(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	for name, maker := range partsMakers() {
		for _, by := range []string{"mount", "command"} {
			t.Run(name+" by "+by, func(t *testing.T) {
				t.Parallel()
				c := config{sites: []site{newSite(t, "a")}, flags: []string{"--allow-delete"}, state: filepath.Join(t.TempDir(), "state")}
				dir := c.sites[0].images
				putDisk(t, filepath.Join(dir, "keep.raw"))
				writeFile(t, filepath.Join(dir, "web.txt"), []byte("notes"))
				writeFile(t, filepath.Join(dir, "web-flat"), []byte("notes"))
				disk := filepath.Join(t.TempDir(), "disk")
				sparse(t, disk, 16*mib)
				maker(t, disk, dir)
				if len(names(t, dir)) < 5 {
					t.Fatalf("made %q", names(t, dir))
				}
				before := folder(t, dir)
				if by == "mount" {
					s := mount(t, c)
					run(t, "rm", s.images("a", "web.raw"))
					if got := names(t, s.images("a")); !slices.Equal(got, filesOf("keep")) {
						t.Errorf("listed: %q", got)
					}
				} else {
					run(t, binary(), "rm", "--yes", "--config", c.write(t), "a:images/web")
				}
				wantFolder(t, name, dir, before, "keep.raw", "web.txt", "web-flat")
			})
		}
	}
}

// TestRmKilled kills a removal of many files at each of its first steps: as long as
// the image is there it is whole, and what is left otherwise is no image.
func TestRmKilled(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "strace")
	a := newSite(t, "a")
	template := t.TempDir()
	run(t, "qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", filepath.Join(template, "web.vmdk"), "20G")
	all := names(t, template)
	seen := map[string]int{}
	for step := range len(all) + 2 {
		c := config{sites: []site{a}, state: filepath.Join(t.TempDir(), "state")}
		conf := c.write(t)
		script(t, `rm -f "$2"/*; cp "$1"/* "$2"`, template, a.images)
		inject := fmt.Sprintf("inject=unlinkat:signal=SIGKILL:when=%d", step+1)
		try(t, "strace", "-f", "-o", "/dev/null", "-e", "trace=unlinkat", "-e", inject, binary(), "rm", "--yes", "--config", conf, "a:images/web")
		left := names(t, a.images)
		switch {
		case slices.Equal(left, all):
			seen["whole"]++
		case slices.Contains(left, "web.vmdk"):
			t.Fatalf("step %d: its descriptor is left with %d of %d files", step, len(left), len(all))
		case len(left) == 0:
			seen["gone"]++
		default:
			seen["cut off"]++
			checkCutOff(t, conf, left)
			if now := names(t, a.images); !slices.Equal(now, left) {
				t.Errorf("files have gone by themselves: %q of %q", now, left)
			}
			ok(t, conf, "rm", "--yes", "a:images/"+strings.TrimSuffix(left[0], ".vmdk"))
		}
	}
	t.Logf("of %d removals of %d files: %v", len(all)+2, len(all), seen)
	if seen["cut off"] == 0 || seen["whole"] == 0 {
		t.Errorf("nothing was cut off where it matters: %v", seen)
	}
}

// checkCutOff looks at what is told of the files that a removal has left.
func checkCutOff(t *testing.T, conf string, left []string) {
	t.Helper()
	if got := ok(t, conf, "ls", "a"); got != "" {
		t.Errorf("listed: %s", got)
	}
	if n := strings.Count(ok(t, conf, "ls", "-l", "a"), "\na:images/web-s0"); n != len(left) {
		t.Errorf("ls -l tells of %d of %d files", n, len(left))
	}
	if got := ok(t, conf, "jobs", "list"); !strings.Contains(got, "interrupted  remove  a:images/web") {
		t.Errorf("jobs: %s", got)
	}
	ok(t, conf, "gc")
	if got := ok(t, conf, "jobs", "list"); !strings.Contains(got, "failed  remove  a:images/web") {
		t.Errorf("jobs after gc: %s", got)
	}
}

// TestRmCtrlC ends the question of rm as a terminal does.
func TestRmCtrlC(t *testing.T) {
	t.Parallel()
	a := newSite(t, "a")
	putDisk(t, filepath.Join(a.images, "web.raw"))
	putDisk(t, filepath.Join(a.images, "db.raw"))
	conf := config{sites: []site{a}, state: filepath.Join(t.TempDir(), "state")}.write(t)
	master, terminal := openTerminal(t)
	cmd := command(binary(), "rm", "--config", conf, "a:images/web", "a:images/db")
	cmd.Stdin = terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer kill.Stop()
	var text strings.Builder
	for b := make([]byte, 1); !strings.HasSuffix(text.String(), "[y/N] "); {
		if _, err := said.Read(b); err != nil {
			t.Fatalf("it does not ask: %v\n%s", err, text.String())
		}
		text.Write(b)
	}
	if _, err := master.Write([]byte{'y', 3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(said)
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("exit status %d\n%s%s", cmd.ProcessState.ExitCode(), text.String(), rest)
	}
	if got := names(t, a.images); !slices.Equal(got, []string{"db.raw", "web.raw"}) {
		t.Errorf("left: %q", got)
	}
	if strings.Count(text.String()+string(rest), "[y/N]") != 1 {
		t.Errorf("it has asked again:\n%s%s", text.String(), rest)
	}
}

// openTerminal makes a pseudo-terminal, as in pty(7).
func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		missing(t, "a pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}
