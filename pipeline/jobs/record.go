package jobs

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// A State is where a job is in its life.
type State string

// The states. Interrupted is a job whose process has ended before it did, or that
// was stopped where it can be taken up again; the last three and Done are the end.
const (
	Queued      State = "queued"
	Running     State = "running"
	Interrupted State = "interrupted"
	Done        State = "done"
	Failed      State = "failed"
	Cancelled   State = "cancelled"
	Planned     State = "planned" // a plan, which was never run
)

// Ended tells whether nothing more becomes of the job by itself.
func (s State) Ended() bool { return s != Queued && s != Running && s != Interrupted }

// The outcomes of a Stage.
const (
	OutcomeDone    = "done"
	OutcomeNotDone = "not done" // nothing was asked for, or no such stage exists yet
	OutcomeFailed  = "failed"
	OutcomePlanned = "planned"
)

// A Stage is one step of a job, in a record or in a plan.
type Stage struct {
	Name    string        `json:"name"`
	Outcome string        `json:"outcome"` // "done", "not done", "failed", "planned"
	Note    string        `json:"note,omitempty"`
	Started time.Time     `json:"started,omitzero"`
	Took    time.Duration `json:"took_ns,omitempty"`
}

// Schema is the version of Record as JSON.
const Schema = 1

// A Record is what became of a job.
type Record struct {
	Schema      int              `json:"schema"`
	ID          string           `json:"id"`            // NewID's
	Key         string           `json:"key,omitempty"` // the same for two jobs that ask for the same
	State       State            `json:"state"`
	Stage       string           `json:"stage,omitempty"` // the present one, or that of the end
	Source      string           `json:"source"`
	Destination string           `json:"destination"`
	Format      string           `json:"format,omitempty"` // of what is stored
	Unchanged   bool             `json:"unchanged"`        // the same disk was there already; nothing was sent
	Stages      []Stage          `json:"stages"`
	Notes       []string         `json:"notes,omitempty"`      // what the user should know though nothing failed
	Bytes       int64            `json:"bytes"`                // to send, without holes
	VirtualSize int64            `json:"virtual_size"`         // bytes, of the disk that is copied, of several the boot disk
	Scratch     int64            `json:"scratch"`              // bytes of scratch space needed
	Disks       []Disk           `json:"disks,omitempty"`      // of a machine that is stored as several files, in the order in which they are sent
	Companions  []Companion      `json:"companions,omitempty"` // that are stored beside the image
	BytesDigest string           `json:"bytes_digest,omitempty"`
	GuestDigest string           `json:"guest_digest,omitempty"`
	CloudDigest string           `json:"cloud_digest,omitempty"` // of an image that the cloud has made by itself: what it says of the bytes, "sha512:…"; nobody here has seen them
	Cleaned     bool             `json:"cleaned"`
	Cleaning    json.RawMessage  `json:"cleaning,omitempty"`    // the report of the cleaner: its operations, with what they have done
	Consistency string           `json:"consistency,omitempty"` // of the capture that was copied
	Entry       *providers.Entry `json:"entry,omitempty"`       // the image that is there now
	Error       *Error           `json:"error,omitempty"`
	Made        []Made           `json:"made,omitempty"`   // what must go if the job is given up
	Resume      json.RawMessage  `json:"resume,omitempty"` // what the job was asked for, for whoever takes it up again
	Until       string           `json:"until,omitempty"`  // the stage after which it waits for its owner
	Progress    *Progress        `json:"progress,omitempty"`
	Started     time.Time        `json:"started"`
	Ended       time.Time        `json:"ended,omitzero"`
}

// A Disk is one of several that a job has stored, each in a container of its own.
type Disk struct {
	Number      int    `json:"number"` // in the machine; 0 is the boot disk
	Device      string `json:"device,omitempty"`
	Format      string `json:"format"`
	Bytes       int64  `json:"bytes"`        // to send, without holes
	VirtualSize int64  `json:"virtual_size"` // bytes
	BytesDigest string `json:"bytes_digest,omitempty"`
	GuestDigest string `json:"guest_digest,omitempty"`
}

// A Companion is a kernel or a ramdisk that a job has stored.
type Companion struct {
	Role        providers.Role `json:"role"`
	Name        string         `json:"name,omitempty"` // its own, where it has one
	Bytes       int64          `json:"bytes"`
	BytesDigest string         `json:"bytes_digest,omitempty"`
}

// Made is a thing at a provider, or a spool of our own, that is not to outlive a
// job which fails. It is noted before it is made.
type Made struct {
	What  string `json:"what"`           // "upload", "snapshot", "spool"
	Site  string `json:"site,omitempty"` // the provider that has it
	Token []byte `json:"token"`          // by which it is found again
	Disk  int    `json:"disk,omitempty"` // of an upload: its number in the machine

	Role providers.Role `json:"role,omitempty"` // of the upload of a companion
}

// An Error is why a job failed.
type Error struct {
	Code      string `json:"code"`
	Kind      string `json:"kind"`
	Message   string `json:"message"`
	RequestID string `json:"request_id,omitempty"`
	Hint      string `json:"hint,omitempty"`
}

// Progress is where a running job is.
type Progress struct {
	Done  int64  `json:"done"`           // bytes of the stage
	Total int64  `json:"total"`          // 0 where nothing is counted
	Note  string `json:"note,omitempty"` // what it waits for, in the provider's word
}

// TimeLayout is that of the time, in UTC, with which the id of a job begins.
const TimeLayout = "20060102T150405Z"

// NewID makes the id of a job: the time, for people, and chance, for two at a
// time: 20261121T030000Z-<6 hex>.
func NewID() string {
	var b [3]byte
	rand.Read(b[:]) // never fails, as crypto/rand says
	return time.Now().UTC().Format(TimeLayout) + "-" + hex.EncodeToString(b[:])
}

// Finish ends the record with the result of the job.
func (r *Record) Finish(err error) {
	r.Ended = time.Now()
	r.Progress = nil
	if err == nil {
		if r.State == Running {
			r.State = Done
		}
		return
	}
	e := disk.AsError(err)
	r.State = Failed
	if e.Kind == disk.Cancelled || e.Kind == disk.Interrupted {
		r.State = Cancelled
	}
	r.Error = ErrorOf(err)
}

// ErrorOf is err as a record has it; nil for nil.
func ErrorOf(err error) *Error {
	if err == nil {
		return nil
	}
	e := disk.AsError(err)
	return &Error{Code: e.StableCode(), Kind: e.Kind.String(), Message: err.Error(), RequestID: e.RequestID, Hint: e.Hint}
}

// clone is a copy that shares nothing that either may change.
func (r *Record) clone() Record {
	c := *r
	c.Stages, c.Notes, c.Made = slices.Clone(r.Stages), slices.Clone(r.Notes), slices.Clone(r.Made)
	c.Disks, c.Companions = slices.Clone(r.Disks), slices.Clone(r.Companions)
	if r.Progress != nil {
		p := *r.Progress
		c.Progress = &p
	}
	return c
}
