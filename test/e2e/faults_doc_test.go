package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// update has TestFaultsDocumented write its tables into docs/faults.md.
var update = flag.Bool("update", false, "write the tables of docs/faults.md")

// TestFaultsDocumented holds docs/faults.md against the tables that the faults are
// tested by.
func TestFaultsDocumented(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "faults.md")
	b, err := os.ReadFile(path)
	must(t, err)
	text := string(b)
	for name, table := range map[string]string{
		"source": faultTable(t, sourceFaults()), "destination": faultTable(t, destinationFaults()),
		"state": faultTable(t, stateFaults()), "bytes": flipTable(),
	} {
		begin, end := fmt.Sprintf("<!-- %s -->\n", name), "<!-- end -->"
		head, rest, found := strings.Cut(text, begin)
		old, tail, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Errorf("%s has no table of %s", path, name)
			continue
		}
		if old != table && !*update {
			t.Errorf("the table of %s is\n%s\nand should be as go test ./test/e2e -run %s -update writes it:\n%s", name, old, t.Name(), table)
		}
		text = head + begin + table + end + tail
	}
	if *update {
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
}

// faultTable is a table of faults.
func faultTable(t *testing.T, all []fault) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| what goes wrong | errno | code | exit status | |\n|---|---|---|---|---|\n")
	for _, f := range all {
		if f.errno == 0 {
			fmt.Fprintf(&b, "| %s | none: the right bytes | – | 0 | %s |\n", f.what, f.note)
			continue
		}
		o := promised(t, f.errno)
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %s |\n", f.what, o.Errno, o.Code, o.Exit, f.note)
	}
	return b.String()
}

// flipTable is that of wrong bytes.
func flipTable() string {
	var b strings.Builder
	b.WriteString("| one bit is wrong in | errno | |\n|---|---|---|\n")
	for _, f := range flips() {
		found := "none"
		if f.found {
			found = errnoName(syscall.EBADMSG)
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", f.what, found, f.note)
	}
	return b.String()
}
