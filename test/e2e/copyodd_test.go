package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCopyZeros copies disks of zeros: they look like a file that somebody has
// made and not yet written, and are images all the same.
func TestCopyZeros(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	disk := sparse(t, filepath.Join(t.TempDir(), "zeros.raw"), 8*mib)
	dense := filepath.Join(t.TempDir(), "dense.raw")
	writeFile(t, dense, make([]byte, 8*mib))
	run(t, "cp", disk, filepath.Join(a.images, "zeros.raw"))
	s := mount(t, config{sites: []site{a, b}})
	sources := map[string]string{"sparse": disk, "dense": dense, "view": s.images("a", "zeros.raw"), "qcow2": s.images("a", "zeros.qcow2")}
	for _, p := range pick("cp", "cp-a", "cp-sparse", "dd", "dd-sparse", "tee", "cat", "rsync", "rsync-S", "install", "tar", "tar-S", "shutil.copy", "qemu-img-raw", "qemu-img-qcow2") {
		for from, src := range sources {
			name := p.name + "-" + from
			t.Run(name, func(t *testing.T) {
				if r := p.copy(t, src, s.images("b", name+p.ext(src))); r.code != 0 {
					t.Fatalf("exit status %d\n%s\nreasons:\n%s", r.code, r.out, last(s.reasons(t), 2))
				}
				await(t, s, b, name)
				file, format := stored(t, b, name)
				same(t, disk, file, format)
				if got := stat(t, s.images("b", name+".raw")).Size; got != 8*mib {
					t.Errorf("the disk has %d bytes", got)
				}
			})
		}
	}
}

// await waits a little for an image to appear: nobody can tell a disk of zeros
// from what qemu-img leaves between two closes, so its program may end first.
func await(t testing.TB, s *server, in site, name string) {
	t.Helper()
	for range 60 {
		for _, n := range names(t, in.images) {
			if strings.TrimSuffix(n, filepath.Ext(n)) == name {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s does not appear\nreasons:\n%s", name, last(s.reasons(t), 2))
}

// TestTwoWriters has two programs write one file after the other, as a shell
// lets them. Either the whole of it becomes the image, or the shell is told.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	disk := gptExt4(t, 141)
	run(t, "cp", "--sparse=always", disk, filepath.Join(a.images, "web.raw"))
	s := mount(t, config{sites: []site{a, b}})
	for name, src := range map[string]string{"outside": disk, "within": s.images("a", "web.raw")} {
		t.Run(name, func(t *testing.T) {
			dst := s.images("b", name+".raw")
			w := watching(s, b, dst)
			r := try(t, "bash", "-ec", `{ head -c 12582912 "$1"; sleep 0.2; tail -c +12582913 "$1"; } > "$2"`, "bash", src, dst)
			if r.code != 0 {
				t.Logf("refused: %s", r.out)
				w.nothing(t)
				return
			}
			file, format := stored(t, b, name)
			w.done(t, file)
			same(t, disk, file, format)
		})
	}
}

// TestParallelCopies copies several images at once into one provider, and one
// name by two programs: one of them wins, wholly.
func TestParallelCopies(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	disks := []string{gptExt4(t, 151), gptExt4(t, 152)}
	for i, d := range disks {
		run(t, "cp", "--sparse=always", d, filepath.Join(a.images, []string{"one.raw", "two.raw"}[i]))
	}
	s := mount(t, config{sites: []site{a, b}})
	script(t, `for i in 1 2 3 4 5 6; do cp "$1/one.raw" "$2/p$i.raw" & pids="$pids $!"; done; for p in $pids; do wait $p; done`,
		s.images("a"), s.images("b"))
	for _, n := range []string{"p1", "p2", "p3", "p4", "p5", "p6"} {
		file, format := stored(t, b, n)
		same(t, disks[0], file, format)
	}
	out := script(t, `cp "$1/one.raw" "$2/race.raw" & one=$!; cp "$1/two.raw" "$2/race.raw" & two=$!
		wait $one && echo one won; wait $two && echo two won; true`, s.images("a"), s.images("b"))
	file, format := stored(t, b, "race")
	switch one, two := strings.Contains(out, "one won"), strings.Contains(out, "two won"); {
	case one == two:
		t.Errorf("of two copies of different disks to one name one must win:\n%s", out)
	case one:
		same(t, disks[0], file, format)
	case two:
		same(t, disks[1], file, format)
	}
	noTemporaries(t, b)
}
