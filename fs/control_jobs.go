package fs

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
)

// jobsName is the directory of jobs in .chromogenic: one directory for each, by
// its id.
const jobsName = "jobs"

// jobsDir lists the jobs, the newest last.
type jobsDir struct{ fixedDir }

var (
	_ gofuse.NodeLookuper       = (*jobsDir)(nil)
	_ gofuse.NodeOpendirHandler = (*jobsDir)(nil)
)

// Lookup finds a job by its id, which may be cut short.
func (d *jobsDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	rec, err := d.t.p.Jobs().Get(name)
	if err != nil {
		return nil, syscall.ENOENT
	}
	j := &jobDir{fixedDir{d.sub(rec.ID)}, rec.ID}
	return d.attach(ctx, j, j.path, out), 0
}

// OpendirHandle lists the ids.
func (d *jobsDir) OpendirHandle(context.Context, uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	var ids []string
	for _, rec := range d.t.p.Jobs().List() {
		ids = append(ids, rec.ID)
	}
	return d.listDir(d.subdirs(ids...)), 0, 0
}

// jobDir is one job.
type jobDir struct {
	fixedDir
	id string
}

var (
	_ gofuse.NodeLookuper       = (*jobDir)(nil)
	_ gofuse.NodeOpendirHandler = (*jobDir)(nil)
)

// files are what it holds. A job that has been forgotten meanwhile is empty.
func (d *jobDir) files() []controlText {
	of := func(text func(*jobs.Record) []byte) func() []byte {
		return func() []byte {
			rec, err := d.t.p.Jobs().Get(d.id)
			if err != nil {
				return nil
			}
			return text(&rec)
		}
	}
	return []controlText{
		{"error", of(jobError)},
		{"log", of(jobLog)},
		{"plan", of(jobPlan)},
		{"status", of(func(r *jobs.Record) []byte { return jsonText(r) })},
	}
}

// Lookup finds a file.
func (d *jobDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	return d.lookText(ctx, d.files(), name, out)
}

// OpendirHandle lists the files.
func (d *jobDir) OpendirHandle(context.Context, uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	return d.listDir(d.texts(d.files())), 0, 0
}

// jobError is why a job has failed, as the error xattr has it; empty for others.
func jobError(r *jobs.Record) []byte {
	e := r.Error
	if e == nil {
		return nil
	}
	f := failure{Code: e.Code, Op: "copy", Path: r.Destination, Message: e.Message, Hint: e.Hint, RequestID: e.RequestID}
	if r.Destination == "" { // a removal
		f.Op, f.Path = r.Stage, r.Source
	}
	return []byte(f.String() + "\n")
}

// jobLog is a line for each stage that was taken: when, how it ended, how long it
// took, and why; and one for each note, of what the user should know.
func jobLog(r *jobs.Record) []byte {
	var b bytes.Buffer
	for _, s := range r.Stages {
		at := "-"
		if !s.Started.IsZero() {
			at = s.Started.UTC().Format(time.RFC3339)
		}
		fields := []string{at, s.Name, s.Outcome, s.Took.Round(time.Millisecond).String()}
		if s.Note != "" {
			fields = append(fields, strings.ReplaceAll(s.Note, "\n", " "))
		}
		fmt.Fprintln(&b, strings.Join(fields, "\t"))
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "-\tnote\t-\t-\t%s\n", strings.ReplaceAll(note, "\n", " "))
	}
	return b.Bytes()
}

// jobPlan is a line for each stage, and what has become of it. A job that is taken
// up again takes all of them anew; what was sent is not sent twice.
func jobPlan(r *jobs.Record) []byte {
	stages := pipeline.StagesOf(r)
	at := slices.Index(stages, r.Stage)
	switch {
	case r.State == jobs.Done:
		at = len(stages)
	case r.State == jobs.Interrupted && r.Error == nil && !r.Ended.IsZero(): // paused where it was asked to
		at = slices.Index(stages, r.Until) + 1
	}
	var b bytes.Buffer
	for i, name := range stages {
		word := "left"
		switch {
		case i < at && r.Unchanged && !slices.ContainsFunc(r.Stages, func(s jobs.Stage) bool { return s.Name == name }):
			word = "not needed"
		case i < at:
			word = "done"
		case i == at && r.State == jobs.Running:
			word = "running"
		case i == at && r.State.Ended():
			word = string(r.State)
		}
		if name == r.Until {
			word += ", then it waits"
		}
		fmt.Fprintf(&b, "%s\t%s\n", name, word)
	}
	return b.Bytes()
}

// A runningJob is one of .chromogenic/status.
type runningJob struct {
	ID          string `json:"id"`
	Stage       string `json:"stage"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Done        int64  `json:"done"`           // bytes of the stage
	Total       int64  `json:"total"`          // 0 where nothing is counted
	Note        string `json:"note,omitempty"` // what it waits for
}

// running are the jobs that run in this process.
func (t *tree) running() []runningJob {
	out := []runningJob{}
	for _, rec := range t.p.Jobs().List() {
		if rec.State != jobs.Running {
			continue
		}
		j := runningJob{ID: rec.ID, Stage: rec.Stage, Source: rec.Source, Destination: rec.Destination}
		if rec.Progress != nil {
			j.Done, j.Total, j.Note = rec.Progress.Done, rec.Progress.Total, rec.Progress.Note
		}
		out = append(out, j)
	}
	return out
}
