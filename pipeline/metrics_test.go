package pipeline

import (
	"bytes"
	"fmt"
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
	lines := metricLines(t, b.Pipeline, "")
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
	text := strings.Join(lines, "\n")
	if strings.Contains(text, "made") {
		t.Error("a name that somebody has made up is a label")
	}
	if t.Failed() {
		t.Log(text)
	}
}

// metricLines are the numbers of a pipeline, of a metric whose name begins so.
func metricLines(t *testing.T, p *Pipeline, prefix string) []string {
	t.Helper()
	var text strings.Builder
	if err := p.Metrics(&text); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

// TestScratchIsCounted: a record has the most scratch space that its source took, and
// the metric every byte that was stored.
func TestScratchIsCounted(t *testing.T) {
	b := newBench(t)
	s := newSpool(t, b)
	data := bytes.Repeat([]byte{1}, 1<<20)
	for _, off := range []int64{0, 1 << 20, 2 << 20} {
		if _, err := s.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if most, now := s.Scratch(), s.Allocated(); most < 3<<20 || most > 3<<20+64<<10 || now >= most {
		t.Errorf("scratch %d, now %d", most, now)
	}
	rec, err := b.copy(CopySpec{Image: s.Image(), Format: "raw", Scratch: s.Scratch(), Site: "b", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if rec.Scratch != s.Scratch() {
		t.Errorf("the record says %d", rec.Scratch)
	}
	if want := fmt.Sprintf("chromogenic_spooled_bytes_total %g", float64(3<<20)); !slices.Contains(metricLines(t, b.Pipeline, "chromogenic_spooled"), want) {
		t.Errorf("no line %s in %q", want, metricLines(t, b.Pipeline, "chromogenic_spooled"))
	}
}
