package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// A program copies one file to a path that does not exist.
type program struct {
	name string
	line func(src, dst string) *exec.Cmd
	// stores is the format of what it writes; empty is that of the source.
	stores string
	// moves: the source is gone afterwards.
	moves bool
	// quiet: its messages do not tell the errno.
	quiet bool
}

// copy runs it to its end.
func (p program) copy(t testing.TB, src, dst string) result {
	t.Helper()
	return tryCmd(t, p.line(src, dst))
}

// argv makes a program of a command line that source and destination end.
func argv(name string, args ...string) func(src, dst string) *exec.Cmd {
	return func(src, dst string) *exec.Cmd {
		return command(name, append(append([]string{}, args...), src, dst)...)
	}
}

// shell makes a program of a line of shell: $1 is the source, $2 the
// destination, $3 and $4 are the destination's folder and name.
func shell(line string) func(src, dst string) *exec.Cmd {
	return func(src, dst string) *exec.Cmd {
		return command("bash", "-e", "-o", "pipefail", "-c", line, "bash", src, dst, filepath.Dir(dst), filepath.Base(dst))
	}
}

// python makes a program of a function of Python's shutil.
func python(function string) func(src, dst string) *exec.Cmd {
	return argv("python3", "-c", "import shutil, sys; shutil."+function+"(sys.argv[1], sys.argv[2])")
}

// programs are what people copy images with.
func programs() []program {
	return []program{
		{name: "cp", line: argv("cp")},
		{name: "cp-a", line: argv("cp", "-a")},
		{name: "cp-sparse", line: argv("cp", "--sparse=always")},
		{name: "cp-dense", line: argv("cp", "--sparse=never")},
		{name: "cp-noreflink", line: argv("cp", "--reflink=never")},
		{name: "dd", line: shell(`dd if="$1" of="$2" bs=1M`)},
		{name: "dd-fsync", line: shell(`dd if="$1" of="$2" bs=64K conv=fsync`)},
		{name: "dd-sparse", line: shell(`dd if="$1" of="$2" bs=128K conv=sparse`)},
		{name: "tee", line: shell(`tee "$2" < "$1" > /dev/null`)},
		{name: "cat", line: shell(`cat "$1" > "$2"`)},
		{name: "cat-pipe", line: shell(`cat < "$1" | cat > "$2"`)},
		{name: "rsync", line: argv("rsync", "-a")},
		{name: "rsync-inplace", line: argv("rsync", "-a", "--inplace")},
		{name: "rsync-partial-dir", line: argv("rsync", "-a", "--partial-dir=.rsync-partial", "--delay-updates")},
		{name: "rsync-S", line: argv("rsync", "-a", "-S")},
		{name: "rsync-delta", line: argv("rsync", "-a", "--no-whole-file")},
		{name: "rsync-inplace-S", line: argv("rsync", "-a", "--inplace", "-S")},
		{name: "rsync-P-fsync", line: argv("rsync", "-a", "-P", "--fsync")},
		{name: "install", line: argv("install", "-m", "640")},
		{name: "mv", line: argv("mv"), moves: true},
		{name: "tar", line: shell(`tar -C "$(dirname "$1")" --transform="flags=r;s|.*|$4|" -cf - "$(basename "$1")" | tar -C "$3" -xf -`)},
		{name: "tar-S", line: shell(`tar -C "$(dirname "$1")" -S --transform="flags=r;s|.*|$4|" -cf - "$(basename "$1")" | tar -C "$3" -S -xf -`)},
		{name: "shutil.copy", line: python("copy")},
		{name: "shutil.copy2", line: python("copy2")},
		{name: "shutil.copyfile", line: python("copyfile")},
		{name: "qemu-img-raw", line: argv("qemu-img", "convert", "-O", "raw"), stores: "raw"},
		{name: "qemu-img-qcow2", line: argv("qemu-img", "convert", "-O", "qcow2"), stores: "qcow2"},
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
