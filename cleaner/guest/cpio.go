package guest

import (
	"fmt"
	"io"
)

// A cpioWriter writes an archive in the format "newc" that a kernel unpacks as its
// first root (kernel, Documentation/driver-api/early-userspace/buffer-format.rst).
type cpioWriter struct {
	w   io.Writer
	ino int
	err error
}

// file adds a file of n bytes, or a folder where body is nil.
func (c *cpioWriter) file(name string, mode uint32, n int64, body io.Reader) {
	if body != nil {
		mode |= 0o100000
	} else {
		mode |= 0o040000
	}
	c.entry(name, mode, n)
	if c.err == nil && body != nil {
		_, c.err = io.CopyN(c.w, body, n)
		c.pad(n)
	}
}

// entry writes the header: thirteen words of eight hexadecimal digits behind the
// magic, and the name; both together end at a multiple of four bytes.
func (c *cpioWriter) entry(name string, mode uint32, n int64) {
	if c.err != nil {
		return
	}
	c.ino++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, 1, 0, n, 0, 0, 0, 0, len(name)+1, 0, name)
	_, c.err = io.WriteString(c.w, head)
	c.pad(int64(len(head)))
}

func (c *cpioWriter) pad(n int64) {
	if c.err == nil {
		_, c.err = c.w.Write(make([]byte, (4-n%4)%4))
	}
}

// close ends the archive.
func (c *cpioWriter) close() error {
	c.entry("TRAILER!!!", 0, 0)
	if c.err != nil {
		return fmt.Errorf("write initial root: %w", c.err)
	}
	return nil
}
