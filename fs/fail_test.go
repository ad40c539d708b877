package fs

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/providers"
	"chromogenic/providers/local"
)

// TestKilled: a program that is killed publishes nothing, whatever it has
// written.
func TestKilled(t *testing.T) {
	m, disk := withWeb(t)
	host := filepath.Join(t.TempDir(), "disk")
	writeImage(t, host, disk)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		cmd := exec.Command("sh", "-c", `exec cat "$1" - > "$2"`, "sh", host, m.path("b/images/cut.raw"))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); !bytes.Contains(readFile(t, m.path(".chromogenic/status")), []byte("4194304")); {
			if time.Now().After(end) {
				t.Fatal("cat does not write")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		in.Close()
		m.wantNothing(t)
		if got := errorAt(t, m.path("b/images")); !strings.Contains(got, "was killed") {
			t.Errorf("reason: %s", got)
		}
	}
	// The name is free.
	run(t, 0, "cp", host, m.path("b/images/cut.raw"))
	m.wantImage(t, "cut", disk)
}

// A slow provider waits in Begin, until the context ends or for a while.
type slow struct {
	*local.Provider
	begun chan struct{}
	wait  time.Duration
}

func (s slow) Begin(ctx context.Context, spec providers.Spec) (providers.Upload, error) {
	close(s.begun)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.wait):
	}
	return s.Provider.Begin(ctx, spec)
}

// mountSlow makes the provider b a slow one.
func mountSlow(t *testing.T, wait time.Duration) (*testMount, slow) {
	t.Helper()
	s := slow{begun: make(chan struct{}), wait: wait}
	return mountSites(t, nil, func(o *pipeline.Options) {
		s.Provider = o.Sites[1].Provider.(*local.Provider)
		o.Sites[1].Provider = s
	}), s
}

// TestInterruptedCommit: who waits for a commit dies at once of a fatal signal,
// and the copy with him; a signal that he handles changes nothing.
func TestInterruptedCommit(t *testing.T) {
	for name, c := range map[string]struct {
		signal  syscall.Signal
		publish bool
	}{
		"fatal":   {syscall.SIGTERM, false},
		"handled": {syscall.SIGUSR1, true},
	} {
		t.Run(name, func(t *testing.T) {
			wait := time.Minute
			if c.publish {
				wait = time.Second
			}
			m, s := mountSlow(t, wait)
			host := filepath.Join(t.TempDir(), "disk")
			writeImage(t, host, pattern(1, 1<<20))
			cmd := exec.Command("dd", "if="+host, "of="+m.path("b/images/x.raw"), "bs=1M", "status=none")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-s.begun
			began := time.Now()
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("dd ended after %v", took)
			}
			if c.publish != (err == nil) {
				t.Errorf("dd: %v", err)
			}
			if c.publish {
				m.wantImage(t, "x", pattern(1, 1<<20))
				return
			}
			m.wantNothing(t)
		})
	}
}

// TestNoSpace: a program that ignores a failed write publishes nothing.
func TestNoSpace(t *testing.T) {
	m := mountSites(t, nil, func(o *pipeline.Options) { o.SpoolLimit = 1 << 20 })
	host := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(host, bytes.Repeat([]byte("data"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"cp", host, m.path("b/images/x.raw")}, {"dd", "if=" + host, "of=" + m.path("b/images/x.raw"), "bs=64k"}} {
		if out := run(t, 1, args[0], args[1:]...); !strings.Contains(out, "No space left") {
			t.Errorf("%s says %s", args[0], out)
		}
		m.wantNothing(t)
	}
}

// A damaged source fails its reads behind the first MiB.
type damaged struct{ *local.Provider }

func (d damaged) Open(ctx context.Context, e providers.Entry, n int) (providers.Source, error) {
	s, err := d.Provider.Open(ctx, e, n)
	s.Image = badImage{s.Image}
	return s, err
}

type badImage struct{ disk.Image }

func (b badImage) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > 3<<20 {
		return 0, disk.Errorf(disk.Malformed, "bad cluster")
	}
	return b.Image.ReadAt(p, off)
}

// TestDamagedSource: what is copied from a source that fails on the way is not
// published, though the program closes it as if it were whole.
func TestDamagedSource(t *testing.T) {
	m := mountSites(t, func(m *testMount, _ *Options) {
		writeImage(t, filepath.Join(m.a, "bad.raw"), bytes.Repeat([]byte{1, 2, 3, 4}, 1<<20))
	}, func(o *pipeline.Options) {
		o.Sites[0].Provider = damaged{o.Sites[0].Provider.(*local.Provider)}
	})
	from, to := m.path("a/images/bad.raw"), m.path("b/images/bad.raw")
	for name, args := range map[string][]string{
		"cp": {"cp", from, to}, "dd": {"dd", "if=" + from, "of=" + to, "bs=64k"}, "cat": {"sh", "-c", "exec cat " + from + " > " + to},
	} {
		if out := run(t, 1, args[0], args[1:]...); !strings.Contains(out, "Bad message") {
			t.Errorf("%s says %s", name, out)
		}
		m.wantNothing(t)
	}
	run(t, 23, "rsync", "-a", from, to)
	m.wantNothing(t)
}

func TestReadOnly(t *testing.T) {
	m := mountTwo(t, func(m *testMount, o *Options) {
		o.ReadOnly = true
		writeImage(t, filepath.Join(m.a, "web.raw"), pattern(1, 1<<20))
	})
	run(t, 1, "cp", m.path("a/images/web.raw"), m.path("b/images/web.raw"))
	wantErrno(t, "rm", os.Remove(m.path("a/images/web.raw")), syscall.EROFS)
	wantErrno(t, "mv", os.Rename(m.path("a/images/web.raw"), m.path("a/images/x.raw")), syscall.EROFS)
	if got := readFile(t, m.path("a/images/web.raw")); len(got) != 1<<20 {
		t.Errorf("read %d bytes", len(got))
	}
	m.wantNothing(t)
}

func TestAllowDelete(t *testing.T) {
	m := mountTwo(t, func(m *testMount, o *Options) {
		o.AllowDelete = true
		writeImage(t, filepath.Join(m.a, "web.raw"), pattern(1, 1<<20))
		writeImage(t, filepath.Join(m.a+"-instances", "vm.raw"), pattern(2, 1<<20))
	})
	wantErrno(t, "rm of an instance", os.Remove(m.path("a/instances/vm.raw")), syscall.EPERM)
	run(t, 0, "rm", m.path("a/images/web.qcow2"))
	if got := list(t, m.path("a/images")); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}

// TestSolved: a reason is shown until something succeeds where it arose.
func TestSolved(t *testing.T) {
	m := mountTwo(t, func(m *testMount, o *Options) {
		o.AllowDelete = true
		writeImage(t, filepath.Join(m.b, "one.raw"), pattern(1, 1<<20))
		writeImage(t, filepath.Join(m.b, "two.raw"), pattern(2, 1<<20))
	})
	in := func(name string) string { return m.path("b/images/" + name) }
	check := func(after, want string) {
		t.Helper()
		if got := errorAt(t, in("")); !strings.Contains(got, want) {
			t.Errorf("after %s: %s, want %q", after, got, want)
		}
	}
	const none = "no error attribute"
	wantErrno(t, "rename onto another", os.Rename(in("two.raw"), in("one.raw")), syscall.EEXIST)
	check("a rename that failed", "two.raw")
	if err := os.Rename(in("two.raw"), in("three.raw")); err != nil {
		t.Fatal(err)
	}
	check("a rename", none)
	if err := os.WriteFile(in(".part"), pattern(4, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "publish over another", os.Rename(in(".part"), in("one.raw")), syscall.EEXIST)
	if err := os.Remove(in(".part")); err != nil {
		t.Fatal(err)
	}
	check("a failed publication, whose file the program removes", "one.raw")
	readFile(t, in("one.raw"))
	check("a read", none)
	wantErrno(t, "truncate", os.Truncate(in("one.raw"), 1), syscall.EPERM)
	check("a truncation that failed", "one.raw")
	if err := os.Remove(in("one.raw")); err != nil {
		t.Fatal(err)
	}
	check("a removal", none)
}

func TestInstances(t *testing.T) {
	vm := pattern(2, 2<<20)
	for policy, want := range map[string]struct {
		read syscall.Errno
		cp   int
	}{"auto": {0, 0}, "on-copy": {syscall.EPERM, 0}, "never": {syscall.EPERM, 1}} {
		t.Run(policy, func(t *testing.T) {
			m := mountSites(t, func(m *testMount, _ *Options) {
				writeImage(t, filepath.Join(m.a+"-instances", "vm.raw"), vm)
			}, func(o *pipeline.Options) { o.Sites[0].Snapshot = policy })
			path := m.path("a/instances/vm.raw")
			got, err := os.ReadFile(path)
			if want.read == 0 && (err != nil || !bytes.Equal(got, vm)) {
				t.Errorf("read: %v", err)
			}
			if want.read != 0 {
				wantErrno(t, "read", err, want.read)
				if reason := errorAt(t, path); !strings.Contains(reason, "snapshot: ") {
					t.Errorf("reason: %s", reason)
				}
			}
			run(t, want.cp, "cp", path, m.path("b/images/vm.raw"))
			if want.cp == 0 {
				m.wantImage(t, "vm", vm)
			} else {
				m.wantNothing(t)
			}
		})
	}
}

func TestMountpoints(t *testing.T) {
	m, _ := withWeb(t)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]disk.Kind{
		filepath.Join(full, "nothing"): disk.NotFound,
		filepath.Join(full, "file"):    disk.Invalid,
		full:                           disk.Invalid,
		m.dir:                          disk.Busy,
	} {
		_, err := Mount(context.Background(), Options{Pipeline: m.tree.p, Mountpoint: dir})
		if disk.KindOf(err) != want {
			t.Errorf("mount %s: %v, want kind %d", dir, err, want)
		}
	}
}

func TestControl(t *testing.T) {
	m, _ := withWeb(t)
	if got := string(readFile(t, m.path(".chromogenic/version"))); got != "test\n" {
		t.Errorf("version: %q", got)
	}
	if got := string(readFile(t, m.path(".chromogenic/status"))); !strings.Contains(got, `"providers": [`) {
		t.Errorf("status: %s", got)
	}
	run(t, 0, "touch", m.path(".chromogenic/refresh"))
	run(t, 0, "sh", "-c", "echo > "+m.path(".chromogenic/refresh"))
	wantErrno(t, "write status", os.WriteFile(m.path(".chromogenic/status"), nil, 0o600), syscall.EPERM)
	if got := list(t, m.dir); !cmp.Equal(got, []string{"a", "b"}) {
		t.Errorf("the root lists %q", got)
	}
	f, err := os.Open(m.path(".chromogenic/errors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.ReadAll(f); err != nil {
		t.Error(err)
	}
}
