package control

import (
	"errors"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
)

// A line is one of a stream. The last has a record or an error, or both.
type line struct {
	Progress *progress    `json:"progress,omitempty"`
	Record   *jobs.Record `json:"record,omitempty"`
	Error    *jobs.Error  `json:"error,omitempty"`
}

// progress is pipeline.Progress as JSON.
type progress struct {
	Stage string `json:"stage"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Note  string `json:"note,omitempty"`
}

// leftovers is the answer to gc: what is found, and why there may be more.
type leftovers struct {
	Leftovers []pipeline.Leftover `json:"leftovers"`
	Error     *jobs.Error         `json:"error,omitempty"`
}

// A charge is what a command is going to read.
type charge struct {
	Site  string `json:"site"`
	Bytes int64  `json:"bytes"`
	Over  bool   `json:"over,omitempty"`
}

// granted is what it may read for that.
type granted struct {
	Bytes int64 `json:"bytes"`
}

// A failed answer holds an error alone.
type failed struct {
	Error *jobs.Error `json:"error"`
}

// Err is the error that a record holds, or that was sent; nil for nil. A kind
// that this program does not know is Other.
func Err(e *jobs.Error) error {
	if e == nil {
		return nil
	}
	kind := disk.Other
	for _, k := range disk.Kinds() {
		if k.Name == e.Kind {
			kind = k.Kind
		}
	}
	return &disk.Error{Kind: kind, Code: e.Code, RequestID: e.RequestID, Hint: e.Hint, Err: errors.New(e.Message)}
}
