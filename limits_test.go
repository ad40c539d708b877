package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chromogenic/pipeline"
)

func TestParseRate(t *testing.T) {
	const k, m = 1 << 10, 1 << 20
	for text, want := range map[string]pipeline.Rate{
		"10M": {Send: 10 * m, Read: 10 * m}, "1.5GiB": {Send: 1536 * m, Read: 1536 * m}, "10M:100k": {Send: 10 * m, Read: 100 * k},
		"off": {}, "0": {}, "OFF:1M": {Read: m}, "1M:off": {Send: m}, " 2 MB : 1M": {Send: 2 * m, Read: m},
	} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("parse %q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", ":", "1M:", ":1M", "fast", "-1", "1M:2M:3M", "10Mbit"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("parse %q: %+v", text, got)
		}
	}
}

func TestParseBudget(t *testing.T) {
	for text, want := range map[string]pipeline.Budget{
		"100GiB/day": {Bytes: 100 << 30, Per: pipeline.PerDay}, "100G": {Bytes: 100 << 30, Per: pipeline.PerDay},
		"5G/hour": {Bytes: 5 << 30, Per: pipeline.PerHour}, "2T / Month": {Bytes: 2 << 40, Per: pipeline.PerMonth},
		"off": {}, "0": {}, "0/hour": {},
	} {
		if got, err := parseBudget(text); err != nil || got != want {
			t.Errorf("parse %q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "/", "/day", "1G/", "1G/week", "1G/day/day", "much"} {
		if got, err := parseBudget(text); err == nil {
			t.Errorf("parse %q: %+v", text, got)
		}
	}
}

// The limits of providers are keys of theirs, and "off" is not the same as none.
func TestConfigLimits(t *testing.T) {
	const file = "bwlimit: 20M:10M\nread_budget: 1T/month\nproviders:\n" +
		"  a: {type: local, images: /a, bwlimit: 5M, read_budget: 10G/day}\n  b: {type: local, images: /b, bwlimit: off, read_budget: 0}\n  c: {type: local, images: /c}\n"
	path := writeConfig(t, file)
	conf, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := conf.provide("", t.TempDir(), &config{}); err != nil {
		t.Fatal(err)
	}
	const m = 1 << 20
	if diff := cmp.Diff(pipeline.Limits{Rate: &pipeline.Rate{Send: 20 * m, Read: 10 * m}, Budget: &pipeline.Budget{Bytes: 1 << 40, Per: pipeline.PerMonth}}, conf.limits()); diff != "" {
		t.Errorf("of all (-want +got):\n%s", diff)
	}
	want := []pipeline.Limits{
		{Rate: &pipeline.Rate{Send: 5 * m, Read: 5 * m}, Budget: &pipeline.Budget{Bytes: 10 << 30, Per: pipeline.PerDay}},
		{Rate: &pipeline.Rate{}, Budget: &pipeline.Budget{}},
		{},
	}
	for i, site := range conf.made {
		if diff := cmp.Diff(want[i], site.Limits); diff != "" {
			t.Errorf("of %s (-want +got):\n%s", site.Provider.Name(), diff)
		}
	}
	// A provider whose limits alone have changed is the one that was there.
	for _, change := range []struct {
		from, to    string
		kept, fixed bool
	}{
		{"20M:10M", "20M", true, true},
		{"10G/day", "11G/day", true, true},
		{", bwlimit: off", "", true, true},
		{"images: /c", "images: /d", false, true},
		{"providers:", "read_only: true\nproviders:", true, false},
	} {
		if err := os.WriteFile(path, []byte(strings.Replace(file, change.from, change.to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		now, err := loadConfig(path)
		if err == nil {
			err = now.provide("", t.TempDir(), conf)
		}
		if err != nil {
			t.Fatal(err)
		}
		if kept := now.made[2].Provider == conf.made[2].Provider; kept != change.kept || now.made[0].Provider != conf.made[0].Provider {
			t.Errorf("%q for %q: the provider is kept: %v", change.to, change.from, kept)
		}
		if fixed := reflect.DeepEqual(now.fixed(), conf.fixed()); fixed != change.fixed {
			t.Errorf("%q for %q: the mount's own options are the same: %v", change.to, change.from, fixed)
		}
	}
}
