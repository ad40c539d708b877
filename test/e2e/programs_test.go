package e2e

import (
	"path/filepath"
	"testing"
)

// A program copies one file to a path that does not exist.
type program struct {
	name string
	copy func(t testing.TB, src, dst string) result
	// stores is the format of what it writes; empty is that of the source.
	stores string
	// moves: the source is gone afterwards.
	moves bool
	// quiet: its messages do not tell the errno.
	quiet bool
}

// argv makes a program of a command line that source and destination end.
func argv(name string, args ...string) func(testing.TB, string, string) result {
	return func(t testing.TB, src, dst string) result {
		t.Helper()
		return try(t, name, append(append([]string{}, args...), src, dst)...)
	}
}

// shell makes a program of a line of shell: $1 is the source, $2 the
// destination, $3 and $4 are the destination's folder and name.
func shell(line string) func(testing.TB, string, string) result {
	return func(t testing.TB, src, dst string) result {
		t.Helper()
		return try(t, "bash", "-e", "-o", "pipefail", "-c", line, "bash", src, dst, filepath.Dir(dst), filepath.Base(dst))
	}
}

// python makes a program of a function of Python's shutil.
func python(function string) func(testing.TB, string, string) result {
	return func(t testing.TB, src, dst string) result {
		t.Helper()
		return try(t, "python3", "-c", "import shutil, sys; shutil."+function+"(sys.argv[1], sys.argv[2])", src, dst)
	}
}

// programs are what people copy images with.
func programs() []program {
	return []program{
		{name: "cp", copy: argv("cp")},
		{name: "cp-a", copy: argv("cp", "-a")},
		{name: "cp-sparse", copy: argv("cp", "--sparse=always")},
		{name: "cp-dense", copy: argv("cp", "--sparse=never")},
		{name: "cp-noreflink", copy: argv("cp", "--reflink=never")},
		{name: "dd", copy: shell(`dd if="$1" of="$2" bs=1M`)},
		{name: "dd-fsync", copy: shell(`dd if="$1" of="$2" bs=64K conv=fsync`)},
		{name: "dd-sparse", copy: shell(`dd if="$1" of="$2" bs=128K conv=sparse`)},
		{name: "tee", copy: shell(`tee "$2" < "$1" > /dev/null`)},
		{name: "cat", copy: shell(`cat "$1" > "$2"`)},
		{name: "cat-pipe", copy: shell(`cat < "$1" | cat > "$2"`)},
		{name: "rsync", copy: argv("rsync", "-a")},
		{name: "rsync-inplace", copy: argv("rsync", "-a", "--inplace")},
		{name: "rsync-partial-dir", copy: argv("rsync", "-a", "--partial-dir=.rsync-partial", "--delay-updates")},
		{name: "rsync-S", copy: argv("rsync", "-a", "-S")},
		{name: "rsync-delta", copy: argv("rsync", "-a", "--no-whole-file")},
		{name: "rsync-inplace-S", copy: argv("rsync", "-a", "--inplace", "-S")},
		{name: "rsync-P-fsync", copy: argv("rsync", "-a", "-P", "--fsync")},
		{name: "install", copy: argv("install", "-m", "640")},
		{name: "mv", copy: argv("mv"), moves: true},
		{name: "tar", copy: shell(`tar -C "$(dirname "$1")" --transform="flags=r;s|.*|$4|" -cf - "$(basename "$1")" | tar -C "$3" -xf -`)},
		{name: "tar-S", copy: shell(`tar -C "$(dirname "$1")" -S --transform="flags=r;s|.*|$4|" -cf - "$(basename "$1")" | tar -C "$3" -S -xf -`)},
		{name: "shutil.copy", copy: python("copy")},
		{name: "shutil.copy2", copy: python("copy2")},
		{name: "shutil.copyfile", copy: python("copyfile")},
		{name: "qemu-img-raw", copy: argv("qemu-img", "convert", "-O", "raw"), stores: "raw"},
		{name: "qemu-img-qcow2", copy: argv("qemu-img", "convert", "-O", "qcow2"), stores: "qcow2"},
	}
}

// needPrograms skips the test unless all of them are installed.
func needPrograms(t testing.TB) {
	t.Helper()
	need(t, "rsync", "python3", "tar", "qemu-img", "bash")
}

// ext is the extension under which the program writes a source.
func (p program) ext(src string) string {
	if p.stores != "" {
		return "." + p.stores
	}
	return filepath.Ext(src)
}
