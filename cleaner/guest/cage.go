package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// Names by which a process knows that it is one of ours; no program is called so by a
// user. The stages: wait for the mapping of ids, do the job, or only try.
const (
	cageName  = "chromogenic guest sandbox"
	stageWait = "wait"
	stageWork = "work"
	stageTry  = "try"
)

// Files that a cage is started with.
const (
	cageLine = 3 // the socket to us
	cageSelf = 4 // the program itself
)

// A cage is a process in namespaces of its own: mounts, processes, network, IPC, host
// name, and users where that is possible. It is the first process of them, so all
// that it starts ends with it, and it ends with us.
type cage struct {
	line   *net.UnixConn
	output *tail
	wait   func() error
	kill   func()
}

// startCage starts a stage. Of root the ids of the new namespace are some that nobody
// has; of others it is their own alone, or, where many is set, those that newuidmap
// gives them.
func startCage(self *os.File, j job, stage string, many bool) (*cage, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	defer theirs.Close()
	c := &cage{line: ours, output: &tail{}}
	cmd := &exec.Cmd{
		Path: "/proc/self/fd/" + strconv.Itoa(cageSelf), Args: []string{cageName, stage},
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOTRACEBACK=single"}, Dir: "/",
		ExtraFiles: []*os.File{theirs, self}, Stdout: c.output, Stderr: c.output,
		WaitDelay:   time.Second,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true},
	}
	attr := cmd.SysProcAttr
	attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	mapped := false
	switch {
	case j.Resident:
	case os.Geteuid() == 0:
		attr.Cloneflags |= unix.CLONE_NEWUSER
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: sandboxID, Size: sandboxID - 2}}
		attr.UidMappings, attr.GidMappings, attr.GidMappingsEnableSetgroups = ids, ids, true
		attr.Credential = &syscall.Credential{Uid: 0, Gid: 0}
	case many:
		attr.Cloneflags |= unix.CLONE_NEWUSER
		mapped = true
		cmd.Args = append(cmd.Args[:1], stageWait, stage)
	default:
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the child is to die with this thread
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		ours.Close()
		return nil, disk.Hint(fmt.Errorf("start sandbox: %w", err), "does this system let you make namespaces? see user_namespaces(7)")
	}
	c.kill = func() { _ = cmd.Process.Kill() }
	c.wait = func() error { return <-ended }
	if mapped {
		err := mapIDs(j.Tools, cmd.Process.Pid)
		if err == nil {
			_, err = ours.Write([]byte{0})
		}
		if err != nil {
			_ = c.end()
			return nil, err
		}
	}
	return c, nil
}

// end kills what is left and waits for it.
func (c *cage) end() error {
	c.kill()
	err := c.wait()
	c.line.Close()
	return err
}

// exchange serves the disk to the cage, sends the job, and returns the result.
func (c *cage) exchange(img Disk, j job, files map[string]span) (r result, failed error, err error) {
	if err := writeFrame(c.line, j); err != nil {
		return r, nil, err
	}
	dev, err := receiveFile(c.line)
	if err != nil {
		return r, nil, err
	}
	srv, err := serve(dev, img, files)
	if err != nil {
		return r, nil, err
	}
	err = readFrame(bufio.NewReader(c.line), &r)
	return r, srv.failed(), err
}

// converse is exchange with an end: that of ctx, or of the cage.
func (c *cage) converse(ctx context.Context, img Disk, j job, files map[string]span) (result, error) {
	stop := context.AfterFunc(ctx, c.kill)
	defer stop()
	r, failed, err := c.exchange(img, j, files)
	ended := c.end()
	switch {
	case ctx.Err() != nil:
		return result{}, fmt.Errorf("work in sandbox: %w", context.Cause(ctx))
	case failed != nil:
		return result{}, fmt.Errorf("work in sandbox: %w", failed)
	case err != nil && (errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)):
		return result{}, disk.Errorf(disk.Other, "work in sandbox: it ended without a result (%v): %s", ended, c.output)
	case err != nil:
		return result{}, fmt.Errorf("work in sandbox: %w", err)
	}
	return r, nil
}

func socketpair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	near, far := os.NewFile(uintptr(fds[0]), "sandbox"), os.NewFile(uintptr(fds[1]), "caller")
	defer near.Close()
	conn, err := net.FileConn(near)
	if err != nil {
		far.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), far, nil
}

// receiveFile gets an open file over the socket, with one byte.
func receiveFile(conn *net.UnixConn) (fd int, err error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(b[:], oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return -1, fmt.Errorf("receive file: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return -1, disk.Errorf(disk.Other, "receive file: %d messages instead of one (%v)", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, disk.Errorf(disk.Other, "receive file: %d files instead of one (%v)", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// mapIDs gives the user namespace of a process its user's own id as 0, and what
// /etc/subuid and /etc/subgid have for the user from 1 on.
func mapIDs(t tools, pid int) error {
	for _, m := range []struct {
		tool, file string
		id         int
	}{
		{t.NewUIDMap, "/etc/subuid", os.Geteuid()},
		{t.NewGIDMap, "/etc/subgid", os.Getegid()},
	} {
		first, n, err := subordinate(m.file)
		if err != nil {
			return err
		}
		out, err := exec.Command(m.tool, strconv.Itoa(pid), "0", strconv.Itoa(m.id), "1", "1", strconv.FormatInt(first, 10), strconv.FormatInt(n, 10)).CombinedOutput()
		if err != nil {
			return disk.Errorf(disk.Denied, "map ids of sandbox: %w: %s", err, out)
		}
	}
	return nil
}
