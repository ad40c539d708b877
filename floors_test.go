package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A wall is what packages below a path may not import.
type wall struct {
	path  string
	never []string
	tests bool // tests may not either
}

// walls are the floors: imports go down only. They say the same as the rules of
// .golangci.yml, so that one mistake does not bring both down.
func walls() []wall {
	return []wall{
		{"chromogenic/disk", []string{"chromogenic/formats", "chromogenic/providers", "chromogenic/cleaner", "chromogenic/pipeline", "chromogenic/fs"}, true},
		{"chromogenic/formats", []string{"chromogenic/providers", "chromogenic/cleaner", "chromogenic/pipeline", "chromogenic/fs"}, true},
		{"chromogenic/providers", []string{"chromogenic/formats", "chromogenic/cleaner", "chromogenic/pipeline", "chromogenic/fs"}, true},
		{"chromogenic/cleaner", []string{"chromogenic/formats", "chromogenic/providers", "chromogenic/pipeline", "chromogenic/fs"}, true},
		{"chromogenic/pipeline", []string{"chromogenic/fs", "chromogenic/providers/"}, false},
		{"chromogenic/fs", []string{"chromogenic/providers/", "chromogenic/formats/", "chromogenic/cleaner"}, false},
	}
}

// below tells whether an import path is at or below another; one that ends in a
// slash means below it only.
func below(path, root string) bool {
	return path == root || strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/")
}

func TestFloors(t *testing.T) {
	out, err := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	type pkg struct {
		ImportPath                         string
		Imports, TestImports, XTestImports []string
	}
	seen := 0
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, w := range walls() {
			if !below(p.ImportPath, w.path) {
				continue
			}
			seen++
			imports := p.Imports
			if w.tests {
				imports = slices.Concat(imports, p.TestImports, p.XTestImports)
			}
			for _, imported := range imports {
				if slices.ContainsFunc(w.never, func(root string) bool { return below(imported, root) }) {
					t.Errorf("%s imports %s: imports go down only", p.ImportPath, imported)
				}
			}
		}
		for _, imported := range p.Imports {
			if below(imported, "chromogenic") && below(p.ImportPath, "chromogenic") && imported == "chromogenic" {
				t.Errorf("%s imports the commands", p.ImportPath)
			}
		}
	}
	if seen < len(walls())-1 { // the cleaner is to come
		t.Errorf("found %d packages behind walls: go list has not listed the tree", seen)
	}
}

// main.go alone names concrete providers.
func TestConcreteProviders(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if file != "main.go" && !strings.HasSuffix(file, "_test.go") && bytes.Contains(text, []byte(`"chromogenic/providers/`)) {
			t.Errorf("%s imports a concrete provider", file)
		}
	}
}

// A file that has grown past 500 lines wants to be two.
func TestFileLength(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d iofs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		if n := bytes.Count(text, []byte("\n")); n > 500 {
			t.Errorf("%s has %d lines", path, n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Errorf("found %d files only", files)
	}
}

// The rules of .golangci.yml pass on the tree and bite on an import that goes up
// from each floor. The linter takes minutes to build the first time.
func TestDepguard(t *testing.T) {
	if testing.Short() {
		t.Skip("builds golangci-lint")
	}
	out, err := exec.Command("go", "-C", "tools", "tool", "-n", "golangci-lint").Output()
	if err != nil {
		t.Fatalf("build golangci-lint: %v", err)
	}
	linter := strings.TrimSpace(string(out))
	tree := filepath.Join(t.TempDir(), "tree")
	copyTree(t, tree)
	lint := func(packages ...string) (string, error) {
		cmd := exec.Command(linter, append([]string{"run", "--enable-only", "depguard", "--timeout", "10m"}, packages...)...)
		cmd.Dir = tree
		cmd.Env = append(os.Environ(), "GOLANGCI_LINT_CACHE="+filepath.Join(t.TempDir(), "cache"))
		text, err := cmd.CombinedOutput()
		return string(text), err
	}
	if text, err := lint("./..."); err != nil {
		t.Fatalf("the tree breaks its own rules: %v\n%s", err, text)
	}
	upward := [][2]string{ // a new package, and what it imports: no cycle, or Go itself would refuse it
		{"disk/upward", "chromogenic/formats"},
		{"disk/outward", "go.yaml.in/yaml/v3"},
		{"formats/upward", "chromogenic/pipeline"},
		{"formats/sideways", "chromogenic/providers"},
		{"providers/upward", "chromogenic/pipeline"},
		{"providers/sideways", "chromogenic/formats"},
		{"cleaner/sideways", "chromogenic/providers"},
		{"pipeline/upward", "chromogenic/fs"},
		{"pipeline/concrete", "chromogenic/providers/local"},
		{"fs/concrete", "chromogenic/providers/local"},
		{"fs/inside", "chromogenic/formats/qcow2"},
		{"pipeline/mounts", "github.com/hanwen/go-fuse/v2/fuse"},
		{"pipeline/commands", "github.com/urfave/cli/v2"},
	}
	var packages []string
	for _, u := range upward {
		file := filepath.Join(tree, u[0], "upward.go")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		text := "// Package upward breaks a rule.\npackage upward\n\nimport _ \"" + u[1] + "\"\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		packages = append(packages, "./"+u[0])
	}
	text, err := lint(packages...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("injected imports: %v\n%s", err, text)
	}
	for _, u := range upward {
		if !strings.Contains(text, u[0]+"/upward.go") {
			t.Errorf("%s may import %s", u[0], u[1])
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// copyTree copies the module without what is no source.
func copyTree(t *testing.T, to string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "tools") {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, path), 0o755)
		}
		if filepath.Ext(name) != ".go" && name != "go.mod" && name != "go.sum" && name != ".golangci.yml" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, path), text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}
