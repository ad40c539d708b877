package guest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chromogenic/disk"
)

// missing skips a test, or fails it in CI.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	text := fmt.Sprintf(format, args...)
	if os.Getenv("CI") != "" {
		t.Fatalf("%s; CI must have it", text)
	}
	t.Skipf("!!!!! NOT TESTED: %s", text)
}

// sampled leaves all subtests to make test-full but for those with one of the names.
func sampled(t *testing.T, names ...string) {
	t.Helper()
	_, name, _ := strings.Cut(t.Name(), "/")
	if os.Getenv("CHROMOGENIC_FULL") == "" && !slices.Contains(names, name) {
		t.Skip("for make test-full")
	}
}

// need asks for programs, which may be where the administrator's are.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if findTool(p) == "" {
			missing(t, "%s is not installed", p)
		}
	}
}

// runProgram runs a program of the host.
func runProgram(t testing.TB, name string, args ...string) string {
	t.Helper()
	need(t, name)
	out, err := exec.Command(findTool(name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// worker builds the static program of testdata/worker once.
func worker(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots machines")
	}
	path, err := builtWorker()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// workerDir is removed by TestMain.
var workerDir string

var builtWorker = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("GUEST_WORKER"); path != "" {
		return path, nil // TestOrdinaryUser has built it
	}
	path := filepath.Join(workerDir, "worker")
	cmd := exec.Command("go", "build", "-o", path, "./testdata/worker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build worker: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	var err error
	if workerDir, err = os.MkdirTemp("", "guest"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(workerDir)
	os.Exit(code)
}

// A step is as testdata/worker has it.
type step struct {
	Do, Path string
	Text     string `json:",omitempty"`
	N        int64  `json:",omitempty"`
}

// A guestDisk is an overlay over a raw file.
type guestDisk struct {
	*disk.Overlay
	path string
	sum  string
}

// openDisk opens a raw file as a base that must stay as it is.
func openDisk(t testing.TB, path string) *guestDisk {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	base, err := disk.OpenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	d := &guestDisk{Overlay: disk.NewOverlay(base, disk.OverlayOptions{Budget: 64 << 20, Scratch: t.TempDir()}), path: path, sum: sumOf(t, path)}
	t.Cleanup(func() {
		d.Close()
		base.Close()
		if sum := sumOf(t, path); sum != d.sum {
			t.Error("the base was changed")
		}
	})
	return d
}

func sumOf(t testing.TB, path string) string {
	t.Helper()
	return strings.Fields(runProgram(t, "sha256sum", path))[0]
}

// do runs steps on a disk, which must succeed.
func do(t testing.TB, d Disk, o Options, steps ...step) (Facts, map[string]string) {
	t.Helper()
	o.Executable = worker(t)
	order, err := json.Marshal(steps)
	if err != nil {
		t.Fatal(err)
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	r, err := Run(t.Context(), d, o, order)
	if err != nil {
		t.Fatalf("%v\nhint: %s\nfacts: %+v", err, disk.AsError(err).Hint, r.Facts)
	}
	said := map[string]string{}
	if err := json.Unmarshal(r.Reply, &said); err != nil {
		t.Fatalf("reply %q: %v", r.Reply, err)
	}
	return r.Facts, said
}

// holds tells where texts are among the bytes of a disk.
func holds(t testing.TB, d Disk, texts ...string) map[string]int64 {
	t.Helper()
	const window, overlap = 4 << 20, 4 << 10
	buf, found := make([]byte, window), map[string]int64{}
	for off := int64(0); off < d.Size(); off += window - overlap {
		n := min(window, d.Size()-off)
		if err := readFull(d, buf[:n], off); err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if i := bytes.Index(buf[:n], []byte(text)); i >= 0 {
				found[text] = off + int64(i)
			}
		}
	}
	return found
}
