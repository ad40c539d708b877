package fs

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// A failure is one failed operation with all that is known of it, a line of
// .chromogenic/errors.
type failure struct {
	Time      time.Time `json:"time"`
	Op        string    `json:"op"`
	Path      string    `json:"path"` // below the mountpoint
	Code      string    `json:"code"`
	Errno     string    `json:"errno"`
	Message   string    `json:"message"`
	RequestID string    `json:"request_id,omitempty"`
	Hint      string    `json:"hint,omitempty"`

	solved bool // something has succeeded there since
}

// String is the failure as the error xattr shows it.
func (f *failure) String() string {
	s := fmt.Sprintf("%s: %s %s: %s", f.Code, f.Op, f.Path, f.Message)
	if f.Hint != "" {
		s += "; hint: " + f.Hint
	}
	if f.RequestID != "" {
		s += "; request id: " + f.RequestID
	}
	return s
}

// failuresKept bounds the journal.
const failuresKept = 512

// repeatedWithin is how long the same failure at the same place is one: a
// program that tries again in a loop leaves one line.
const repeatedWithin = 10 * time.Second

// A journal keeps the last failures. It is safe for concurrent use.
type journal struct {
	log *slog.Logger

	mu   sync.Mutex
	last []failure // the oldest first
}

// fail records why an operation on a path failed and gives its errno. It is the
// one way in which an error leaves this package.
func (j *journal) fail(op, path string, err error) syscall.Errno {
	errno := Errno(err)
	if errno == 0 {
		return 0
	}
	e := disk.AsError(err)
	f := failure{
		Time: time.Now().UTC(), Op: op, Path: path, Code: e.StableCode(), Errno: unix.ErrnoName(errno),
		Message: err.Error(), RequestID: e.RequestID, Hint: e.Hint,
	}
	if !j.add(f) {
		return errno
	}
	attrs := []any{"op", op, "path", path, "errno", f.Errno, "code", f.Code, "error", f.Message}
	if f.Hint != "" {
		attrs = append(attrs, "hint", f.Hint)
	}
	if f.RequestID != "" {
		attrs = append(attrs, "request_id", f.RequestID)
	}
	j.log.Warn("operation failed", attrs...)
	return errno
}

// add appends a failure, and is false for one that was there a moment ago.
func (j *journal) add(f failure) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := len(j.last) - 1; i >= 0 && f.Time.Sub(j.last[i].Time) < repeatedWithin; i-- {
		o := &j.last[i]
		if o.Op == f.Op && o.Path == f.Path && o.Message == f.Message && !o.solved {
			return false
		}
	}
	if len(j.last) == failuresKept {
		j.last = append(j.last[:0], j.last[1:]...)
	}
	j.last = append(j.last, f)
	return true
}

// solve tells that the path is well now. The journal keeps what was, the xattr
// no longer shows it.
func (j *journal) solve(path string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.last {
		if j.last[i].Path == path {
			j.last[i].solved = true
		}
	}
}

// about is the newest failure of a path; of a directory, also of what is in it.
func (j *journal) about(path string, dir bool) (string, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := len(j.last) - 1; i >= 0; i-- {
		f := &j.last[i]
		if !f.solved && (f.Path == path || dir && (path == "" || strings.HasPrefix(f.Path, path+"/"))) {
			return f.String(), true
		}
	}
	return "", false
}

// lines are the failures as JSON lines, newest last.
func (j *journal) lines() []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []byte
	for i := range j.last {
		line, err := json.Marshal(&j.last[i])
		if err != nil {
			continue // never happens: the fields are text
		}
		out = append(append(out, line...), '\n')
	}
	return out
}
