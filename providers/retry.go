package providers

import (
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

// As makes an error that names a time one that backoff understands.
func (t *Transient) As(target any) bool {
	after, ok := target.(**backoff.RetryAfterError)
	if !ok || t.After <= 0 {
		return false
	}
	*after = &backoff.RetryAfterError{Duration: t.After}
	return true
}

// How long a failing call is tried, and the pauses between: doubled each time, with
// jitter, so that many that failed together do not come back together.
const (
	retryBudget   = 20 * time.Second
	retryInterval = 200 * time.Millisecond
	retryMost     = 5 * time.Second
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
// last try.
func (r *Retry) Do(ctx context.Context, op func(context.Context) error) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = retryInterval, retryMost
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		return struct{}{}, r.once(ctx, op)
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(r.budget))
	if t := (*Transient)(nil); errors.As(err, &t) {
		return t.Err
	}
	return err
}

// once is one try, when it is its turn.
func (r *Retry) once(ctx context.Context, op func(context.Context) error) error {
	if err := r.limit.acquire(ctx); err != nil {
		return backoff.Permanent(err)
	}
	var t *Transient
	err := op(ctx)
	errors.As(err, &t)
	r.limit.release(t != nil && t.Throttled)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return backoff.Permanent(context.Cause(ctx))
	case t == nil:
		return backoff.Permanent(err)
	}
	return err
}
