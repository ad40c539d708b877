package fs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// MountPath is a path as the kernel's table of mounts has it: absolute, and with
// all links followed. It works for a dead mountpoint too, which answers nothing.
func MountPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for range 40 { // links, as many as the kernel follows (path_resolution(7))
		if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
			abs = filepath.Join(dir, filepath.Base(abs))
		}
		to, err := os.Readlink(abs)
		if err != nil {
			return abs, nil // no link, or nothing at all
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(abs), to)
		}
		abs = filepath.Clean(to)
	}
	return "", errors.New("too many symlinks")
}

// MountedAt is the type of what is mounted at exactly dir, a MountPath, on top of
// others; empty for nothing.
func MountedAt(dir string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	kind := ""
	// proc_pid_mountinfo(5): the mountpoint is field 5, with octal escapes; the
	// type is the first field behind " - ".
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		front, back, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(front)
		if ok && len(fields) > 4 && unescape(fields[4]) == dir {
			kind, _, _ = strings.Cut(back, " ")
		}
	}
	return kind, lines.Err()
}

// unescape undoes the octal escapes of the kernel's tables.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
