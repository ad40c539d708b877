package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A scratchMeter tells how much scratch space copies take: what the server has
// counted since, and what the file system of its state directory and its TMPDIR holds
// meanwhile. What the records say is the third witness.
type scratchMeter struct {
	s       *server
	counted int64 // by the server, at the beginning
	used    int64 // of the file system, at the beginning
	peak    int64 // of it since, above used
	quit    chan struct{}
	wg      sync.WaitGroup
}

// scratchRoom is the size of the file system for the state directory and TMPDIR of a
// server that needs no scratch space: less than any disk that is copied. The rest is
// the server's state.
const scratchRoom = 12 * mib

// onScratchRoom gives a server's configuration a file system of its own for the state
// directory and TMPDIR. It sees files without a name too.
func onScratchRoom(t testing.TB, c config) config {
	t.Helper()
	needRoot(t)
	room := t.TempDir()
	tmpfs(t, room, strconv.Itoa(scratchRoom))
	c.state = filepath.Join(room, "state")
	tmp := filepath.Join(room, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "TMPDIR="+tmp)
	return c
}

// metering begins to measure.
func metering(t testing.TB, s *server) *scratchMeter {
	t.Helper()
	m := &scratchMeter{s: s, counted: spooled(t, s), used: usedSpace(s.state), quit: make(chan struct{})}
	m.wg.Go(func() {
		for {
			m.peak = max(m.peak, usedSpace(s.state)-m.used)
			select {
			case <-m.quit:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	return m
}

// none ends it, and fails the test for every byte of scratch space that was taken.
func (m *scratchMeter) none(t testing.TB) {
	t.Helper()
	close(m.quit)
	m.wg.Wait()
	if n := spooled(t, m.s) - m.counted; n != 0 {
		t.Errorf("the server counts %d bytes of scratch space", n)
	}
	// The records of jobs are state, and take a few pages.
	if m.peak > mib {
		t.Errorf("the file system of the state grew by %d bytes meanwhile", m.peak)
	}
}

// noneRecorded fails the test for every job that says it took scratch space.
func noneRecorded(t testing.TB, s *server, atLeast int) {
	t.Helper()
	all := s.records(t)
	if len(all) < atLeast {
		t.Errorf("%d records, want %d", len(all), atLeast)
	}
	for _, r := range all {
		if r.Scratch != 0 {
			t.Errorf("%s has %d bytes of scratch space in its record", r.Destination, r.Scratch)
		}
	}
}

// spooled is the server's count of the bytes that it has stored in scratch space.
func spooled(t testing.TB, s *server) int64 {
	t.Helper()
	return metric(t, s, "chromogenic_spooled_bytes_total")
}

// metric is a number of the server, which is whole.
func metric(t testing.TB, s *server, name string) int64 {
	t.Helper()
	b, err := os.ReadFile(s.path(".chromogenic", "metrics"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int64(n)
		}
	}
	t.Fatalf("no metric %s in\n%s", name, b)
	return 0
}

// usedSpace is what the file system of a path holds, in bytes.
func usedSpace(path string) int64 {
	var st syscall.Statfs_t
	if syscall.Statfs(path, &st) != nil {
		return 0
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// TestNoScratchWithin copies inside the mount with every program, from sparse and
// dense images, and every byte of them that is stored is stored at the destination.
func TestNoScratchWithin(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	sparse := gptExt4(t, 161)
	dense := random(t, filepath.Join(t.TempDir(), "dense"), 24*mib, 162)
	raw, qcow2 := containers()[:1], containers()[1:2]
	serve(t, a, []plainDisk{{"sparse", sparse}, {"dense", dense}}, append(raw, qcow2...))
	s := mount(t, onScratchRoom(t, config{sites: []site{a, b}}))
	t.Cleanup(func() { s.stop(t) }) // before its file system goes away
	disks := map[string]string{"sparse": sparse, "dense": dense}
	copies := 0
	if got := allocated(t, filepath.Join(a.images, "sparse-raw.raw")); got >= 24*mib {
		t.Fatalf("the sparse disk takes %d bytes", got)
	}
	for i, p := range programs() {
		if p.moves || p.stores != "" {
			continue // a move is refused, and qemu-img writes another image than it reads
		}
		for kind, disk := range disks {
			for j, src := range []string{kind + "-raw.raw", kind + "-raw.qcow2", kind + "-plain.raw", kind + "-plain.qcow2"} {
				if sampled() && j != i%4 {
					continue // each program meets one of them, each of them some programs
				}
				copies++
				ext := filepath.Ext(src)
				name := p.name + "-" + strings.ReplaceAll(src, ".", "-")
				t.Run(name, func(t *testing.T) {
					m := metering(t, s)
					r := p.copy(t, s.images("a", src), s.images("b", name+ext))
					m.none(t)
					if r.code != 0 {
						t.Fatalf("exit status %d\n%s\nreasons:\n%s", r.code, r.out, last(s.reasons(t), 2))
					}
					file, format := stored(t, b, name)
					same(t, disk, file, format)
				})
			}
		}
	}
	noneRecorded(t, s, copies)
}

// TestScratchIsCounted: the meter of the test above sees the scratch space of a copy
// from outside, each of its three ways.
func TestScratchIsCounted(t *testing.T) {
	t.Parallel()
	need(t, "rsync")
	b := newSite(t, "b")
	src := random(t, filepath.Join(t.TempDir(), "x.raw"), 6*mib, 163)
	s := mount(t, onScratchRoom(t, config{sites: []site{b}}))
	t.Cleanup(func() { s.stop(t) })
	for _, program := range []string{"cp", "rsync"} {
		m := metering(t, s)
		run(t, program, src, s.images("b", program+".raw"))
		close(m.quit)
		m.wg.Wait()
		all := s.records(t)
		rec := all[slices.IndexFunc(all, func(r jobRecord) bool { return r.Destination == "b:images/"+program })]
		if n := spooled(t, s) - m.counted; n != 6*mib || rec.Scratch < 6*mib || rec.Scratch > 7*mib || m.peak < 6*mib {
			t.Errorf("%s: %d bytes counted, %d in the record, %d on the file system, want %d", program, n, rec.Scratch, m.peak, 6*mib)
		}
	}
	out := ok(t, s.write(t), "jobs", "show", s.records(t)[0].ID)
	if want := fmt.Sprintf("scratch       6.0 MiB (%d bytes)", 6*mib); !strings.Contains(out, want) {
		t.Errorf("jobs show says nothing of scratch space:\n%s", out)
	}
}

// TestNoScratchAgain copies images that are there already, ten and some small ones,
// of which rsync reads several before the first is written, from another provider and
// from outside: all is well, and nothing is stored anywhere.
func TestNoScratchAgain(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	a, b := newSite(t, "a"), newSite(t, "b")
	out := t.TempDir()
	for i := range 10 {
		random(t, filepath.Join(out, fmt.Sprintf("web%d.raw", i)), 2*mib+i*64*kib, uint64(170+i))
		random(t, filepath.Join(out, fmt.Sprintf("small%d.raw", i)), 20*kib+i*512, uint64(190+i))
	}
	run(t, "cp", "-a", out+"/.", a.images)
	s := mount(t, onScratchRoom(t, config{sites: []site{a, b}, top: "formats: [raw, qcow2]\n"}))
	t.Cleanup(func() { s.stop(t) })
	run(t, "cp", "-a", a.images+"/.", b.images)
	before := map[string]uint64{}
	for _, n := range names(t, b.images) {
		before[n] = stat(t, filepath.Join(b.images, n)).Ino
	}
	for name, line := range map[string]string{
		"rsync within":         `rsync -a --ignore-times "$1/" "$3/"`,
		"rsync within inplace": `rsync -a --ignore-times --inplace "$1"/*.raw "$3/"`,
		"cp within":            `cp "$1"/* "$3/"`,
		"cp -a within":         `cp -a "$1"/* "$3/"`,
		"rsync outside":        `rsync -a --ignore-times "$2/" "$3/"`,
		"rsync outside delta":  `rsync -a --ignore-times --no-whole-file "$2/" "$3/"`,
		"rsync partial-dir":    `rsync -a --ignore-times --partial-dir=.rsync-partial --delay-updates "$2/" "$3/"`,
		"cp outside":           `cp "$2"/* "$3/"`,
	} {
		t.Run(name, func(t *testing.T) {
			s.refresh(t)
			m := metering(t, s)
			r := tryCmd(t, command("bash", "-ec", line, "bash", s.images("a"), out, s.images("b")))
			m.none(t)
			if r.code != 0 {
				t.Errorf("exit status %d\n%s\nreasons:\n%s", r.code, r.out, last(s.reasons(t), 3))
			}
			if got := len(names(t, b.images)); got != len(before) {
				t.Errorf("%d files", got)
			}
			for n, ino := range before {
				if stat(t, filepath.Join(b.images, n)).Ino != ino {
					t.Errorf("%s was made anew", n)
				}
			}
		})
	}
}
