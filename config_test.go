package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfig(t *testing.T) {
	t.Setenv("HOME", "/home/op")
	path := writeConfig(t, `
formats: [raw, qcow2, vmdk, ova]
state_dir: /var/lib/chromogenic
mountpoint: ~/clouds
spool_limit: 20G
cache_size: 256MiB
providers:
  zoo: {type: local, images: /srv/images, instances: /srv/machines}
  ark:  {type: local, images: backup/images, store: qcow2, clean: "off", snapshot: never}
`)
	got, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	want := &config{
		Path:       path,
		Mountpoint: "/home/op/clouds",
		Formats:    []string{"raw", "qcow2", "vmdk", "ova"},
		StateDir:   "/var/lib/chromogenic",
		SpoolLimit: 20 << 30,
		CacheSize:  256 << 20,
		Providers: []providerConfig{
			{Name: "zoo", Type: "local", Images: "/srv/images", Instances: "/srv/machines"},
			{Name: "ark", Type: "local", Images: filepath.Join(filepath.Dir(path), "backup/images"), Store: "qcow2", Clean: "off", Snapshot: "never"},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(config{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestConfigEmpty(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n"} {
		if c, err := loadConfig(writeConfig(t, text)); err != nil || len(c.Providers) != 0 {
			t.Errorf("load %q: %v, %v", text, c, err)
		}
	}
}

// Each complaint names the line.
func TestConfigRefused(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "formats: [raw]\nfromats: [raw]\n", `:2: unknown key "fromats"`},
		{"unknown key of a provider", "providers:\n  a:\n    type: local\n    image: /x\n", `:4: unknown key "image" in provider a`},
		{"key twice", "state_dir: /a\nstate_dir: /b\n", `:2: key "state_dir" comes twice`},
		{"provider twice", "providers:\n  a: {type: local, images: /x}\n  a: {type: local, images: /x}\n", `:3: provider "a" comes twice`},
		{"provider name", "providers:\n  Office: {type: local, images: /x}\n", `:2: provider name "Office"`},
		{"provider path as name", "providers:\n  ../x: {type: local, images: /x}\n", `:2: provider name "../x"`},
		{"no type", "providers:\n  a: {images: /x}\n", `:2: provider a has no type`},
		{"unknown type", "providers:\n  a: {type: floppy}\n", `:2: "floppy" is not one of local`},
		{"no folder", "providers:\n  a: {type: local}\n", `:2: provider a has neither`},
		{"empty path", "providers:\n  a: {type: local, images: \"\"}\n", `:2: path is empty`},
		{"store", "providers:\n  a: {type: local, images: /x, store: ova}\n", `"ova" is not one of source, qcow2, vmdk, raw`},
		{"clean", "providers:\n  a: {type: local, images: /x, clean: maybe}\n", `"maybe" is not one of auto`},
		{"snapshot", "providers:\n  a: {type: local, images: /x, snapshot: maybe}\n", `"maybe" is not one of on-copy`},
		{"format", "formats: [raw, floppy]\n", `:1: "floppy" is not one of`},
		{"format that is only read", "formats: [ovf]\n", `:1: "ovf" is not one of`},
		{"format twice", "formats: [raw, raw]\n", `:1: format "raw" comes twice`},
		{"no formats", "formats: []\n", `:1: list of formats is empty`},
		{"formats no list", "formats: raw\n", `:1: want a list`},
		{"size", "cache_size: much\n", `:1: "much" is not a size`},
		{"list for a text", "\nstate_dir: [a]\n", `:2: want a text`},
		{"no mapping", "- a\n", `:1: want keys and values`},
		{"two documents", "state_dir: /a\n---\nstate_dir: /b\n", `several`},
		{"no YAML", "formats: [raw\n", `:`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := writeConfig(t, c.text)
			_, err := loadConfig(path)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.HasPrefix(err.Error(), path+":") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q in it", err, path+c.want)
			}
		})
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4096": 4096, "1K": 1 << 10, "1k": 1 << 10, "1KiB": 1 << 10, "1KB": 1 << 10, "512M": 512 << 20, "1.5 GiB": 3 << 29, "2TiB": 2 << 40, "7B": 7,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parse %q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "much", "1X", "9000P9", "8E"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parse %q: %d", text, got)
		}
	}
}

func TestFindConfig(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("CHROMOGENIC_CONFIG", "")
	want := filepath.Join(dir, "chromogenic", "config.yaml")
	if err := os.Mkdir(filepath.Dir(want), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(want, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := findConfig(""); err != nil || got != want {
		t.Errorf("XDG: %q, %v", got, err)
	}
	t.Setenv("CHROMOGENIC_CONFIG", "/from/env")
	if got, err := findConfig(""); err != nil || got != "/from/env" {
		t.Errorf("environment: %q, %v", got, err)
	}
	if got, err := findConfig("/asked"); err != nil || got != "/asked" {
		t.Errorf("flag: %q, %v", got, err)
	}
}
