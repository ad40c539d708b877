package jobs

import (
	"context"
	"sync/atomic"
)

// A Job is one that runs. Its record is changed by one goroutine, through Note and
// Update; Progress may come from any.
type Job struct {
	jobs     *Jobs
	rec      *Record
	cancel   context.CancelCauseFunc
	progress atomic.Pointer[Progress]
	done     chan struct{}
}

// Note changes the record. The change is durable with the next Update.
func (j *Job) Note(change func(*Record)) {
	change(j.rec)
	j.show()
}

// Update changes the record, and the change is durable when it returns: what is
// noted as made can be made then.
func (j *Job) Update(change func(*Record)) error {
	change(j.rec)
	return j.jobs.write(j.show())
}

// show makes the record visible as it is now.
func (j *Job) show() *Record {
	c := j.rec.clone()
	j.jobs.mu.Lock()
	defer j.jobs.mu.Unlock()
	j.jobs.all[c.ID] = &c
	return &c
}

// Progress tells how far the present stage is; total 0 counts nothing.
func (j *Job) Progress(done, total int64) {
	j.progress.Store(&Progress{Done: done, Total: total})
}

// Waits tells what the job waits for, and gives where it is.
func (j *Job) Waits(note string) Progress {
	now := Progress{Note: note}
	if p := j.progress.Load(); p != nil {
		now.Done, now.Total = p.Done, p.Total
	}
	j.progress.Store(&now)
	return now
}

// End ends the job with its result. Its record is kept.
func (j *Job) End(err error) error {
	return j.leave(func(r *Record) {
		r.Finish(err)
		r.Made = nil
	})
}

// Pause ends the run of the job, which can be taken up again; why may be nil.
func (j *Job) Pause(why error) error {
	return j.leave(func(r *Record) {
		r.Finish(why)
		r.State = Interrupted
	})
}

func (j *Job) leave(change func(*Record)) error {
	err := j.Update(change)
	j.jobs.mu.Lock()
	delete(j.jobs.live, j.rec.ID)
	j.jobs.mu.Unlock()
	j.cancel(nil)
	close(j.done)
	return err
}
