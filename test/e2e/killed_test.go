package e2e

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kills is how often the server dies in TestServerKilled; CHROMOGENIC_FULL asks for
// more of everything.
func kills() int {
	if os.Getenv("CHROMOGENIC_FULL") != "" {
		return 100
	}
	return 15
}

// TestServerKilled kills the server with SIGKILL at a random moment of a copy and
// starts it anew. The image is then there, as it was copied, or not there at all,
// and nothing else is left.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	a, b := newSite(t, "a"), newSite(t, "b")
	source := random(t, filepath.Join(a.images, "src.raw"), 64*mib, 171)
	outside := random(t, filepath.Join(t.TempDir(), "out.raw"), 64*mib, 172)
	want := map[string]string{"within": digest(t, source), "outside": digest(t, outside)}
	s := mount(t, config{sites: []site{a, b}})
	t.Cleanup(func() { try(t, "umount", "-l", s.dir) })

	copying := func(s *server, from string) (string, chan result) {
		path, done := outside, make(chan result, 1)
		if from == "within" {
			path = s.images("a", "src.raw")
		}
		go func() { done <- try(t, "cp", path, s.images("b", from+".raw")) }()
		return path, done
	}
	began := time.Now() // how long a copy takes
	if _, done := copying(s, "outside"); (<-done).code != 0 {
		t.Fatal("cp fails without any kill")
	}
	whole := time.Since(began)
	outcomes := map[string]int{}
	for i := range kills() {
		for _, n := range names(t, b.images) {
			if err := os.Remove(filepath.Join(b.images, n)); err != nil {
				t.Fatal(err)
			}
		}
		s.refresh(t)
		from := []string{"within", "outside"}[i%2]
		_, done := copying(s, from)
		after := time.Duration(chance.Int64N(int64(whole) * 5 / 4))
		time.Sleep(after)
		syscall.Kill(s.pid, syscall.SIGKILL)
		<-s.exit
		s.live = false
		r := <-done
		s = mount(t, s.config)
		recs := s.settled(t)
		_, err := os.Stat(filepath.Join(b.images, from+".raw"))
		switch {
		case err != nil && r.code == 0:
			t.Errorf("%s, killed after %v: cp ended with 0 and there is no image", from, after)
		case err != nil:
			outcomes[from+" absent"]++
		case digest(t, filepath.Join(b.images, from+".raw")) != want[from]:
			t.Errorf("%s, killed after %v: the image is not what was copied", from, after)
		case r.code == 0:
			outcomes[from+" copied"]++
		default:
			outcomes[from+" resumed"]++
		}
		for _, rec := range recs {
			if rec.State != "done" && rec.State != "failed" && rec.State != "cancelled" {
				t.Errorf("%s, killed after %v: job %s is %s", from, after, rec.ID, rec.State)
			}
		}
		for _, dir := range []string{b.images, filepath.Join(s.state, "spool")} {
			for _, n := range names(t, dir) {
				if n != from+".raw" {
					t.Errorf("%s, killed after %v: left %s", from, after, n)
				}
			}
		}
	}
	t.Logf("%d kills within %v: %v", kills(), whole*5/4, outcomes)
}

// A jobRecord is what the tests want to know of a job.
type jobRecord struct {
	ID          string `json:"id"`
	State       string `json:"state"`
	Destination string `json:"destination"`
	Unchanged   bool   `json:"unchanged"`
	Scratch     int64  `json:"scratch"`
}

// records are those of all jobs of the server.
func (s *server) records(t testing.TB) (all []jobRecord) {
	t.Helper()
	for _, id := range names(t, s.path(".chromogenic", "jobs")) {
		p, err := os.ReadFile(s.path(".chromogenic", "jobs", id, "status"))
		if err != nil {
			t.Fatal(err)
		}
		var r jobRecord
		if err := json.Unmarshal(p, &r); err != nil {
			t.Fatalf("status of %s: %v\n%s", id, err, p)
		}
		all = append(all, r)
	}
	return all
}

// settled waits until no job runs or waits, and gives all of them.
func (s *server) settled(t testing.TB) []jobRecord {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		recs := s.records(t)
		busy := slices.ContainsFunc(recs, func(r jobRecord) bool { return strings.Contains("queued running interrupted", r.State) })
		if !busy {
			return recs
		}
		if time.Now().After(end) {
			t.Errorf("jobs are still open after a minute: %v", recs)
			return recs
		}
	}
}
