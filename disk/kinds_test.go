package disk

import (
	"regexp"
	"strings"
	"testing"
)

func TestKinds(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	names := map[string]bool{}
	for i, k := range Kinds() {
		if k.Kind != Kind(i) || k.Code != k.Kind.Code() || k.Name != k.Kind.String() {
			t.Errorf("row %d is of kind %d, %s, %s", i, k.Kind, k.Code, k.Name)
		}
		if !name.MatchString(k.Name) || names[k.Name] {
			t.Errorf("kind %d is called %q", i, k.Name)
		}
		names[k.Name] = true
		for _, text := range []string{k.Cause, k.Remedy} {
			// They stand in lines and cells, beside each other.
			if text == "" || text != strings.TrimSpace(text) || strings.ContainsAny(text, "\n|") || strings.HasSuffix(text, ".") {
				t.Errorf("%s: %q does not explain", k.Name, text)
			}
		}
	}
	if len(names) != int(kindCount) {
		t.Errorf("%d kinds", len(names))
	}
	for _, k := range []Kind{-1, kindCount} {
		if got := k.String(); !strings.HasPrefix(got, "kind-") {
			t.Errorf("kind %d is called %q", int(k), got)
		}
	}
}

// The codes are written in scripts and logs: none may ever change.
func TestKindCodes(t *testing.T) {
	want := []string{
		"other", "not-found", "unreachable", "denied", "policy", "read-only", "exists", "busy", "quota", "no-space",
		"too-large", "unsupported", "malformed", "stale", "timeout", "cancelled", "interrupted", "invalid",
	}
	if len(want) != int(kindCount) {
		t.Fatalf("%d kinds, want %d: a new one goes to the end, here too", kindCount, len(want))
	}
	for i, k := range Kinds() {
		if k.Name != want[i] {
			t.Errorf("%s is %s, want %s", k.Code, k.Name, want[i])
		}
	}
	if got := Malformed.Code(); got != "CHR-0012" {
		t.Errorf("code of malformed = %s", got)
	}
}
