package providers

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// A Transient is an error of a cloud that another try may not meet.
type Transient struct {
	Err       error
	After     time.Duration // what the cloud asks to wait (Retry-After); 0 is for us to choose
	Throttled bool          // the cloud has more to do than it can: fewer requests at a time
}

func (t *Transient) Error() string { return t.Err.Error() }

// Unwrap returns the cause.
func (t *Transient) Unwrap() error { return t.Err }

// How long a failing call is tried, and the pauses between: doubled each time, with
// jitter, so that many that failed together do not come back together.
const (
	retryBudget   = 20 * time.Second
	retryInterval = 200 * time.Millisecond
	retryMost     = 5 * time.Second
	retryPatience = time.Minute // with a cloud that says how long to wait
)

// A Retry is the one place where calls to a cloud are tried again: no client below
// it does so on its own. It also holds how many run at a time: a throttled call
// halves that, calls that succeed raise it again, one by one. It is safe for
// concurrent use.
type Retry struct {
	budget time.Duration
	limit  *limit
}

// NewRetry allows at most parallel calls at a time; budget is how long a call may go
// on failing, 0 for 20 s.
func NewRetry(budget time.Duration, parallel int) *Retry {
	if budget == 0 {
		budget = retryBudget
	}
	return &Retry{budget: budget, limit: newLimit(parallel)}
}

// Do calls op until it does not fail with a Transient any longer, the next try would
// begin after the end of the budget, or the context ends. The error is that of the
// last try. The budget begins with the first failure, which may have taken long itself,
// and allows a second try in any case, unless the cloud asks to wait for more than a
// minute.
func (r *Retry) Do(ctx context.Context, op func(context.Context) error) error {
	return r.repeat(ctx, func(ctx context.Context) error {
		if err := r.limit.acquire(ctx); err != nil {
			return err
		}
		err := op(ctx)
		r.limit.release(throttled(err))
		return err
	})
}

// Long is Do for a call that takes long, and that may need others to end before it does,
// as an upload whose source is read meanwhile: it is none of those that run at a time.
func (r *Retry) Long(ctx context.Context, op func(context.Context) error) error {
	return r.repeat(ctx, func(ctx context.Context) error {
		err := op(ctx)
		if throttled(err) {
			r.limit.lower()
		}
		return err
	})
}

func (r *Retry) repeat(ctx context.Context, op func(context.Context) error) error {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = retryInterval, retryMost
	for first := (time.Time{}); ; {
		err := op(ctx)
		var t *Transient
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.As(err, &t):
			return err
		}
		wait := cmp.Or(t.After, pauses.NextBackOff())
		again := !first.IsZero()
		if !again {
			first = time.Now()
		}
		if wait > retryPatience || again && time.Since(first)+wait > r.budget {
			return t.Err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// throttled tells whether a cloud has more to do than it can.
func throttled(err error) bool {
	var t *Transient
	return errors.As(err, &t) && t.Throttled
}
