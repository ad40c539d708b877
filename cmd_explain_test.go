package main

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestErrorCodes is the contract of the mount and of the commands, row by row.
func TestErrorCodes(t *testing.T) {
	type row struct {
		Code, Kind, Errno string
		Exit              int
	}
	want := []row{
		{"CHR-0000", "other", "EIO", 1},
		{"CHR-0001", "not-found", "ENOENT", 4},
		{"CHR-0002", "unreachable", "EHOSTUNREACH", 5},
		{"CHR-0003", "denied", "EACCES", 1},
		{"CHR-0004", "policy", "EPERM", 3},
		{"CHR-0005", "read-only", "EROFS", 3},
		{"CHR-0006", "exists", "EEXIST", 1},
		{"CHR-0007", "busy", "EBUSY", 1},
		{"CHR-0008", "quota", "EDQUOT", 1},
		{"CHR-0009", "no-space", "ENOSPC", 1},
		{"CHR-0010", "too-large", "EFBIG", 1},
		{"CHR-0011", "unsupported", "ENOTSUP", 1},
		{"CHR-0012", "malformed", "EBADMSG", 6},
		{"CHR-0013", "stale", "ESTALE", 6},
		{"CHR-0014", "timeout", "ETIMEDOUT", 5},
		{"CHR-0015", "cancelled", "ECANCELED", 1},
		{"CHR-0016", "interrupted", "EINTR", 130},
		{"CHR-0017", "invalid", "EINVAL", 1},
	}
	var got []row
	names := map[string]int{}
	for _, e := range errorCodes() {
		got = append(got, row{e.Code, e.Kind, e.Errno, e.Exit})
		if e.Cause == "" || e.Remedy == "" {
			t.Errorf("%s lacks cause or remedy", e.Code)
		}
		for _, name := range []string{e.Code, e.Kind, e.Errno} {
			names[name]++
			for _, as := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
				if found, ok := findCode(as); !ok || found != e {
					t.Errorf("%q is explained as %s", as, found.Code)
				}
			}
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for name, n := range names {
		if n != 1 {
			t.Errorf("%s stands for %d codes", name, n)
		}
	}
}

func TestFindCode(t *testing.T) {
	for name, want := range map[string]string{
		"12": "CHR-0012", "0012": "CHR-0012", "chr-12": "CHR-0012", "0": "CHR-0000", "Malformed": "CHR-0012",
		"": "", "18": "", "-1": "", "+1": "", "CHR-": "", "CHR-9999999999": "", "EXDEV": "", "web.raw": "", "./12": "",
	} {
		if got, ok := findCode(name); got.Code != want || ok != (want != "") {
			t.Errorf("findCode(%q) = %q", name, got.Code)
		}
	}
}

func TestParseFailure(t *testing.T) {
	for text, want := range map[string]explanation{
		"CHR-0012: read a/images/x: y.raw: bad table":                    {Failure: "read a/images/x: y.raw: bad table"},
		"CHR-0012: read x: bad; hint: look; request id: r-1":             {Failure: "read x: bad", Hint: "look", RequestID: "r-1"},
		"CHR-0012: read x: bad; request id: r-1":                         {Failure: "read x: bad", RequestID: "r-1"},
		"CHR-0012: read a; hint: b/x: bad; hint: look: here; and: there": {Failure: "read a; hint: b/x: bad", Hint: "look: here; and: there"},
	} {
		got := parseFailure(text)
		if got.Code != "CHR-0012" || got.Errno != "EBADMSG" {
			t.Errorf("%q is explained as %s", text, got.Code)
		}
		got.errorCode = nil
		if *got != want {
			t.Errorf("parseFailure(%q) = %+v", text, *got)
		}
	}
	if got := parseFailure("CHR-0099: read x: it is tomorrow"); got.Code != "CHR-0099" || got.Cause == "" || got.Remedy == "" {
		t.Errorf("a code of tomorrow is explained as %+v", *got.errorCode)
	}
}

func TestNewest(t *testing.T) {
	journal := []byte(`{"time":"2026-11-21T03:00:00Z","op":"lookup","path":"p/images/x.raw","code":"CHR-0012","errno":"EBADMSG","message":"old"}
{"time":"2026-11-21T03:00:01Z","op":"close","path":"p/images/x.raw","code":"CHR-0009","errno":"ENOSPC","message":"new","request_id":"r-1","hint":"do"}
{"time":"2026-11-21T03:00:02Z","op":"lookup","path":"p/images/y.raw","code":"CHR-0012","errno":"EBADMSG","message":"other"}
`)
	x := newest(journal, "p/images/x.raw")
	if x == nil || x.Failure != "close p/images/x.raw: new" || x.Code != "CHR-0009" || x.Hint != "do" || x.RequestID != "r-1" || x.Time.Second() != 1 {
		t.Errorf("newest = %+v", x)
	}
	if x := newest(journal, "p/images"); x != nil {
		t.Errorf("newest of what has not failed = %+v", x)
	}
}

// The documented table is the one in the code.
func TestDocumentedErrors(t *testing.T) {
	have, err := os.ReadFile("docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	if err := printErrorsDoc(&want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want.String(), string(have)); d != "" {
		t.Errorf("docs/errors.md is not what the code says; run: go run . explain --markdown > docs/errors.md\n%s", d)
	}
}
