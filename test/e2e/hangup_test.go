package e2e

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestCommandSignalled ends a conversion in its middle: by Ctrl-C, by its service
// manager and by a terminal that closes. It leaves nothing.
func TestCommandSignalled(t *testing.T) {
	t.Parallel()
	disk := random(t, filepath.Join(t.TempDir(), "disk.raw"), 192*mib, 161)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		dir := t.TempDir()
		cmd := command(binary(), "convert", disk, filepath.Join(dir, "out.qcow2"))
		start(t, cmd)
		for end := time.Now().Add(20 * time.Second); len(names(t, dir)) == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("nothing is being written")
			}
		}
		cmd.Process.Signal(sig)
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("%v: it ends with %v", sig, err)
		}
		if left := names(t, dir); len(left) > 0 {
			t.Errorf("%v: left %q", sig, left)
		}
	}
}
