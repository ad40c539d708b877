package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program is the binary under test, and work the folder of what the tests share.
var program, work string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if !asked("CHROMOGENIC_FULL") && !asked("CHROMOGENIC_BENCH") {
		return m.Run(), nil // all of them say why they skip
	}
	var err error
	if work, err = os.MkdirTemp("", "chromogenic-guest-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	if program, err = filepath.Abs("../../bin/chromogenic"); err != nil {
		return 0, err
	}
	// As users have it, with the program for sandboxes in it.
	cmd := exec.Command("make", "-s", "-C", "../..", "build")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build binary: %w\n%s", err, out)
	}
	return m.Run(), nil
}

func asked(variable string) bool { return os.Getenv(variable) != "" }

// need skips what nobody has asked for, and fails where a program is missing.
func need(t testing.TB, variable string, programs ...string) {
	t.Helper()
	if !asked(variable) {
		t.Skipf("it builds and boots machines: for %s", map[string]string{"CHROMOGENIC_FULL": "make test-full", "CHROMOGENIC_BENCH": "make bench"}[variable])
	}
	if os.Getuid() != 0 {
		t.Fatal("it builds disks, for which it takes root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is missing: %v", p, err)
		}
	}
}

// sh runs a program to its end and gives what it says.
func sh(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := command(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// command runs a program, which may be one of the administrator's, and gives all that it
// says.
func command(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// script is sh for several commands.
func script(t testing.TB, text string) string {
	t.Helper()
	return sh(t, "bash", "-euc", text)
}
