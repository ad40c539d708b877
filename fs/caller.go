package fs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// A process is who made a request, as far as /proc tells. The zero value is a
// process of another pid namespace, of which nothing is known.
type process struct {
	pid   int    // the thread group's
	start string // its start time in clock ticks: a pid comes back, the pair does not; empty while it executes another program
}

// is tells whether two are the same, as far as is known.
func (p process) is(q process) bool {
	return p.pid == q.pid && (p.start == q.start || p.start == "" || q.start == "")
}

// callerThread is the thread that made the request; 0 is unknown.
func callerThread(ctx context.Context) int {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return 0
	}
	return int(c.Pid)
}

// callerProcess is the process that the thread belongs to.
func callerProcess(ctx context.Context) process {
	tid := callerThread(ctx)
	if tid == 0 {
		return process{}
	}
	pid, err := strconv.Atoi(statusField(tid, "Tgid"))
	if err != nil {
		return process{}
	}
	if executing(pid) {
		return process{pid: pid}
	}
	fields := statFields(pid)
	if fields == nil {
		return process{}
	}
	return process{pid, fields[statStart]}
}

// executing tells whether the process is about to become another program, so that
// no code of the old one is there any more, and none of the new one yet. It closes
// its files then, those with O_CLOEXEC, and waits for our answer. Recent kernels
// let nobody read its /proc/PID/stat meanwhile, nor its links: who reads them for
// that answer waits for ever.
func executing(pid int) bool { return statusField(pid, "VmExe") == "0 kB" }

// statPatience is how long the state of a process that begins to execute another
// program may keep us waiting, just after we have looked.
const statPatience = time.Second

// alive tells whether the process still runs. One that ended and was not waited
// for does not. It may be called with locks that the process's own requests need.
func (p process) alive() bool {
	if executing(p.pid) {
		return true
	}
	read := make(chan []string, 1)
	go func() { read <- statFields(p.pid) }()
	select {
	case fields := <-read:
		return fields != nil && p.is(process{p.pid, fields[statStart]}) && !strings.ContainsAny(fields[statState], "ZXx")
	case <-time.After(statPatience):
		return true
	}
}

// The fields of /proc/PID/stat behind the name in brackets: see proc(5), whose
// number 3 is index 0 here.
const (
	statState = 0
	statFlags = 6
	statStart = 19
)

// statFields are the fields of /proc/PID/stat behind the process's name, nil
// when there is no such process. The name may hold anything.
func statFields(pid int) []string {
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	fields := strings.Fields(string(p[bytes.LastIndexByte(p, ')')+1:]))
	if len(fields) <= statStart {
		return nil
	}
	return fields
}

// statusField is a line of /proc/PID/status, which takes a thread's id too.
func statusField(pid int, key string) string {
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(p)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// dyingBySignal are PF_EXITING|PF_SIGNALED of include/linux/sched.h: both are
// set while a thread that a signal killed closes its files, and on no normal
// close.
const dyingBySignal = 0x4 | 0x400

// killed tells whether the caller is closing its files because a signal killed
// it, so that what it wrote is cut off. Who ends has no table of files any more when
// the last of them is closed; of any other the flags are not asked for, see executing.
func killed(ctx context.Context) bool {
	tid := callerThread(ctx)
	if statusField(tid, "FDSize") != "0" {
		return false
	}
	fields := statFields(tid)
	if fields == nil {
		return false
	}
	flags, err := strconv.ParseUint(fields[statFlags], 10, 64)
	return err == nil && flags&dyingBySignal == dyingBySignal
}

// sigkill is the bit of SIGKILL in the masks of /proc/PID/status. The kernel
// turns every fatal signal into it.
const sigkill = 1 << (9 - 1)

// dying tells whether a fatal signal waits for the caller, which the request
// keeps from dying. A signal that the caller handles is no reason to stop, and
// Go programs interrupt themselves all the time.
func dying(tid int) bool {
	for _, key := range []string{"SigPnd", "ShdPnd"} {
		mask, err := strconv.ParseUint(statusField(tid, key), 16, 64)
		if err != nil || mask&sigkill != 0 {
			return true // a caller that is gone, or unknown and interrupted, waits for nothing
		}
	}
	return false
}

// dyingPoll is how often an interrupted caller is looked at.
const dyingPoll = 100 * time.Millisecond

// patient is ctx without the signals that its caller survives: it ends when a
// fatal one waits for the caller, or by the function that it returns.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	calm, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		tid := callerThread(ctx)
		tick := time.NewTicker(dyingPoll)
		defer tick.Stop()
		for !dying(tid) {
			select {
			case <-calm.Done():
				return
			case <-tick.C:
			}
		}
		cancel()
	})
	return calm, func() { stop(); cancel() }
}

// holds tells whether the process has a file open, whose path ends so. A file
// whose name the kernel has forgotten meanwhile is marked in /proc/PID/fd.
func (p process) holds(path string) bool {
	if executing(p.pid) {
		return true // it may, and must not be asked
	}
	dir := fmt.Sprintf("/proc/%d/fd", p.pid)
	fds, err := os.ReadDir(dir)
	if err != nil || !p.alive() {
		return false
	}
	for _, fd := range fds {
		to, err := os.Readlink(dir + "/" + fd.Name())
		if err == nil && strings.HasSuffix(strings.TrimSuffix(to, " (deleted)"), path) {
			return true
		}
	}
	return false
}

// isQemu tells whether the process is one of qemu's programs, which close an
// image more than once while they make it.
func (p process) isQemu() bool {
	return p.pid != 0 && strings.HasPrefix(statusField(p.pid, "Name"), "qemu")
}

// syncs tells whether the process makes a directory like another one, name by name.
func (p process) syncs() bool { return p.pid != 0 && statusField(p.pid, "Name") == "rsync" }

// String names the process, for people.
func (p process) String() string {
	if p.pid == 0 {
		return "a program of another pid namespace"
	}
	return fmt.Sprintf("%s (pid %d)", statusField(p.pid, "Name"), p.pid)
}

// creates tells whether the process is qemu-img create.
func (p process) creates() bool {
	if !p.isQemu() {
		return false
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	args := strings.Split(string(line), "\x00")
	return err == nil && len(args) > 1 && args[1] == "create"
}
