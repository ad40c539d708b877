package jobs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"chromogenic/disk"
	"chromogenic/pipeline/store"
)

// open opens jobs over a database in dir; the function closes it as a crash would.
func open(t *testing.T, dir string) (*Jobs, func()) {
	t.Helper()
	db, err := store.Open(filepath.Join(dir, "state.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	j, err := Open(db)
	if err != nil {
		t.Fatal(err)
	}
	crash := func() { db.Close() }
	t.Cleanup(crash)
	return j, crash
}

func begin(t *testing.T, j *Jobs, r *Record) (*Job, context.Context) {
	t.Helper()
	job, ctx, err := j.Begin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return job, ctx
}

func record() *Record {
	return &Record{Schema: Schema, ID: NewID(), State: Running, Source: "a:images/web", Destination: "b:images/web", Started: time.Now()}
}

func TestCrashLeavesANote(t *testing.T) {
	dir := t.TempDir()
	j, crash := open(t, dir)
	r := record()
	job, _ := begin(t, j, r)
	if err := job.Update(func(r *Record) { r.Made = append(r.Made, Made{What: "upload", Site: "b", Token: []byte("part")}) }); err != nil {
		t.Fatal(err)
	}
	job.Note(func(r *Record) { r.Stage = "send" })
	crash()

	j, _ = open(t, dir)
	got, err := j.Get(r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.State != Interrupted || len(got.Made) != 1 || string(got.Made[0].Token) != "part" {
		t.Errorf("after a crash the record is %+v", got)
	}
	// It is taken up under the same id.
	again := got
	again.State = Running
	job, _ = begin(t, j, &again)
	if err := job.End(nil); err != nil {
		t.Fatal(err)
	}
	if got, err = j.Get(r.ID); err != nil || got.State != Done || len(got.Made) != 0 || got.Ended.IsZero() {
		t.Errorf("at the end the record is %+v, %v", got, err)
	}
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*Job) error
		want State
		made int
	}{
		{"done", func(j *Job) error { return j.End(nil) }, Done, 0},
		{"failed", func(j *Job) error { return j.End(disk.Errorf(disk.NoSpace, "full")) }, Failed, 0},
		{"cancelled", func(j *Job) error { return j.End(context.Canceled) }, Cancelled, 0},
		{"paused", func(j *Job) error { return j.Pause(nil) }, Interrupted, 1},
		{"suspended", func(j *Job) error { return j.Pause(disk.Errorf(disk.Cancelled, "ending")) }, Interrupted, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			j, _ := open(t, t.TempDir())
			r := record()
			job, _ := begin(t, j, r)
			job.Note(func(r *Record) { r.Made = append(r.Made, Made{What: "spool"}) })
			job.Progress(1, 2)
			if now := j.List(); len(now) != 1 || now[0].Progress == nil || now[0].Progress.Done != 1 {
				t.Errorf("while it runs: %+v", now)
			}
			if err := c.end(job); err != nil {
				t.Fatal(err)
			}
			got, err := j.Wait(t.Context(), r.ID)
			if err != nil || got.State != c.want || len(got.Made) != c.made || got.Progress != nil {
				t.Errorf("got %+v, %v", got, err)
			}
			if (c.want == Failed) != (got.Error != nil && got.Error.Code == "CHR-0009" && got.Error.Kind == "no-space") {
				t.Errorf("error is %+v", got.Error)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	j, _ := open(t, t.TempDir())
	r := record()
	job, ctx := begin(t, j, r)
	if _, _, err := j.Begin(t.Context(), r); disk.KindOf(err) != disk.Busy {
		t.Errorf("a second run: %v", err)
	}
	go func() {
		<-ctx.Done()
		_ = job.End(context.Cause(ctx))
	}()
	got, err := j.Cancel(t.Context(), r.ID)
	if err != nil || got.State != Cancelled || !strings.Contains(got.Error.Message, "was cancelled") {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err = j.Cancel(t.Context(), r.ID); err != nil || got.State != Cancelled {
		t.Errorf("cancelled twice: %+v, %v", got, err)
	}
}

func TestFind(t *testing.T) {
	j, _ := open(t, t.TempDir())
	for _, id := range []string{"20261121T030000Z-abcdef", "20261121T030000Z-123456"} {
		r := record()
		r.ID = id
		job, _ := begin(t, j, r)
		if err := job.End(nil); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string]disk.Kind{
		"20261121T030000Z-abcdef": disk.Other, "abcdef": disk.Other, "20261121T030000Z-a": disk.Other,
		"20261121": disk.Invalid, "fedcba": disk.NotFound, "": disk.NotFound,
	} {
		r, err := j.Get(id)
		if want == disk.Other && (err != nil || r.ID != "20261121T030000Z-abcdef") || want != disk.Other && disk.KindOf(err) != want {
			t.Errorf("Get(%q) is %s, %v", id, r.ID, err)
		}
	}
}

func TestForgetsTheOldest(t *testing.T) {
	j, err := Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for i := range kept + 5 {
		r := record()
		r.ID, r.Started = fmt.Sprintf("job-%06d", i), start.Add(time.Duration(i)*time.Second)
		job, _ := begin(t, j, r)
		if i == 0 {
			err = job.Pause(nil) // waits for its owner, however long
		} else {
			err = job.End(nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	all := j.List()
	if all[0].ID != "job-000000" || len(all) > kept+2 {
		t.Errorf("%d records, the first is %s", len(all), all[0].ID)
	}
}

func TestUnknownRecordsStay(t *testing.T) {
	dir := t.TempDir()
	_, crash := open(t, dir)
	crash()
	db, err := store.Open(filepath.Join(dir, "state.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	put := func(tx *bbolt.Tx) error {
		return errors.Join(tx.Bucket([]byte(bucket)).Put([]byte("new"), []byte(`{"schema": 99}`)), tx.Bucket([]byte(bucket)).Put([]byte("odd"), []byte("{")))
	}
	if err := db.Update(put); err != nil {
		t.Fatal(err)
	}
	db.Close()
	j, _ := open(t, dir)
	if got := j.List(); len(got) != 0 {
		t.Errorf("listed %+v", got)
	}
	if err := j.db.View(func(tx *bbolt.Tx) error {
		if tx.Bucket([]byte(bucket)).Get([]byte("new")) == nil {
			return errors.New("the record of a newer program is gone")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
