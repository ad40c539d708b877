package e2e

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// headSize is that of an image which is large enough for its copy to begin early.
const headSize = 96 * mib

// TestHeadStart: of what a program copies in small pieces the copy is made while it
// writes, and appears when it has written all of it; not before, and nothing of it if it
// writes less, or something else.
func TestHeadStart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, f *os.File) // after all was written
		whole  bool
		image  bool // there is one in the end
		jobs   string
	}{
		{"all", nil, true, true, "done"},
		{"half", nil, false, false, "cancelled failed"},
		{"another byte", func(t *testing.T, f *os.File) {
			if _, err := f.WriteAt([]byte("another"), headSize-7); err != nil {
				t.Fatal(err)
			}
		}, true, true, "cancelled done"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newSite(t, "a"), newSite(t, "b")
			src := filepath.Join(a.images, "web.raw")
			dataIn(t, src, headSize, 1)
			age(t, time.Hour, a.images)
			s := mount(t, config{sites: []site{a, b}})
			from, err := os.Open(s.images("a", "web.raw"))
			must(t, err)
			defer from.Close()
			to, err := os.Create(s.images("b", "web.raw"))
			must(t, err)
			defer to.Close()
			pieces(t, to, from, headSize/2)
			waitForJob(t, s, "register")
			if got := names(t, b.images); strings.Contains(strings.Join(got, " "), "web.raw") && !strings.Contains(strings.Join(got, " "), ".part") {
				t.Errorf("the folder has %q before all is written", got)
			}
			if _, err := os.Stat(filepath.Join(b.images, "web.raw")); err == nil {
				t.Error("the image is there before all is written")
			}
			if tt.whole {
				pieces(t, to, from, headSize/2)
			}
			if tt.change != nil {
				tt.change(t, to)
			}
			stamp := time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC)
			must(t, os.Chtimes(s.images("b", "web.raw"), stamp, stamp))
			err = to.Close()
			if tt.image != (err == nil) {
				t.Errorf("close: %v\n%s", err, last(s.reasons(t), 2))
			}
			made := filepath.Join(b.images, "web.raw")
			info, err := os.Stat(made)
			switch {
			case !tt.image && !os.IsNotExist(err):
				t.Errorf("an image is there: %v", err)
			case tt.image && err != nil:
				t.Error(err)
			case tt.image && !info.ModTime().Equal(stamp):
				t.Errorf("its time is %v", info.ModTime())
			case tt.image && tt.change == nil && digestOrError(made) != digestOrError(src):
				t.Error("it is another disk")
			}
			if got := endedJobs(t, s); got != tt.jobs {
				t.Errorf("the jobs are %q, want %q", got, tt.jobs)
			}
			for _, name := range names(t, b.images) {
				if name != "web.raw" {
					t.Errorf("left behind: %q", name)
				}
			}
		})
	}
}

// pieces copies n bytes as tar does.
func pieces(t *testing.T, to io.Writer, from io.Reader, n int64) {
	t.Helper()
	if _, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{io.LimitReader(from, n)}, make([]byte, 10240)); err != nil {
		t.Fatal(err)
	}
}

type jobStatus struct{ State, Stage string }

// jobsOf are the jobs of the mount, the oldest first.
func jobsOf(t *testing.T, s *server) []jobStatus {
	t.Helper()
	dirs, err := os.ReadDir(s.path(".chromogenic", "jobs"))
	must(t, err)
	var all []jobStatus
	for _, d := range dirs {
		text, err := os.ReadFile(s.path(".chromogenic", "jobs", d.Name(), "status"))
		must(t, err)
		var j jobStatus
		must(t, json.Unmarshal(text, &j))
		all = append(all, j)
	}
	return all
}

// waitForJob waits until a job is in a stage.
func waitForJob(t *testing.T, s *server, stage string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		for _, j := range jobsOf(t, s) {
			if j.State == "running" && j.Stage == stage {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no job is in stage %s: %+v", stage, jobsOf(t, s))
		}
	}
}

// endedJobs are the states of all jobs when none runs any longer.
func endedJobs(t *testing.T, s *server) string {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var states []string
		running := false
		for _, j := range jobsOf(t, s) {
			states = append(states, j.State)
			running = running || j.State == "running"
		}
		if !running || time.Now().After(end) {
			slices.Sort(states) // both begin in one second
			return strings.Join(states, " ")
		}
	}
}
