package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A site is a provider of type local in the configuration.
type site struct {
	name, images, instances string
	more                    string // further keys, as YAML: ", store: qcow2"
}

// A config is what a test mounts.
type config struct {
	sites []site
	flags []string // of the mount command
	env   []string // further variables of its environment
	top   string   // further lines of the file
	state string   // a state directory to go on with; empty is a fresh one
	dir   string   // where to mount; empty is a fresh folder
}

// A server is a running mount.
type server struct {
	config
	pid  int
	exit chan error // gets what the process ended with, once
	log  string     // the file that holds its stderr
	file string     // the configuration
	live bool
}

// newSite makes empty folders for a provider.
func newSite(t testing.TB, name string) site {
	t.Helper()
	dir := t.TempDir()
	s := site{name: name, images: filepath.Join(dir, "images"), instances: filepath.Join(dir, "instances")}
	for _, d := range []string{s.images, s.instances} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// write writes the configuration as a file.
func (c config) write(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%sstate_dir: %q\nproviders:\n", c.top, c.state)
	for _, s := range c.sites {
		fmt.Fprintf(&b, "  %s: {type: local, images: %q", s.name, s.images)
		if s.instances != "" {
			fmt.Fprintf(&b, ", instances: %q", s.instances)
		}
		fmt.Fprintf(&b, "%s}\n", s.more)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// mount starts a server and waits until it is live. At the end of the test it
// is unmounted, and must leave nothing behind.
func mount(t testing.TB, c config) *server {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		missing(t, "FUSE: %v", err)
	} else {
		f.Close()
	}
	if c.state == "" {
		c.state = filepath.Join(t.TempDir(), "state")
	}
	if c.dir == "" {
		c.dir = filepath.Join(t.TempDir(), "mnt")
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil && errno(err) != syscall.ENOTCONN && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err) // a mount that died is for the server to clean
	}
	s := &server{config: c, exit: make(chan error, 1), log: filepath.Join(t.TempDir(), "log")}
	s.file = c.write(t)
	if err := s.start(s.file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(t) })
	s.await(t)
	return s
}

// start runs the mount command in the foreground. The thread that starts it
// waits for it too: the signal that ends it when the tests die is bound to the
// life of that thread.
func (s *server) start(config string) error {
	log, err := os.Create(s.log)
	if err != nil {
		return err
	}
	args := append([]string{"mount", "--config", config}, s.flags...)
	cmd := exec.Command(binary(), append(args, s.dir)...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.exit <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.pid, s.live = cmd.Process.Pid, true
	return nil
}

// await waits until the mount answers.
func (s *server) await(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.ReadFile(s.path(".chromogenic", "version")); err == nil {
			return
		}
		select {
		case err := <-s.exit:
			s.live = false
			t.Fatalf("mount ended before it was live: %v\n%s", err, s.logged())
		default:
		}
	}
	t.Fatalf("mount is not live after 30 s\n%s", s.logged())
}

// path is a path below the mountpoint.
func (s *server) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// images is a path below a provider's images directory.
func (s *server) images(site string, parts ...string) string {
	return s.path(append([]string{site, "images"}, parts...)...)
}

// logged is what the server has written to its log.
func (s *server) logged() string {
	b, _ := os.ReadFile(s.log)
	return last(string(b), 60)
}

// reasons is what the mount tells of its failures.
func (s *server) reasons(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(s.path(".chromogenic", "errors"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// reasonsSince is what it tells now and did not when it told those of before. It keeps
// some hundred lines: the older ones of before may be gone.
func (s *server) reasonsSince(t testing.TB, before string) string {
	t.Helper()
	now := s.reasons(t)
	if newest := last(before, 1); newest != "" {
		if i := strings.LastIndex(now, newest); i >= 0 {
			now = strings.TrimPrefix(now[i+len(newest):], "\n")
		}
	}
	return now
}

// refresh makes the mount look at its providers again.
func (s *server) refresh(t testing.TB) {
	t.Helper()
	now := time.Now()
	if err := os.Chtimes(s.path(".chromogenic", "refresh"), now, now); err != nil {
		t.Fatal(err)
	}
}

// stop unmounts, waits for the server's end and checks that it was clean.
func (s *server) stop(t testing.TB) {
	t.Helper()
	if !s.live {
		return
	}
	s.live = false
	if err := s.unmount(); err != nil {
		t.Errorf("unmount: %v", err)
	}
	select {
	case err := <-s.exit:
		if err != nil {
			t.Errorf("server ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("server still runs 20 s after the unmount")
		syscall.Kill(s.pid, syscall.SIGQUIT) // its goroutines go to the log
		<-s.exit
	}
	s.checkClean(t)
	if t.Failed() {
		t.Logf("log of the server:\n%s", s.logged())
	}
}

// unmount takes the mount away, by force if it must.
func (s *server) unmount() error {
	var out []byte
	var err error
	for range 20 {
		if out, err = exec.Command("umount", s.dir).CombinedOutput(); err == nil {
			return nil
		}
		if _, e := exec.Command("fusermount3", "-u", s.dir).CombinedOutput(); e == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	if _, e := exec.Command("umount", "-l", s.dir).CombinedOutput(); e != nil {
		exec.Command("fusermount3", "-uz", s.dir).Run()
	}
	syscall.Kill(s.pid, syscall.SIGTERM)
	return fmt.Errorf("%w: %s", err, out)
}

// checkClean looks for what a server that has ended must not leave.
func (s *server) checkClean(t testing.TB) {
	t.Helper()
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), " "+s.dir+" ") {
		t.Errorf("%s is still mounted", s.dir)
	}
	roots := []string{filepath.Join(s.state, "spool")}
	for _, p := range s.sites {
		roots = append(roots, p.images)
		if p.instances != "" {
			roots = append(roots, p.instances)
		}
	}
	for i, root := range roots {
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && path != root && (i == 0 || strings.HasPrefix(d.Name(), ".chromogenic-")) {
				t.Errorf("left behind: %s", path)
			}
			return nil
		})
	}
	if log, _ := os.ReadFile(s.log); strings.Contains(string(log), "panic:") || strings.Contains(string(log), "DATA RACE") {
		t.Errorf("the server panicked or raced:\n%s", log)
	}
}

// again unmounts and mounts the same at the given place, with the given state.
func (s *server) again(t testing.TB, dir, state string) *server {
	t.Helper()
	s.stop(t)
	c := s.config
	c.dir, c.state = dir, state
	return mount(t, c)
}

// errno is the errno in an error, 0 if there is none.
func errno(err error) syscall.Errno {
	var e syscall.Errno
	errors.As(err, &e)
	return e
}
