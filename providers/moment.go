package providers

import (
	"context"
	"time"
)

// Moment is a whole second that no other capture of the instance and name has: that of
// now, or the next that is free. Captures lists those that there are.
func Moment(ctx context.Context, instance, name string, captures func(context.Context) ([]Entry, error)) (time.Time, error) {
	for {
		now := time.Now().UTC().Truncate(time.Second)
		all, err := captures(ctx)
		if err != nil {
			return now, err
		}
		last := time.Time{}
		for _, e := range all {
			if e.Capture.Of == instance && e.Name == name && e.Capture.Taken.After(last) {
				last = e.Capture.Taken
			}
		}
		if last.Before(now) {
			return now, nil
		}
		select {
		case <-time.After(min(time.Until(last.Add(time.Second)), time.Minute)):
		case <-ctx.Done():
			return now, context.Cause(ctx)
		}
	}
}
