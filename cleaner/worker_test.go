package cleaner

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"chromogenic/cleaner/guest"
)

// TestWorker: the program that the Makefile builds in starts in a sandbox, and needs no
// library.
func TestWorker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "worker")
	cmd := exec.Command("go", "build", "-o", path, "./worker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build worker: %v\n%s", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ways, err := guest.Available(guest.Options{Program: program})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ways {
		switch {
		case w.Name != "uml" || w.Missing == "":
		case os.Getenv("CI") != "":
			t.Errorf("the worker does not start: %s", w.Missing)
		default:
			t.Skipf("there is no sandbox here: %s", w.Missing)
		}
	}
}
