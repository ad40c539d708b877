package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// writers publish images in one provider until their time is over, each in a way of
// its own.
type writers struct {
	s     *server
	to    site
	end   time.Time
	dir   string            // what they copy from outside
	disks []plainDisk       // of the mount, to be copied within
	sums  map[string]string // of those, by path
	next  atomic.Int64      // number of a name

	published atomic.Int64

	mu   sync.Mutex
	keep map[string][]string // what an image is in the end, as the digest of its raw bytes; empty beside it where it may be missing
	did  map[string]int
}

func newWriters(t testing.TB, s *server, to site, views []loadView) *writers {
	t.Helper()
	w := &writers{s: s, to: to, dir: t.TempDir(), sums: map[string]string{}, keep: map[string][]string{}, did: map[string]int{}}
	for _, v := range views {
		if v.size < 64*mib {
			w.disks = append(w.disks, plainDisk{v.path, v.disk})
			if w.sums[v.disk] == "" {
				w.sums[v.disk] = digest(t, v.disk)
			}
		}
	}
	return w
}

// run is one writer.
func (w *writers) run(t testing.TB, i int) {
	chance := rand.New(rand.NewPCG(uint64(i), 8))
	way := []struct {
		name string
		do   func(*rand.Rand) error
	}{{"copied in", w.copyIn}, {"raced", w.race}, {"killed", w.killed}, {"copied within", w.within}, {"rsynced", w.rsync}}[i%5]
	for time.Now().Before(w.end) && !t.Failed() {
		if err := way.do(chance); err != nil {
			t.Errorf("%s: %v", way.name, err)
		}
	}
}

// count counts what came of something.
func (w *writers) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.did[what]++
}

// name is one that nobody else has.
func (w *writers) name() string { return fmt.Sprintf("w%06d", w.next.Add(1)) }

// content is a disk that nobody else has: its number, and random bytes.
func (w *writers) content(chance *rand.Rand) (content []byte, sum string) {
	content = fmt.Appendf(nil, "disk %d ", w.next.Add(1))
	content = append(content, randomBytes(1+chance.IntN(3*mib), chance.Uint64N(1<<16))...)
	h := sha256.Sum256(content)
	return content, hex.EncodeToString(h[:])
}

// write writes a file through the mount and closes it.
func (w *writers) write(name string, content []byte) error {
	f, err := os.OpenFile(w.s.images("b", name+".raw"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	for off := 0; off < len(content); off += 128 * kib {
		if _, err := f.Write(content[off:min(len(content), off+128*kib)]); err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}

// copyIn publishes an image, looks at it, and mostly removes it.
func (w *writers) copyIn(chance *rand.Rand) error {
	name := w.name()
	content, sum := w.content(chance)
	if err := w.write(name, content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return w.done("copied in", name, sum, chance)
}

// done looks at what was published.
func (w *writers) done(what, name, sum string, chance *rand.Rand) error {
	w.published.Add(1)
	w.count(what)
	got, err := w.digest(name)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if got != sum {
		return fmt.Errorf("%s is not what was written", name)
	}
	if chance.IntN(10) > 0 {
		return remove(w.s.images("b", name+".raw"))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keep[name] = []string{sum}
	return nil
}

// remove removes an image that was read a moment ago: on a busy machine the server
// may learn of the close(2) only then, and the image is EBUSY until it does. One try
// takes longer than all the time there where fifty want to change the directory.
func remove(path string) error {
	for began, tries := time.Now(), 1; ; tries++ {
		err := os.Remove(path)
		if !errors.Is(err, syscall.EBUSY) || tries > 2 && time.Since(began) > 30*time.Second {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// digest reads the raw view of an image.
func (w *writers) digest(name string) (string, error) {
	sum, _, err := readThrough(w.s.images("b", name+".raw"))
	return sum, err
}

// race has three write different disks under one name at once: one has it in the
// end, and the others are told so.
func (w *writers) race(chance *rand.Rand) error {
	name := w.name()
	const racers = 3
	var sums [racers]string
	var errs [racers]error
	var wg sync.WaitGroup
	for i := range racers {
		var content []byte
		content, sums[i] = w.content(chance)
		wg.Go(func() { errs[i] = w.write(name, content) })
	}
	wg.Wait()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won >= 0:
			return fmt.Errorf("%s: two have won", name)
		case err == nil:
			won = i
		case !slices.Contains([]syscall.Errno{syscall.EEXIST, syscall.EBUSY, syscall.ESTALE}, errno(err)):
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if won < 0 {
		return fmt.Errorf("%s: nobody has won: %v", name, errors.Join(errs[:]...))
	}
	return w.done("raced", name, sums[won], chance)
}

// killed kills cp or dd somewhere on the way: the image is there, whole, or not at
// all.
func (w *writers) killed(chance *rand.Rand) error {
	name := w.name()
	content, sum := w.content(chance)
	from := filepath.Join(w.dir, name+".raw")
	if err := os.WriteFile(from, content, 0o644); err != nil {
		return err
	}
	defer os.Remove(from)
	to := w.s.images("b", name+".raw")
	cmd, signals := command("cp", from, to), []os.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT}
	if chance.IntN(2) == 0 { // which ends by SIGINT as if it was done
		cmd, signals = command("dd", "if="+from, "of="+to, "bs=64K"), signals[:2]
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	time.Sleep(time.Duration(chance.IntN(400)) * time.Millisecond)
	cmd.Process.Signal(signals[chance.IntN(len(signals))])
	err := cmd.Wait()
	w.mu.Lock()
	w.keep[name] = []string{sum, ""}
	w.mu.Unlock()
	if err == nil {
		w.count("killed too late")
		return w.done("killed too late", name, sum, chance)
	}
	w.count("killed")
	return nil
}

// within copies an image of the other provider, in any format, by cp.
func (w *writers) within(chance *rand.Rand) error {
	d := w.disks[chance.IntN(len(w.disks))]
	name := w.name()
	out, err := command("cp", d.name, w.s.images("b", name+filepath.Ext(d.name))).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cp %s: %w: %s", d.name, err, out)
	}
	return w.done("copied within", name, w.sums[d.path], chance)
}

// rsync brings an image from outside under a name of its own, and renames it.
func (w *writers) rsync(chance *rand.Rand) error {
	name := w.name()
	content, sum := w.content(chance)
	from := filepath.Join(w.dir, name+".raw")
	if err := os.WriteFile(from, content, 0o644); err != nil {
		return err
	}
	defer os.Remove(from)
	out, err := command("rsync", "-a", from, w.s.images("b")+"/").CombinedOutput()
	if err != nil {
		return fmt.Errorf("rsync %s: %w: %s", name, err, out)
	}
	return w.done("rsynced", name, sum, chance)
}

// check looks at all that is there in the end.
func (w *writers) check(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	there := map[string]bool{}
	for _, n := range names(t, w.to.images) {
		name := strings.TrimSuffix(n, filepath.Ext(n))
		there[name] = true
		got, err := w.digest(name)
		if want, ok := w.keep[name]; !ok || !slices.Contains(want, got) || err != nil {
			t.Errorf("%s is there: %v; known to be published: %v", n, err, ok)
		}
	}
	for name, want := range w.keep {
		if !there[name] && len(want) == 1 {
			t.Errorf("%s was published, and is gone", name)
		}
	}
	listed, err := readNames(w.s.images("b"))
	if err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	for _, n := range listed {
		if name := strings.TrimSuffix(n, filepath.Ext(n)); !there[name] {
			t.Errorf("the mount lists %s, which the folder has not", n)
		}
	}
	t.Logf("%d images are there in the end, and all are whole", len(there))
}

// String tells what they have done.
func (w *writers) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, what := range slices.Sorted(maps.Keys(w.did)) {
		out = append(out, fmt.Sprintf("%d %s", w.did[what], what))
	}
	return strings.Join(out, ", ")
}
