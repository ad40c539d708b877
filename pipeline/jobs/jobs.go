package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/bbolt"

	"chromogenic/disk"
	"chromogenic/pipeline/store"
)

// bucket holds the record of each job, as JSON by id.
const bucket = "jobs"

// kept is how many jobs that have ended are remembered.
const kept = 1000

// Jobs are those that run in this process and the records of all others. It is
// safe for concurrent use.
type Jobs struct {
	db *store.DB // nil remembers nothing beyond the process

	mu   sync.Mutex
	all  map[string]*Record // in memory as in the database
	live map[string]*Job
}

// Open reads the records of a database; those that an earlier process has left
// running are interrupted now. A nil database remembers nothing beyond the
// process.
func Open(db *store.DB) (*Jobs, error) {
	j := &Jobs{db: db, all: map[string]*Record{}, live: map[string]*Job{}}
	if db == nil {
		return j, nil
	}
	err := db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.ForEach(func(_, val []byte) error {
			var r Record
			// One that cannot be read was written by a newer program: it stays there.
			if json.Unmarshal(val, &r) == nil && r.Schema == Schema {
				j.all[r.ID] = &r
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("open jobs: %w", err)
	}
	for _, r := range j.all {
		if r.State == Running || r.State == Queued {
			r.State = Interrupted
			if err := j.write(r); err != nil {
				return nil, err
			}
		}
	}
	return j, nil
}

// write makes a record durable.
func (j *Jobs) write(r *Record) error {
	if j.db == nil {
		return nil
	}
	val, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode job %s: %w", r.ID, err)
	}
	err = j.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(r.ID), val) })
	if err != nil {
		return fmt.Errorf("keep job %s: %w", r.ID, err)
	}
	return nil
}

// Begin starts a job. Its record is kept from now on, and again at each Update;
// the context that it returns ends with ctx, or when the job is cancelled. The id
// of a job that was interrupted takes it up again.
func (j *Jobs) Begin(ctx context.Context, r *Record) (*Job, context.Context, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.live[r.ID] != nil {
		return nil, nil, disk.Errorf(disk.Busy, "begin job %s: it is running", r.ID)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	job := &Job{jobs: j, rec: r, cancel: cancel, done: make(chan struct{})}
	kept := r.clone()
	if err := j.write(&kept); err != nil {
		cancel(nil)
		return nil, nil, err
	}
	j.all[r.ID], j.live[r.ID] = &kept, job
	j.prune()
	return job, ctx, nil
}

// prune forgets the oldest of those that have ended. A failure to remove one from
// the database is met again at the next start.
func (j *Jobs) prune() {
	var ended []*Record
	for _, r := range j.all {
		if r.State.Ended() && j.live[r.ID] == nil {
			ended = append(ended, r)
		}
	}
	if len(ended) <= kept {
		return
	}
	slices.SortFunc(ended, oldest)
	for _, r := range ended[:len(ended)-kept] {
		delete(j.all, r.ID)
		if j.db != nil {
			_ = j.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Delete([]byte(r.ID)) })
		}
	}
}

func oldest(a, b *Record) int {
	return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.ID, b.ID))
}

// List gives all records as they are now, the oldest first.
func (j *Jobs) List() []Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []Record
	for _, r := range slices.SortedFunc(maps.Values(j.all), oldest) {
		out = append(out, j.now(r))
	}
	return out
}

// Get gives the record of a job as it is now. The id may be cut short, as long as
// it is the only one that begins so.
func (j *Jobs) Get(id string) (Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, err := j.find(id)
	if err != nil {
		return Record{}, err
	}
	return j.now(r), nil
}

func (j *Jobs) find(id string) (*Record, error) {
	if r := j.all[id]; r != nil {
		return r, nil
	}
	var found *Record
	for have, r := range j.all {
		// People read the end of an id, the part that differs.
		if id != "" && (strings.HasPrefix(have, id) || strings.HasSuffix(have, "-"+id)) {
			if found != nil {
				return nil, disk.Errorf(disk.Invalid, "find job %q: several are called so", id)
			}
			found = r
		}
	}
	if found == nil {
		return nil, disk.Hint(disk.Errorf(disk.NotFound, "find job %q: there is none", id), "chromogenic jobs list shows all")
	}
	return found, nil
}

// now is a record with the progress of the job, if it runs.
func (j *Jobs) now(r *Record) Record {
	c := r.clone()
	if job := j.live[r.ID]; job != nil {
		c.Progress = job.progress.Load()
	}
	return c
}

// running gives the whole id of a job, and the job itself if it runs.
func (j *Jobs) running(id string) (string, *Job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, err := j.find(id)
	if err != nil {
		return "", nil, err
	}
	return r.ID, j.live[r.ID], nil
}

// Cancel ends a job that runs. It returns when what the job had made is gone, or
// with ctx.
func (j *Jobs) Cancel(ctx context.Context, id string) (Record, error) {
	id, job, err := j.running(id)
	if err != nil {
		return Record{}, err
	}
	if job != nil {
		job.cancel(disk.Errorf(disk.Cancelled, "job %s was cancelled", id))
	}
	return j.Wait(ctx, id)
}

// Wait returns when a job does not run any longer, with its record.
func (j *Jobs) Wait(ctx context.Context, id string) (Record, error) {
	id, job, err := j.running(id)
	if err != nil {
		return Record{}, err
	}
	if job != nil {
		select {
		case <-job.done:
		case <-ctx.Done():
			return Record{}, fmt.Errorf("wait for job %s: %w", id, ctx.Err())
		}
	}
	return j.Get(id)
}

// Change changes the record of a job that does not run, and keeps it.
func (j *Jobs) Change(id string, change func(*Record)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.all[id]
	if r == nil || j.live[id] != nil {
		return disk.Errorf(disk.Busy, "change job %s: it is running, or there is none", id)
	}
	c := r.clone()
	change(&c)
	if err := j.write(&c); err != nil {
		return err
	}
	j.all[id] = &c
	return nil
}

// Running is the number of jobs that run in this process.
func (j *Jobs) Running() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.live)
}
