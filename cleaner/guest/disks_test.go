package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// files are a tree to fill a filesystem with: path to content.
type files map[string]string

// secret is text that must be gone, long enough to lie in several blocks.
func secret(name string) string { return strings.Repeat("SECRET-"+name+"-0123456789abcdef\n", 3000) }

// linux is the tree of a guest, with secrets of the kinds that a work removes.
func linux(fstab string) files {
	return files{
		"etc/fstab":         fstab,
		"etc/os-release":    "ID=test\n",
		"etc/hostname":      "keep-this-name\n",
		"root/deleted":      secret("deleted"),
		"root/short":        "SECRET-short",
		"var/log/truncated": secret("truncated"),
		"var/log/shrunk":    secret("shrunk"),
		"home/a/b/file":     secret("nested"),
	}
}

// cleaning is what removes them.
func cleaning() []step {
	return []step{
		{Do: "remove", Path: "root/deleted"},
		{Do: "remove", Path: "root/short"},
		{Do: "truncate", Path: "var/log/truncated"},
		{Do: "truncate", Path: "var/log/shrunk", N: 100},
		{Do: "remove", Path: "home/a"},
		{Do: "read", Path: "etc/hostname"},
	}
}

// traces are texts that must be nowhere after cleaning.
func traces() []string {
	return []string{"SECRET-deleted", "SECRET-short", "SECRET-truncated", "SECRET-nested", strings.Repeat("SECRET-shrunk-0123456789abcdef\n", 5)}
}

// folderOf writes files to a folder.
func folderOf(t testing.TB, fill files) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range fill {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A partSpec is one partition of a disk to be made: a kind of GPT or MBR as sfdisk
// has it, and how it is filled.
type partSpec struct {
	size int64 // MiB
	kind string
	fill func(t testing.TB, path string, at span)
}

// ext makes an ext filesystem with mke2fs, as its configuration has it by name.
func ext(kind string, fill files, more ...string) func(testing.TB, string, span) {
	return func(t testing.TB, path string, at span) {
		t.Helper()
		args := []string{"-q", "-F", "-t", kind, "-d", folderOf(t, fill), "-E", fmt.Sprintf("offset=%d", at.Off)}
		args = append(args, more...)
		runProgram(t, "mke2fs", append(args, path, fmt.Sprintf("%dk", at.Size>>10))...)
	}
}

// inFile has a program make a filesystem in a file of its own, and copies that.
func inFile(make func(t testing.TB, path string)) func(testing.TB, string, span) {
	return func(t testing.TB, path string, at span) {
		t.Helper()
		part := filepath.Join(t.TempDir(), "part")
		sparse(t, part, at.Size)
		make(t, part)
		runProgram(t, "dd", "status=none", "if="+part, "of="+path, "bs=1M", fmt.Sprintf("seek=%d", at.Off>>20), "conv=notrunc,sparse")
	}
}

func btrfs(fill files, more ...string) func(testing.TB, string, span) {
	return inFile(func(t testing.TB, path string) {
		runProgram(t, "mkfs.btrfs", append(append([]string{"-q", "--rootdir", folderOf(t, fill)}, more...), path)...)
	})
}

// xfs makes one with a prototype, mkfs.xfs(8).
func xfs(fill files, more ...string) func(testing.TB, string, span) {
	return inFile(func(t testing.TB, path string) {
		proto := filepath.Join(t.TempDir(), "proto")
		text := "/\n0 0\n" + prototype(t, folderOf(t, fill), "d--755 0 0")
		if err := os.WriteFile(proto, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		runProgram(t, "mkfs.xfs", append(append([]string{"-q", "-f", "-p", proto}, more...), path)...)
	})
}

func prototype(t testing.TB, dir, self string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	text := self + "\n"
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			text += e.Name() + " " + prototype(t, path, "d--755 0 0")
		} else {
			text += e.Name() + " ---640 0 0 " + path + "\n"
		}
	}
	return text + "$\n"
}

func vfat(fill files) func(testing.TB, string, span) {
	return inFile(func(t testing.TB, path string) {
		runProgram(t, "mkfs.vfat", "-F", "16", "-i", "ABCD1234", path)
		overwrite(t, path, 37, "\x01") // it was not unmounted
	})
}

func swap(text string) func(testing.TB, string, span) {
	return inFile(func(t testing.TB, path string) {
		runProgram(t, "mkswap", "-U", "11111111-2222-3333-4444-555555555555", path)
		overwrite(t, path, 1<<20, text)
	})
}

func sparse(t testing.TB, path string, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// overwrite plants text at an offset.
func overwrite(t testing.TB, path string, off int64, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), off); err != nil {
		t.Fatal(err)
	}
}

// makeDisk makes a raw file; label is "gpt", "dos", or empty for one filesystem on the
// whole disk. Between and behind the partitions is 1 MiB.
func makeDisk(t testing.TB, label string, parts ...partSpec) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if label == "" {
		sparse(t, path, parts[0].size<<20)
		parts[0].fill(t, path, span{0, parts[0].size << 20})
		return path
	}
	script, at := "label: "+label+"\n", int64(1)
	spans := make([]span, len(parts))
	for i, p := range parts {
		script += fmt.Sprintf("start=%d, size=%d, type=%s\n", at*2048, p.size*2048, p.kind)
		spans[i] = span{at << 20, p.size << 20}
		at += p.size + 1
	}
	sparse(t, path, (at+1)<<20)
	table := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(table, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	runProgram(t, "sh", "-c", fmt.Sprintf("PATH=$PATH:/usr/sbin:/sbin sfdisk --quiet %s < %s", path, table))
	for i, p := range parts {
		if p.fill != nil {
			p.fill(t, path, spans[i])
		}
	}
	return path
}
