package qcow2

import (
	"errors"

	"chromogenic/disk"
)

// ErrNoBacking is in the error of an image that needs a backing image and is
// opened without.
var ErrNoBacking = errors.New("it is not opened")

// malformed is the refusal of bytes that contradict the format.
func malformed(format string, args ...any) error {
	return disk.Errorf(disk.Malformed, "open qcow2: "+format, args...)
}

// unsupported is the refusal of a proper image that cannot be read here.
func unsupported(format string, args ...any) error {
	return disk.Errorf(disk.Unsupported, "open qcow2: "+format, args...)
}

// truncated is the refusal of a file that lacks bytes which its tables count on.
func truncated(format string, args ...any) error {
	return disk.Hint(malformed("looks truncated: "+format, args...),
		"compare the file's size with that of its origin and copy it again")
}
