package faultfs

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Mount is a running server, as a test sees it. It is safe for concurrent use.
type Mount struct {
	dir  string
	cmd  *exec.Cmd
	exit chan error // gets what the process ended with, once

	mu      sync.Mutex
	in      io.WriteCloser
	answers *bufio.Reader
}

// Start starts a server by cmd, which runs Serve with its standard input and
// output, and waits until the mount at dir is live.
func Start(cmd *exec.Cmd, dir string) (*Mount, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var said strings.Builder
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for the test, which ends the server
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	m := &Mount{dir: dir, cmd: cmd, exit: make(chan error, 1), in: in, answers: bufio.NewReader(out)}
	line, err := m.answers.ReadString('\n')
	go func() { m.exit <- cmd.Wait() }()
	if err != nil || line != "live\n" {
		return nil, fmt.Errorf("server said %q: %w\n%s", line, err, said.String())
	}
	return m, nil
}

// ask sends a request and gives the answer.
func (m *Mount) ask(r request) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := json.NewEncoder(m.in).Encode(r); err != nil {
		return 0, err
	}
	line, err := m.answers.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

// Set makes something go wrong from now on, and gives the fault's number.
func (m *Mount) Set(f Fault) (int, error) { return m.ask(request{Set: &f}) }

// Clear ends all faults.
func (m *Mount) Clear() error {
	_, err := m.ask(request{Clear: true})
	return err
}

// Hits is how often the fault of that number has struck.
func (m *Mount) Hits(n int) (int, error) { return m.ask(request{Hits: &n}) }

// Kill ends the server as a disk ends that is pulled out. The mountpoint stays, and
// everything there fails.
func (m *Mount) Kill() error {
	err := m.cmd.Process.Kill()
	<-m.exit
	m.exit <- nil
	return err
}

// Close ends the server and takes the mount away.
func (m *Mount) Close() error {
	m.in.Close()
	select {
	case err := <-m.exit:
		m.exit <- err
	case <-time.After(10 * time.Second):
		m.cmd.Process.Kill()
	}
	// A killed server has left it; one that has ended has not.
	if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
		return fmt.Errorf("unmount %q: %w", m.dir, err)
	}
	return nil
}
