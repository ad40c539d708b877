package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestServerEndsDuringCopy: the server is told to end while programs copy into the
// mount. Whoever is told that the copy succeeded has it; who moved has lost nothing.
func TestServerEndsDuringCopy(t *testing.T) {
	t.Parallel()
	programs := map[string]string{
		"cp":    `cp "$1" "$2"`,
		"mv":    `mv "$1" "$2"`,
		"dd":    `dd if="$1" of="$2" bs=64k conv=fsync 2>&1`,
		"cat":   `cat "$1" > "$2"`,
		"rsync": `rsync --inplace "$1" "$2"`,
	}
	for i, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		for _, after := range []time.Duration{30, 150, 400} {
			b := newSite(t, "b")
			source := filepath.Join(t.TempDir(), "big.raw")
			random(t, source, 96*mib, uint64(200+i))
			want := digest(t, source)
			s := mount(t, config{sites: []site{b}})
			originals := t.TempDir()
			results := map[string]chan result{}
			for name, script := range programs {
				done := make(chan result, 1)
				results[name] = done
				from := filepath.Join(originals, name+".raw")
				if err := os.Link(source, from); err != nil {
					t.Fatal(err)
				}
				go func() {
					done <- try(t, "sh", "-c", script, "sh", from, s.images("b", name+".raw"))
				}()
			}
			time.Sleep(after * time.Millisecond)
			syscall.Kill(s.pid, sig)
			select {
			case <-s.exit:
				s.live = false
			case <-time.After(30 * time.Second):
				t.Fatalf("the server lives 30 s after %v", sig)
			}
			for name, done := range results {
				at := fmt.Sprintf("%s, %v after %d ms", name, sig, after)
				var r result
				select {
				case r = <-done:
				case <-time.After(30 * time.Second):
					t.Fatalf("%s: the program hangs", at)
				}
				path := filepath.Join(b.images, name+".raw")
				_, gone := os.Stat(path)
				_, lost := os.Stat(filepath.Join(originals, name+".raw"))
				switch {
				case gone != nil && lost != nil:
					t.Errorf("%s: the original is gone and there is no image", at)
				case r.code == 0 && gone != nil:
					t.Errorf("%s: it ended with 0 and there is no image", at)
				case gone == nil && digest(t, path) != want:
					t.Errorf("%s: the image is not what was copied", at)
				}
			}
			// What was complete when the mount ended is finished by the next one.
			s = mount(t, s.config)
			s.settled(t)
			for _, n := range names(t, b.images) {
				if digest(t, filepath.Join(b.images, n)) != want {
					t.Errorf("%v after %d ms: %s is not what was copied", sig, after, n)
				}
			}
			s.stop(t)
		}
	}
}
