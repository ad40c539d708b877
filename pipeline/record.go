package pipeline

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// Progress is where a copy is.
type Progress struct {
	Stage       string // as in Record.Stages: "sending"
	Done, Total int64  // bytes of the stage; Total 0 where nothing is counted
}

// The outcomes of a Stage.
const (
	outcomeDone    = "done"
	outcomeNotDone = "not done" // nothing was asked for, or no such stage exists yet
	outcomeFailed  = "failed"
	outcomePlanned = "planned"
)

// A Stage is one step of a copy, in a record or in a plan.
type Stage struct {
	Name    string        `json:"name"`
	Outcome string        `json:"outcome"` // "done", "not done", "failed", "planned"
	Note    string        `json:"note,omitempty"`
	Took    time.Duration `json:"took_ns,omitempty"`
}

// The states of a Record.
const (
	stateRunning   = "running"
	stateDone      = "done"
	stateFailed    = "failed"
	stateCancelled = "cancelled"
	statePlanned   = "planned"
)

// recordSchema is the version of Record as JSON.
const recordSchema = 1

// A Record is what became of a copy.
type Record struct {
	Schema      int              `json:"schema"`
	ID          string           `json:"id"`    // 20261121T030000Z-<6 hex>
	State       string           `json:"state"` // "done", "failed", "cancelled", "planned"
	Source      string           `json:"source"`
	Destination string           `json:"destination"`
	Format      string           `json:"format,omitempty"` // of what is stored
	Unchanged   bool             `json:"unchanged"`        // the same disk was there already; nothing was sent
	Stages      []Stage          `json:"stages"`
	Bytes       int64            `json:"bytes"`        // to send, without holes
	VirtualSize int64            `json:"virtual_size"` // bytes, of the boot disk
	Scratch     int64            `json:"scratch"`      // bytes of scratch space needed
	BytesDigest string           `json:"bytes_digest,omitempty"`
	GuestDigest string           `json:"guest_digest,omitempty"`
	Cleaned     bool             `json:"cleaned"`
	Entry       *providers.Entry `json:"entry,omitempty"` // the image that is there now
	Error       *RecordError     `json:"error,omitempty"`
	Started     time.Time        `json:"started"`
	Ended       time.Time        `json:"ended"`
}

// A RecordError is why a copy failed.
type RecordError struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	RequestID string `json:"request_id,omitempty"`
	Hint      string `json:"hint,omitempty"`
}

// NewID makes the id of a job: the time, for people, and chance, for two at a
// time.
func NewID() string {
	var b [3]byte
	rand.Read(b[:]) // never fails, as crypto/rand says
	return time.Now().UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(b[:])
}

// finish ends the record of a copy.
func (r *Record) finish(err error) {
	r.Ended = time.Now()
	if err == nil {
		if r.State == stateRunning {
			r.State = stateDone
		}
		return
	}
	e := disk.AsError(err)
	r.State = stateFailed
	if e.Kind == disk.Cancelled || e.Kind == disk.Interrupted {
		r.State = stateCancelled
	}
	code := e.Code
	if code == "" {
		code = e.Kind.Code()
	}
	r.Error = &RecordError{Code: code, Message: err.Error(), RequestID: e.RequestID, Hint: e.Hint}
}
