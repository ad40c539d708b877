package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// metrics are the numbers that the mount tells, by name and labels.
func (s *server) metrics(t testing.TB) map[string]float64 {
	t.Helper()
	text, err := os.ReadFile(s.path(".chromogenic", "metrics"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseFloat(value, 64)
		if ok && err == nil && name != "#" {
			all[name] = n
		}
	}
	return all
}

// metric is one of them, which must be there.
func (s *server) metric(t testing.TB, name string) float64 {
	t.Helper()
	n, ok := s.metrics(t)[name]
	if !ok {
		t.Fatalf("there is no metric %s", name)
	}
	return n
}
