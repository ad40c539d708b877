package pipeline

import (
	"slices"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

func TestMetrics(t *testing.T) {
	b := newBench(t)
	b.put("a/web.raw", holes())
	if _, err := b.copy(CopySpec{From: b.view("a", "web", "qcow2"), Site: "b", Name: "web"}); err != nil {
		t.Fatal(err)
	}
	b.put("a/other.raw", disktest.Pattern(1<<20, nil))
	_, err := b.copy(CopySpec{From: b.view("a", "other", "raw"), Site: "b", Name: "web"})
	wantKind(t, err, disk.Exists)
	_, err = b.copy(CopySpec{From: b.view("a", "other", "raw"), Site: "made\"up", Name: "web"})
	wantKind(t, err, disk.NotFound)
	var text strings.Builder
	if err := b.Metrics(&text); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(text.String(), "\n")
	for _, want := range []string{
		`chromogenic_copies_total{provider="b",state="done"} 1`,
		`chromogenic_copies_total{provider="b",state="failed"} 1`,
		`chromogenic_errors_total{kind="exists",provider="b"} 1`,
		`chromogenic_jobs{state="done"} 1`,
		`chromogenic_jobs{state="failed"} 2`,
		`chromogenic_jobs{state="running"} 0`,
		`chromogenic_jobs_running 0`,
		`chromogenic_spool_bytes 0`,
		`chromogenic_sent_bytes_total{provider="a"} 0`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %s", want)
		}
	}
	for _, some := range []string{`chromogenic_read_bytes_total{provider="a"} `, `chromogenic_sent_bytes_total{provider="b"} `} {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, some) })
		if i < 0 || lines[i] == some+"0" {
			t.Errorf("nothing is counted as %s", some)
		}
	}
	if strings.Contains(text.String(), "made") {
		t.Error("a name that somebody has made up is a label")
	}
	if t.Failed() {
		t.Log(text.String())
	}
}
