package local

import (
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

func TestNames(t *testing.T) {
	tests := []struct{ name, stem string }{
		{"debian-12", "debian-12"},
		{"50%off", "50%off"},
		{"100%", "100%"},
		{"100%25", "100%25"},
		{"%", "%"},
		{"%%", "%%"},
		{"a b%20c", "a b%20c"},
		{"a/b", "a%2Fb"},
		{"a%2Fb", "a%252Fb"},
		{"a%252Fb", "a%25252Fb"},
		{"a%2fb", "a%2fb"},
		{"%2/", "%2%2F"},
		{"%/F", "%%2FF"},
		{"%25/", "%25%2F"},
		{".", "%2E"},
		{"..", "%2E."},
		{".hidden", "%2Ehidden"},
		{"%2Ehidden", "%252Ehidden"},
		{"a%2Eb", "a%2Eb"},
		{"a.b", "a.b"},
		{"x.qcow2", "x.qcow2"},
		{"tab\tnul\x00del\x7f", "tab%09nul%00del%7F"},
		{"größe 大", "größe 大"},
		{"not utf-8 \xff\xfe", "not utf-8 \xff\xfe"},
	}
	for _, tt := range tests {
		if got := encodeName(tt.name); got != tt.stem {
			t.Errorf("encodeName(%q) = %q, want %q", tt.name, got, tt.stem)
		}
		if got := decodeName(tt.stem); got != tt.name {
			t.Errorf("decodeName(%q) = %q, want %q", tt.stem, got, tt.name)
		}
	}
}

// FuzzNames checks that every name has a stem of its own, and that every stem
// that a user may have made without control characters stays as it is.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"a", ".", "a/b", "%2F", "%252F", "%%25%2E", "%2525252F", "%00", "\x00%25", "50%off", "%2E.%2E"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		disktest.Within(t)
		stem := encodeName(s)
		if got := decodeName(stem); got != s {
			t.Fatalf("name %q has stem %q, which decodes to %q", s, stem, got)
		}
		if strings.ContainsFunc(stem, func(r rune) bool { return r == '/' || r < 0x20 || r == 0x7f }) || strings.HasPrefix(stem, ".") {
			t.Fatalf("name %q has stem %q", s, stem)
		}
		if stem == s { // s may be a stem on disk
			if got := encodeName(decodeName(s)); got != s {
				t.Fatalf("stem %q is that of %q, whose own is %q", s, decodeName(s), got)
			}
		}
	})
}

// TestStems tries all stems of up to six bytes over the alphabet that matters.
func TestStems(t *testing.T) {
	const alphabet = "%25FE.a"
	var try func(s string)
	try = func(s string) {
		if s != "" && s[0] != '.' {
			if got := encodeName(decodeName(s)); got != s {
				t.Fatalf("stem %q is that of %q, whose own is %q", s, decodeName(s), got)
			}
		}
		if got := decodeName(encodeName(s)); got != s {
			t.Fatalf("name %q comes back as %q", s, got)
		}
		if len(s) < 6 {
			for _, c := range alphabet {
				try(s + string(c))
			}
		}
	}
	try("")
	try("%2525")
}

func TestFileName(t *testing.T) {
	if got, err := fileName(strings.Repeat("n", 251), ".raw"); err != nil || len(got) != 255 {
		t.Errorf("name of 251 bytes: %d bytes, %v", len(got), err)
	}
	for _, name := range []string{"", strings.Repeat("n", 252), strings.Repeat("/", 84)} {
		if _, err := fileName(name, ".raw"); disk.KindOf(err) != disk.Invalid {
			t.Errorf("name of %d bytes: %v, want an invalid name", len(name), err)
		}
	}
}
