package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// binEnv names the environment variable that tells the tests where the binary
// is. Set from outside, it saves the build and tests that binary.
const binEnv = "E2E_BINARY"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] { // the test binary is some of the programs that it starts
		case faultArg:
			os.Exit(serveFaults(os.Args[2:]))
		case copyArg:
			os.Exit(copyBySyscalls(os.Args[2], os.Args[3]))
		}
	}
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	if os.Getenv(binEnv) != "" {
		return m.Run(), nil
	}
	tmp, err := os.MkdirTemp("", "chromogenic-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	if err := build(filepath.Join(tmp, "chromogenic")); err != nil {
		return 0, err
	}
	os.Setenv(binEnv, filepath.Join(tmp, "chromogenic"))
	return m.Run(), nil
}

// build compiles the module's main package.
func build(to string) error {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return err
	}
	if err := touchSources(root); err != nil {
		return err
	}
	args := []string{"build", "-o", to}
	if raceBuilt || os.Getenv("E2E_RACE") == "1" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build binary: %w\n%s", err, out)
	}
	return nil
}

// sampled tells whether tests take a part of what they could: the race detector makes
// the server ten times slower.
func sampled() bool { return raceBuilt && !full() }

// touchSources looks at every source file: go test remembers the results of a
// package by the files that its tests have looked at, and the binary's sources
// are no imports of this one.
func touchSources(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, ".go") || d.Name() == "go.mod" {
			_, err = os.Stat(path)
		}
		return err
	})
}

// binary is the path of the chromogenic under test.
func binary() string { return os.Getenv(binEnv) }

// missing ends a test that cannot run here: in CI that is a failure.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	why := fmt.Sprintf(format, args...)
	if os.Getenv("CI") != "" {
		t.Fatalf("%s; CI must have it", why)
	}
	t.Skipf("!!!!! NOT TESTED: %s", why)
}

// need skips a test, or fails it in CI, when a program is not installed.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing(t, "%s is not installed", p)
		}
	}
}

// needRoot skips a test that mounts a tmpfs, or traces the server.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, "this test runs as root only")
	}
}
