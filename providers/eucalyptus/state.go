package eucalyptus

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An image that is not what its name says has a description that says so: it is given with
// the registration, so there is no moment without. In no listing of images are those that
// are about to be committed, those that wait for their image, and captures of instances.
const (
	mark = "chromogenic"

	stateCommit  = "commit"  // all is there but the proof that nobody else has the name: "chromogenic commit JOB HOST"
	stateCapture = "capture" // of an instance, among which it is listed
	stateWaiting = "waiting" // a companion whose image is not there yet
)

// noDescription is the description of an image that has none: the cloud takes no empty one
// in the place of another.
const noDescription = "made by " + mark

// marked is the description of a state.
func marked(words ...string) string { return strings.Join(append([]string{mark}, words...), " ") }

// state is that of an image, empty for one that is whole, with the job and the host that
// work on it.
func (r *record) state() (state, job, host string) {
	words := strings.Fields(r.Description)
	if len(words) < 2 || words[0] != mark || !slices.Contains([]string{stateCommit, stateCapture, stateWaiting}, words[1]) {
		return "", "", ""
	}
	words = append(words, "", "")
	return words[1], words[2], words[3]
}

// hidden tells whether an image is in no listing of images.
func (r *record) hidden() bool {
	state, _, _ := r.state()
	return state != ""
}

// A host names this process on this run of this machine, or of a container on it, so that
// another process can tell whether somebody is still working on what is half made.
func host() string { return machine() + ":" + strconv.Itoa(os.Getpid()) }

// machine tells one run of a machine's kernel, and of those who see the same processes on
// it, from all others; empty where that cannot be told.
func machine() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return short(string(id) + space)
}

// abandoned is how long what another machine has begun is left alone.
const abandoned = 24 * time.Hour

// working tells whether somebody may still work on an image that has a state.
func (p *Provider) working(r *record) bool {
	if p.owns(r.ID) {
		return true
	}
	_, _, on := r.state()
	at, pid, _ := strings.Cut(on, ":")
	if n, err := strconv.Atoi(pid); err == nil && at == machine() && at != "" {
		err := syscall.Kill(n, 0)
		return n != os.Getpid() && (err == nil || err == syscall.EPERM) // another user's
	}
	return time.Since(r.Created) < abandoned
}
