package guest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// Child does what this process was started for, if that was by Run, with work, and
// then ends the process; otherwise it returns false at once. main calls it before
// anything else, and so does TestMain of tests that call Run.
func Child(work Work) bool {
	if isInit() {
		boot(work)
	}
	if len(os.Args) < 2 || os.Args[0] != cageName {
		return false
	}
	switch os.Args[1] {
	case stageTry:
		os.Exit(0)
	case stageWait:
		os.Exit(waitForIDs())
	case stageWork:
		os.Exit(caged(work))
	}
	fmt.Fprintf(os.Stderr, "guest: there is no stage %q\n", os.Args[1])
	os.Exit(2)
	return true
}

// waitForIDs waits until the ids are mapped, and begins anew as user 0 of the
// namespace, with its rights.
func waitForIDs() int {
	var b [1]byte
	if _, err := io.ReadFull(os.NewFile(cageLine, "caller"), b[:]); err != nil {
		fmt.Fprintf(os.Stderr, "guest: wait for ids: %v\n", err)
		return 1
	}
	// What Go had opened is closed by that, but not these two.
	err := unix.Exec("/proc/self/fd/"+strconv.Itoa(cageSelf), []string{cageName, os.Args[2]}, os.Environ())
	fmt.Fprintf(os.Stderr, "guest: start anew: %v\n", err)
	return 1
}

// caged is the life of a cage.
func caged(work Work) int {
	unix.CloseOnExec(cageSelf)
	runtime.GOMAXPROCS(2)
	conn, err := net.FileConn(os.NewFile(cageLine, "caller"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "guest: %v\n", err)
		return 1
	}
	unix.CloseOnExec(cageLine)
	line := conn.(*net.UnixConn)
	in := bufio.NewReader(line)
	var j job
	if err := readFrame(in, &j); err != nil {
		fmt.Fprintf(os.Stderr, "guest: %v\n", err)
		return 1
	}
	go func() {
		_, _ = in.ReadByte()
		os.Exit(1) // the caller has gone, and nobody wants the rest
	}()
	if err := writeFrame(line, cagedJob(line, j, work)); err != nil {
		fmt.Fprintf(os.Stderr, "guest: %v\n", err)
		return 1
	}
	return 0
}

// cagedJob does the job, and what has to be done around it.
func cagedJob(line *net.UnixConn, j job, work Work) result {
	self := os.NewFile(cageSelf, "program")
	err := func() error {
		if err := secludeMounts(j); err != nil {
			return err
		}
		dev, err := mountDisk()
		if err != nil {
			return err
		}
		defer dev.Close()
		if _, _, err := line.WriteMsgUnix([]byte{0}, unix.UnixRights(int(dev.Fd())), nil); err != nil {
			return fmt.Errorf("hand over disk: %w", err)
		}
		return nil
	}()
	if err != nil {
		// Who waits for the disk gets the end of the line, and this with it.
		fmt.Fprintf(os.Stderr, "%v", err)
		os.Exit(1)
	}
	ctx := context.Background()
	r := result{}
	r.Failure = failureOf(j.perform(ctx, self, work, &r))
	r.Volumes, r.Warnings = j.Volumes, j.Warnings
	return r
}

// perform repairs and has the work done, or checks what was done.
func (j *job) perform(ctx context.Context, self *os.File, work Work, r *result) error {
	j.Warnings = nil // those before are with the caller
	if j.Check {
		return j.finish(ctx)
	}
	inner, err := j.access(ctx, self, work)
	if err != nil {
		return err
	}
	if err := j.learn(inner); err != nil {
		return err
	}
	r.Reply = inner.Reply
	return inner.Failure.err()
}

// access repairs, and lets the work be done by the way that was chosen.
func (j *job) access(ctx context.Context, self *os.File, work Work) (result, error) {
	if j.Access == accessUML {
		return j.runUML(ctx, self)
	}
	if err := j.repair(ctx); err != nil {
		return result{}, err
	}
	s := &session{job: *j, base: "/work"}
	switch j.Access {
	case accessFuse2fs:
		s.mounter = &fuseMounter{ctx: ctx, job: *j}
	case accessLoop:
		loops := loopDevices{}
		defer loops.close()
		s.mounter = kernelMounter{loops.device}
	default:
		return result{}, disk.Errorf(disk.Invalid, "work in sandbox: there is no access %q", j.Access)
	}
	reply, err := s.run(ctx, work)
	return result{Volumes: s.Volumes, Warnings: s.warnings, Reply: reply, Failure: failureOf(err)}, nil
}
