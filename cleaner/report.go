package cleaner

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Report tells what a run has done, or what a plan would do.
type Report struct {
	Plan        bool      `json:"plan,omitempty"` // nothing was written
	OS          OS        `json:"os"`
	Provisioner string    `json:"provisioner,omitempty"` // what brings a login at the first boot: "cloud-init"; empty: nothing was found
	Users       []string  `json:"users,omitempty"`       // accounts that were removed
	Operations  []Outcome `json:"operations"`            // all of the table, in its order
	Warnings    []string  `json:"warnings,omitempty"`    // a sentence each
}

// Files and bytes of all operations.
func (r Report) Totals() (files, bytes int64) {
	for _, o := range r.Operations {
		files, bytes = files+o.Files, bytes+o.Bytes
	}
	return files, bytes
}

// What became of an operation.
const (
	Done    = "done"
	Nothing = "nothing" // it ran, and there was nothing to do
	Skipped = "skipped" // it was not asked for
	Failed  = "failed"
)

// An Outcome is what one operation has done.
type Outcome struct {
	Name    string        `json:"name"`
	Outcome string        `json:"outcome"` // Done, Nothing, Skipped or Failed
	Files   int64         `json:"files,omitempty"`
	Bytes   int64         `json:"bytes,omitempty"` // of content that is no longer there
	Paths   []PathOutcome `json:"paths,omitempty"` // in order; maxPaths at most
	More    int64         `json:"more,omitempty"`  // paths that are not among Paths
	Error   string        `json:"error,omitempty"` // PATH: cause
}

// A PathOutcome is what was done to one path. Of a folder that was removed, files and
// bytes are of all that was in it.
type PathOutcome struct {
	Path   string `json:"path"`   // in the guest; quoted as Go does where it has bytes that are not printed
	Action string `json:"action"` // "removed", "truncated", "edited", "written", "made", "linked", "changed", "zeroed", "found"
	Files  int64  `json:"files,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
}

const (
	maxPaths    = 200 // of one operation in a report
	maxWarnings = 200 // of a report
)

// did notes what was done to a path.
func (g *Guest) did(p, action string, files, bytes int64) {
	g.forget(p)
	o := g.outcome
	o.Files, o.Bytes = o.Files+files, o.Bytes+bytes
	if len(o.Paths) < maxPaths {
		o.Paths = append(o.Paths, PathOutcome{Path: show(p), Action: action, Files: files, Bytes: bytes})
	} else {
		o.More++
	}
}

// warn notes what somebody should know who uses the image.
func (g *Guest) warn(format string, args ...any) {
	switch n := len(g.report.Warnings); {
	case n < maxWarnings:
		if w := fmt.Sprintf(format, args...); !slices.Contains(g.report.Warnings, w) {
			g.report.Warnings = append(g.report.Warnings, w)
		}
	case n == maxWarnings:
		g.report.Warnings = append(g.report.Warnings, "there are more warnings than are kept")
	}
}

func (o *Outcome) conclude(err error) {
	slices.SortFunc(o.Paths, func(a, b PathOutcome) int { return strings.Compare(a.Path, b.Path) })
	switch {
	case err != nil:
		o.Outcome, o.Error = Failed, err.Error()
	case len(o.Paths) > 0:
		o.Outcome = Done
	default:
		o.Outcome = Nothing
	}
}

// show is a guest's path for people and JSON: a name can have a newline, or bytes that
// are no text.
func show(p string) string {
	if q := strconv.Quote(p); len(q) != len(p)+2 {
		return q
	}
	return p
}
