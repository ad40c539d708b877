package fs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chromogenic/formats"
	"chromogenic/pipeline"
	"chromogenic/providers/local"
)

// A testMount is a mount of the local providers a and b, each with a folder of
// images and one of instances.
type testMount struct {
	*Server
	dir  string // the mountpoint
	a, b string // the folders
	ops  *opCounter
	log  *syncBuffer
}

// needFUSE skips where nothing can be mounted, and fails where it must be.
func needFUSE(t testing.TB) {
	t.Helper()
	need(t, "fusermount3")
	if _, err := os.Stat("/dev/fuse"); err != nil {
		missing(t, "/dev/fuse")
	}
}

// need skips without a program, and fails in CI.
func need(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		missing(t, program)
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing", what)
	}
	t.Skipf("SKIPPED, NOT TESTED: %s is missing", what)
}

// mountTwo mounts; change may alter the options, and fill the folders first.
func mountTwo(t *testing.T, change func(m *testMount, o *Options)) *testMount {
	t.Helper()
	return mountSites(t, change, nil)
}

// mountSites is mountTwo with the sites or the pipeline's options changed.
func mountSites(t testing.TB, change func(m *testMount, o *Options), sites func(o *pipeline.Options)) *testMount {
	t.Helper()
	needFUSE(t)
	base := t.TempDir()
	m := &testMount{dir: filepath.Join(base, "mnt"), a: filepath.Join(base, "a"), b: filepath.Join(base, "b"), ops: &opCounter{}, log: &syncBuffer{}}
	for _, dir := range []string{m.dir, m.a, m.b, m.a + "-instances", m.b + "-instances"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{
		Mountpoint: m.dir, Version: "test", Log: slog.New(slog.NewTextHandler(m.log, nil)),
		debug: log.New(m.ops, "", 0),
	}
	if change != nil {
		change(m, &o)
	}
	m.mount(t, o, sites)
	return m
}

// mount makes the pipeline and mounts it.
func (m *testMount) mount(t testing.TB, o Options, change func(o *pipeline.Options)) {
	t.Helper()
	exts := map[string]string{}
	for _, f := range formats.Table() {
		for _, e := range f.Exts {
			exts[e] = f.Name
		}
	}
	var sites []pipeline.Site
	for _, x := range []struct{ name, dir string }{{"a", m.a}, {"b", m.b}} {
		p, err := local.New(local.Options{Name: x.name, Images: x.dir, Instances: x.dir + "-instances", Formats: exts, Machines: []string{"ova", "ovf"}})
		if err != nil {
			t.Fatal(err)
		}
		sites = append(sites, pipeline.Site{Provider: p})
	}
	po := pipeline.Options{Sites: sites, StateDir: filepath.Join(filepath.Dir(m.dir), "state"), Log: o.Log}
	if change != nil {
		change(&po)
	}
	p, err := pipeline.New(po)
	if err != nil {
		t.Fatal(err)
	}
	o.Pipeline = p
	if m.Server, err = Mount(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if err := m.WaitMount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(); err != nil {
			t.Error(err)
		}
		m.Wait()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

// path is one below the mountpoint.
func (m *testMount) path(name string) string { return filepath.Join(m.dir, name) }

// An opCounter counts requests in the debug log of go-fuse.
type opCounter struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *opCounter) Write(p []byte) (int, error) {
	// rx 2: LOOKUP n1 ["x"] 2b p42
	if f := strings.Fields(string(p)); len(f) > 2 && f[0] == "rx" {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.n == nil {
			c.n = map[string]int{}
		}
		c.n[f[2]]++
	}
	return len(p), nil
}

// count is how often the request was made since the last count.
func (c *opCounter) count(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n[op]
	c.n[op] = 0
	return n
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// pattern is a disk of n bytes: random data at both ends, a hole between.
func pattern(seed int64, n int) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewSource(seed))
	r.Read(p[:min(n, 200<<10)])
	r.Read(p[max(0, n-100<<10):])
	return p
}

// writeImage puts a sparse file into a folder of the host.
func writeImage(t *testing.T, path string, p []byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const block = 4096
	for off := 0; off < len(p); off += block {
		if b := p[off:min(off+block, len(p))]; len(bytes.TrimLeft(b, "\x00")) > 0 {
			if _, err := f.WriteAt(b, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Truncate(int64(len(p))); err != nil {
		t.Fatal(err)
	}
	old := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run runs a program and gives what it prints; it must end with the status.
func run(t *testing.T, status int, name string, args ...string) string {
	t.Helper()
	need(t, name)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if code := exitCode(err); code != status {
		t.Fatalf("%s %s: status %d, want %d (%v)\n%s", name, strings.Join(args, " "), code, status, err, out)
	}
	return string(out)
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return -1
}

// list is the names in a directory.
func list(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// wantErrno fails unless err is the errno.
func wantErrno(t *testing.T, what string, err error, want syscall.Errno) {
	t.Helper()
	if got, ok := errnoIn(err); !ok || got != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func errnoIn(err error) (syscall.Errno, bool) {
	for err != nil {
		if e, ok := err.(syscall.Errno); ok {
			return e, true
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return 0, false
		}
		err = u.Unwrap()
	}
	return 0, false
}

// copyFile copies as a plain program does: read and write.
func copyFile(from, to string, buf int) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, buf)); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}

// errorAt is the error xattr of a path.
func errorAt(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := syscall.Getxattr(path, errorAttr, buf)
	if err != nil {
		return fmt.Sprintf("no error attribute: %v", err)
	}
	return string(buf[:n])
}
