package openstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// binary builds the program once.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(cloud.temp, "chromogenic")
	cmd := exec.Command("go", "build", "-o", path, "../..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // static, as make build makes it: it runs in a sandbox too
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// An installation is the program with a configuration and a state of its own.
type installation struct {
	path, config, state string
	env                 []string
	dir                 string // the working directory; empty for ours
}

// install writes a configuration of the providers and the clouds.yaml.
func install(t testing.TB, clouds, providers string) *installation {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(providers, "clean:") { // what these tests copy has no guest
		providers = strings.ReplaceAll(providers, "{type: openstack,", "{type: openstack, clean: \"off\",")
	}
	dir := t.TempDir()
	in := &installation{path: path, config: filepath.Join(dir, "config.yaml"), state: filepath.Join(dir, "state")}
	if err := os.WriteFile(in.config, []byte("state_dir: "+in.state+"\nproviders:\n"+providers), 0o600); err != nil {
		t.Fatal(err)
	}
	in.env = append(os.Environ(), "OS_CLIENT_CONFIG_FILE="+clouds, "CHROMOGENIC_CONFIG="+in.config)
	return in
}

// try runs a command of the program.
func (in *installation) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, in.path, args...)
	cmd.Env, cmd.Dir = in.env, in.dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is try for what must succeed.
func (in *installation) run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := in.try(args...)
	if err != nil {
		t.Fatalf("chromogenic %q: %v: %s", args, err, out)
	}
	return out
}

// mount mounts the installation until the end of the test.
func (in *installation) mount(t testing.TB, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	in.run(t, append([]string{"mount", "--daemon", dir}, args...)...)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(in.state, "log", "mount.log"))
			t.Logf("log of the mount: %s", log)
			failures, _ := os.ReadFile(filepath.Join(dir, ".chromogenic", "errors"))
			t.Logf("failures: %s", failures)
		}
		for range 50 {
			if table, err := os.ReadFile("/proc/self/mounts"); err == nil && !strings.Contains(string(table), " "+dir+" ") {
				return // the test has done it
			}
			if exec.Command("umount", dir).Run() == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("%s cannot be unmounted", dir)
		exec.Command("umount", "-l", dir).Run()
	})
	return dir
}

// sh runs a program that must succeed.
func sh(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := tryCommand(name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return out
}

func tryCommand(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "OS_CLIENT_CONFIG_FILE="+cloud.clouds, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("it takes longer than 3 minutes: %w", err)
	}
	return string(out), err
}

// stacks runs commands of openstack for a cloud, in one process, for its start takes a
// second.
func stacks(t testing.TB, user string, commands ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "commands")
	if err := os.WriteFile(file, []byte(strings.Join(commands, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := sh(t, "sh", "-c", "openstack --os-cloud \"$1\" <\"$2\"", "sh", user, file)
	if strings.Contains(out, "Exception") || strings.Contains(out, "rror:") {
		t.Fatalf("openstack: %s", out)
	}
}

// testDisk writes a raw disk of 64 MiB with a file system and some content, sparse.
func testDisk(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	sh(t, "mkfs.ext4", "-q", "-F", path)
	for i := range 8 {
		if _, err := f.WriteAt(bytes.Repeat([]byte(fmt.Sprintf("content %d ", i)), 100_000), int64(i*5+20)<<20); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// sameFile compares two files.
func sameFile(t testing.TB, a, b string) {
	t.Helper()
	if out, err := tryCommand("cmp", a, b); err != nil {
		t.Errorf("%s", out)
	}
}

// twoSites is an installation of the projects a and b, both empty.
func twoSites(t testing.TB, more string) (in *installation, a, b *api) {
	t.Helper()
	a, b = login(t, "a"), login(t, "b")
	a.clear(t)
	b.clear(t)
	return install(t, cloud.clouds, "  a: {type: openstack, cloud: a}\n  b: {type: openstack, cloud: b}\n"+more), a, b
}
