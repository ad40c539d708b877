package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// SocketName is the name of the socket in the state directory.
const SocketName = "control.sock"

// maxPath is what fits into an address of a unix socket, in bytes, without the
// NUL at the end: unix(7).
const maxPath = 107

// address is path, or another one to the same file that is short enough. It holds
// until the function is called.
func address(path string) (string, func(), error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { dir.Close() }, nil
}

// listen makes the socket, for its owner alone. One that nobody listens at is
// replaced.
func listen(path string) (net.Listener, error) {
	l, err := bind(path)
	if err != nil {
		return nil, fmt.Errorf("listen at %q: %w", path, err)
	}
	return l, nil
}

func bind(path string) (net.Listener, error) {
	if err := removeDead(path); err != nil {
		return nil, err
	}
	addr, release, err := address(path)
	if err != nil {
		return nil, err
	}
	defer release()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: addr, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the address is gone by then
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(path))
	}
	return l, nil
}

// removeDead removes the socket of a process that is dead.
func removeDead(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return disk.Errorf(disk.Exists, "what is there is no socket")
	}
	conn, err := connect(context.Background(), path)
	if err == nil {
		conn.Close()
		return disk.Errorf(disk.Busy, "another process listens there")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

func connect(ctx context.Context, path string) (net.Conn, error) {
	addr, release, err := address(path)
	if err != nil {
		return nil, err
	}
	defer release()
	var d net.Dialer
	return d.DialContext(ctx, "unix", addr)
}
