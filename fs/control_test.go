package fs

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// copyWeb copies the image web of a to b, as far as the stage.
func (m *testMount) copyWeb(t *testing.T, name, until string, progress func(pipeline.Progress)) (*jobs.Record, error) {
	t.Helper()
	p := m.tree.p
	l, err := p.List(t.Context(), "a", providers.Images)
	if err != nil || len(l.Entries) != 1 {
		t.Fatalf("listed %+v, %v", l, err)
	}
	v, err := p.View(t.Context(), pipeline.Ref{Site: "a", Entry: l.Entries[0], Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	return p.Copy(context.Background(), pipeline.CopySpec{From: v, Site: "b", Name: name, Until: until, Progress: progress})
}

// A job is a directory of what is known of it.
func TestJobFiles(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) { writeImage(t, m.a+"/web.raw", pattern(1, 1<<20)) })
	read := func(path ...string) string {
		t.Helper()
		return string(readFile(t, m.path(".chromogenic/"+strings.Join(path, "/"))))
	}
	during := ""
	done, err := m.copyWeb(t, "one", "", func(p pipeline.Progress) {
		if p.Stage == "verify" && during == "" {
			during = read("status")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	paused, err := m.copyWeb(t, "two", "layout", nil)
	if err != nil {
		t.Fatal(err)
	}
	writeImage(t, m.b+"/three.raw", pattern(2, 1<<20))
	m.tree.p.Refresh()
	failed, err := m.copyWeb(t, "three", "", nil)
	if err == nil {
		t.Fatal("a copy onto another image succeeds")
	}

	var status struct{ Jobs []runningJob }
	if err := json.Unmarshal([]byte(during), &status); err != nil || len(status.Jobs) != 1 || status.Jobs[0].ID != done.ID || status.Jobs[0].Stage != "verify" {
		t.Errorf("during a copy the status is %s, %v", during, err)
	}
	if after := read("status"); !strings.Contains(after, `"jobs": []`) {
		t.Errorf("after it the status is %s", after)
	}

	ids := []string{done.ID, paused.ID, failed.ID}
	slices.Sort(ids) // of one second in any order
	if got := list(t, m.path(".chromogenic/jobs")); !slices.Equal(got, ids) {
		t.Errorf("listed are %v, want %v", got, ids)
	}
	if got := list(t, m.path(".chromogenic/jobs/"+done.ID)); !slices.Equal(got, []string{"error", "log", "plan", "status"}) {
		t.Errorf("a job holds %v", got)
	}
	for _, c := range []struct {
		rec                    *jobs.Record
		state, log, plan, fail string
	}{
		{done, "done", "\tsend\tdone\t", "register\tdone\n", ""},
		{paused, "interrupted", "\tlayout\tdone\t", "layout\tdone, then it waits\nsend\tleft\n", ""},
		{failed, "failed", "\tcompare\tfailed\t", "compare\tfailed\nvalidate\tleft\n", "CHR-0006: copy b:images/three: "},
	} {
		id := c.rec.ID[len(c.rec.ID)-6:] // cut short
		var rec jobs.Record
		if err := json.Unmarshal([]byte(read("jobs", id, "status")), &rec); err != nil || rec.ID != c.rec.ID || string(rec.State) != c.state {
			t.Errorf("%s: the status is %+v, %v", c.state, rec, err)
		}
		for name, want := range map[string]string{"log": c.log, "plan": c.plan, "error": c.fail} {
			if got := read("jobs", c.rec.ID, name); !strings.Contains(got, want) || want == "" && got != "" {
				t.Errorf("%s: %s is\n%s", c.state, name, got)
			}
		}
		if lines := strings.Count(read("jobs", id, "log"), "\n"); lines != len(c.rec.Stages) {
			t.Errorf("%s: the log has %d lines for %d stages", c.state, lines, len(c.rec.Stages))
		}
	}

	for _, path := range []string{".chromogenic/jobs/nothing", ".chromogenic/jobs/" + done.ID + "/nothing"} {
		_, err := os.Stat(m.path(path))
		wantErrno(t, "stat "+path, err, syscall.ENOENT)
	}
	wantErrno(t, "remove a job", os.Remove(m.path(".chromogenic/jobs/"+done.ID+"/status")), syscall.EPERM)
	wantErrno(t, "write into jobs", os.WriteFile(m.path(".chromogenic/jobs/x"), nil, 0o600), syscall.EPERM)
	if slices.Contains(list(t, m.dir), ".chromogenic") {
		t.Error(".chromogenic is listed")
	}
}

func TestMetricsFile(t *testing.T) {
	m := mountTwo(t, func(m *testMount, _ *Options) { writeImage(t, m.a+"/web.raw", pattern(1, 1<<20)) })
	readFile(t, m.path("a/images/web.qcow2"))
	got := string(readFile(t, m.path(".chromogenic/metrics")))
	for _, want := range []string{"# TYPE chromogenic_read_bytes_total counter\n", "chromogenic_jobs{state=\"done\"} 0\n", "\nprocess_open_fds "} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, `chromogenic_read_bytes_total{provider="a"} 0`) {
		t.Error("what was read is not counted")
	}
}
