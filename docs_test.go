package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The files that the documents lead to exist.
func TestDocumentedFiles(t *testing.T) {
	for _, doc := range []string{"ARCHITECTURE.md", "README.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		files := regexp.MustCompile("`([a-z]+/[a-z0-9/_]+\\.go)`").FindAllStringSubmatch(string(text), -1)
		for _, m := range files {
			if _, err := os.Stat(m[1]); err != nil {
				t.Errorf("%s: %v", doc, err)
			}
		}
		if doc == "ARCHITECTURE.md" && len(files) < 20 {
			t.Errorf("%s names %d files only", doc, len(files))
		}
	}
}

// The configurations of the documents are some.
func TestDocumentedConfig(t *testing.T) {
	for _, doc := range []string{"README.md", "docs/eucalyptus.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(text), "```yaml\n")
		if !ok {
			t.Fatalf("no configuration in %s", doc)
		}
		example, _, _ := strings.Cut(rest, "```")
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadConfig(path); err != nil {
			t.Errorf("%s: %v", doc, err)
		}
	}
}
