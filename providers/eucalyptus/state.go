package eucalyptus

import (
	"slices"
	"strings"

	"chromogenic/providers/internal/process"
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

// working tells whether somebody may still work on an image that has a state.
func (p *Provider) working(r *record) bool {
	if p.owns(r.ID) {
		return true
	}
	_, _, on := r.state()
	return process.Works(on, r.Created)
}
