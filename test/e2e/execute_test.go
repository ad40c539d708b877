package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestExecute has programs that write into the mount start others, which closes
// what they have open (O_CLOEXEC) in the midst of execve(2): the other program
// starts, nothing is published by that, and the copy goes on.
func TestExecute(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	b := newSite(t, "b")
	s := mount(t, config{sites: []site{b}})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 10 {
					if err := writeAndExecute(s, b, fmt.Sprintf("x%d-%d.raw", i, j)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		// One that becomes another program itself has closed the file by that.
		const line = `import os, sys
f = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(f, b"the whole image")
os.execv("/bin/sh", ["sh", "-c", "exit 7"])`
		if r := try(t, "python3", "-c", line, s.images("b", "self.raw")); r.code != 7 {
			t.Errorf("a program that becomes another ends with %d\n%s", r.code, r.out)
		}
		if p, err := os.ReadFile(filepath.Join(b.images, "self.raw")); string(p) != "the whole image" {
			t.Errorf("what it wrote is %q, %v", p, err)
		}
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		s.quit(t, "execve(2) waits for the mount, and the mount for execve(2)")
	}
}

// writeAndExecute writes an image in two halves, and starts a program in between.
func writeAndExecute(s *server, to site, name string) error {
	f, err := os.Create(s.images("b", name))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, half := range []string{"the first half, ", "and the second"} {
		if _, err := f.WriteString(half); err != nil {
			return err
		}
		if err := exec.Command("true").Run(); err != nil {
			return fmt.Errorf("start a program while writing %s: %w", name, err)
		}
		if _, err := os.Stat(filepath.Join(to.images, name)); err == nil {
			return fmt.Errorf("%s is published before it is closed", name)
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	p, err := os.ReadFile(filepath.Join(to.images, name))
	if string(p) != "the first half, and the second" {
		return fmt.Errorf("%s is %q, %w", name, p, err)
	}
	return nil
}
