package disk

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"syscall"
)

// ErrClosed is returned by reads of an image after its Close.
var ErrClosed = fmt.Errorf("image is closed: %w", iofs.ErrClosed)

// An Error is a failure with what a user needs to act on it. Its text is the
// cause alone; code, request id and hint are shown beside it.
type Error struct {
	Kind      Kind
	Code      string // stable, "CHR-0042"; empty means Kind.Code()
	RequestID string // the cloud's, where it gave one
	Hint      string // what to do about it: a sentence in lower case, without a full stop
	Err       error
}

func (e *Error) Error() string { return e.Err.Error() }

// StableCode is the code, or that of the kind where there is none of its own.
func (e *Error) StableCode() string {
	if e.Code != "" {
		return e.Code
	}
	return e.Kind.Code()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of a kind; the format is that of fmt.Errorf, %w included.
func Errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// Hint adds advice to err: what the user can do about it. The kind stays; an
// advice that is there already is kept, for it was given nearer to the cause.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	e := AsError(err)
	if e.Hint != "" {
		return err
	}
	return &Error{Kind: e.Kind, Code: e.Code, RequestID: e.RequestID, Hint: fmt.Sprintf(format, args...), Err: err}
}

// KindOf is the kind of err. Errors of the standard library are classified
// here; one that says nothing is Other.
func KindOf(err error) Kind { return AsError(err).Kind }

// AsError finds the Error in err's chain, or makes one that classifies err. The
// result's Err is never nil for an err that is not.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: classify(err), Err: err}
}

// classify orders the errors of the standard library by what they mean for an
// image. A local file that cannot be read is denied by its owner, not by us.
func classify(err error) Kind {
	switch {
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return Timeout
	case errors.Is(err, syscall.ENOSPC):
		return NoSpace
	case errors.Is(err, syscall.EDQUOT):
		return Quota
	case errors.Is(err, syscall.EROFS):
		return ReadOnly
	case errors.Is(err, syscall.EFBIG):
		return TooLarge
	case errors.Is(err, syscall.ESTALE):
		return Stale
	case slices.ContainsFunc(gone, func(e syscall.Errno) bool { return errors.Is(err, e) }):
		return Unreachable
	case errors.Is(err, iofs.ErrNotExist):
		return NotFound
	case errors.Is(err, iofs.ErrExist):
		return Exists
	case errors.Is(err, iofs.ErrPermission):
		return Denied
	}
	return Other
}

// gone are what the kernel says of a disk that was there a moment ago: its file
// system's server has died or lost its own, or it was pulled out.
var gone = []syscall.Errno{
	syscall.ENOTCONN, syscall.ECONNABORTED, syscall.ESHUTDOWN, syscall.EHOSTDOWN,
	syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENODEV,
}
