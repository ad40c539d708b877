package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// patience is how long a program may take. One that hangs on a mount cannot
// always be killed; the test goes on, and ends the server, which frees it.
const patience = 2 * time.Minute

// A result is what a program did.
type result struct {
	code int    // exit status; -1 killed by a signal
	out  string // stdout and stderr
}

// try runs a program to its end.
func try(t testing.TB, name string, args ...string) result {
	t.Helper()
	return tryCmd(t, command(name, args...))
}

// run runs a program that must succeed, and gives what it printed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	r := try(t, name, args...)
	if r.code != 0 {
		t.Fatalf("%s %q: exit status %d\n%s", name, args, r.code, r.out)
	}
	return r.out
}

// script runs a line of shell that must succeed; args are $1, $2…
func script(t testing.TB, line string, args ...string) string {
	t.Helper()
	return run(t, "sh", append([]string{"-ec", line, "sh"}, args...)...)
}

// command makes a command that speaks English.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	return cmd
}

// tryCmd runs a prepared command.
func tryCmd(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %q: %v", cmd.Args, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatalf("run %q: %v\n%s", cmd.Args, err, out.String())
		}
	case <-ctx.Done():
		cmd.Process.Kill()
		t.Fatalf("run %q: still running after %v", cmd.Args, patience)
	}
	return result{cmd.ProcessState.ExitCode(), out.String()}
}

// last is the end of a long text.
func last(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
