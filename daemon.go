package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// readyEnv tells a daemon on which file descriptor its parent waits for the
// news that it is live, or why it is not.
const readyEnv = "CHROMOGENIC_READY_FD"

// newsLimit bounds what a parent reads, in bytes.
const newsLimit = 64 << 10

// A launchError is a daemon's own error, told by its parent.
type launchError struct {
	Status  int    `json:"status"` // what the parent exits with; 0 means the daemon is live
	Message string `json:"message,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

func (e *launchError) Error() string { return e.Message }

// launch runs this command line once more in a session of its own, and returns
// when that is live, or with its error. The mount namespace is a file as
// /proc/PID/ns/mnt; empty is the one we are in.
func launch(ctx context.Context, namespace string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.ExtraFiles = []*os.File{w} // number 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = startIn(namespace, cmd)
	w.Close()
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(r, newsLimit))
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	var news launchError
	if json.Unmarshal(text, &news) != nil {
		err := cmd.Wait()
		return disk.Hint(disk.Errorf(disk.Other, "start daemon: it ended before it was live: %v", err), "try without --daemon")
	}
	if news.Status != exitDone {
		_ = cmd.Wait() // it has said why
		return &news
	}
	return cmd.Process.Release()
}

// startIn starts a command in a mount namespace.
func startIn(namespace string, cmd *exec.Cmd) error {
	if namespace == "" {
		return cmd.Start()
	}
	f, err := os.Open(namespace)
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer f.Close()
	started := make(chan error)
	go func() {
		// What is started has the namespace of the thread that starts it. The thread
		// is of no other use, and ends with this function: it stays locked.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS) // setns(2) refuses threads that share this
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNS)
		}
		if err != nil {
			started <- fmt.Errorf("enter namespace %q: %w", namespace, err)
			return
		}
		started <- cmd.Start()
	}()
	return <-started
}

// A parent waits for a daemon to be live. The nil parent waits for nothing.
type parent struct{ pipe *os.File }

// waitingParent is the parent of this process if that waits, else nil. It may
// be asked once.
func waitingParent() *parent {
	fd, err := strconv.Atoi(os.Getenv(readyEnv))
	os.Unsetenv(readyEnv)
	if err != nil || fd < 3 {
		return nil
	}
	syscall.CloseOnExec(fd)
	return &parent{os.NewFile(uintptr(fd), "parent")}
}

// live tells the parent that all is well, and leaves its folder.
func (p *parent) live() error {
	if p == nil {
		return nil
	}
	if err := anchor(); err != nil {
		return err
	}
	p.tell(launchError{Status: exitDone})
	return os.Chdir("/") // the folder where it was started can be unmounted
}

// failed tells the parent why it did not come to that.
func (p *parent) failed(ctx context.Context, err error) {
	if p == nil || err == nil {
		return
	}
	message, hint := explainError(err)
	p.tell(launchError{Status: exitStatus(ctx, err), Message: message, Hint: hint})
}

// tell sends the one news. A parent that is gone does not mind.
func (p *parent) tell(news launchError) {
	if p.pipe == nil {
		return
	}
	text, err := json.Marshal(news)
	if err == nil {
		_, _ = p.pipe.Write(text)
	}
	p.pipe.Close()
	p.pipe = nil
}
