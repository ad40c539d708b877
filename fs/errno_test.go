package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"chromogenic/disk"
)

// TestErrno is the errno table of the manual, row by row.
func TestErrno(t *testing.T) {
	for kind, want := range map[disk.Kind]syscall.Errno{
		disk.NotFound: syscall.ENOENT, disk.Unreachable: syscall.EHOSTUNREACH, disk.Denied: syscall.EACCES,
		disk.Policy: syscall.EPERM, disk.ReadOnly: syscall.EROFS, disk.Exists: syscall.EEXIST, disk.Busy: syscall.EBUSY,
		disk.Quota: syscall.EDQUOT, disk.NoSpace: syscall.ENOSPC, disk.TooLarge: syscall.EFBIG,
		disk.Unsupported: syscall.ENOTSUP, disk.Malformed: syscall.EBADMSG, disk.Stale: syscall.ESTALE,
		disk.Timeout: syscall.ETIMEDOUT, disk.Cancelled: syscall.ECANCELED, disk.Interrupted: syscall.EINTR,
		disk.Invalid: syscall.EINVAL, disk.Other: syscall.EIO,
	} {
		err := fmt.Errorf("copy image: %w", disk.Hint(disk.Errorf(kind, "cause"), "advice"))
		if got := Errno(err); got != want {
			t.Errorf("Errno of kind %d = %v, want %v", kind, got, want)
		}
	}
	if got := Errno(nil); got != 0 {
		t.Errorf("Errno(nil) = %v", got)
	}
	if got := Errno(errors.New("anything")); got != syscall.EIO {
		t.Errorf("Errno of anything else = %v", got)
	}
}

func TestJournal(t *testing.T) {
	var log strings.Builder
	j := &journal{log: slog.New(slog.NewTextHandler(&log, nil))}
	err := disk.Hint(disk.Errorf(disk.Malformed, "bad table"), "look at it")
	for range 3 {
		if errno := j.fail("read", "p/images/x.raw", err); errno != syscall.EBADMSG {
			t.Fatalf("fail gives %v", errno)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("a failure in a loop is logged %d times", n)
	}
	const want = "CHR-0012: read p/images/x.raw: bad table; hint: look at it"
	for path, dir := range map[string]bool{"p/images/x.raw": false, "p/images": true, "p": true, "": true} {
		if got, ok := j.about(path, dir); !ok || got != want {
			t.Errorf("about %s = %q, want %q", path, got, want)
		}
	}
	if _, ok := j.about("p/im", true); ok {
		t.Error("a failure shows at a directory that it is not in")
	}
	j.solve("p/images/x.raw")
	if _, ok := j.about("p/images", true); ok {
		t.Error("a failure that is over still shows")
	}
	for i := range 2 * failuresKept {
		j.fail("read", fmt.Sprint(i), err)
	}
	if n := strings.Count(string(j.lines()), "\n"); n != failuresKept {
		t.Errorf("the journal holds %d lines", n)
	}
}
