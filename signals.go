package main

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"chromogenic/disk"
)

// How long a process that was told to end may take. It needs a moment, to remove
// what it has made; a disk that does not answer must not keep it for ever. What is
// left then is that of a process that was killed.
const (
	commandTime = 10 * time.Second
	mountTime   = 40 * time.Second // it waits for programs, jobs and files
)

// untilSignal is a context that ends with errInterrupted at the first SIGINT,
// SIGTERM or SIGHUP: a closed terminal too must leave nothing half made. The
// second one ends the process as if nobody caught it, and so does commandTime. A
// mount takes SIGHUP to refresh, see servesMount.
func untilSignal(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	end := make(chan os.Signal, 1)
	e := &ending{hangup: make(chan os.Signal, 1)}
	e.grace.Store(int64(commandTime))
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	signal.Notify(e.hangup, syscall.SIGHUP)
	ctx = context.WithValue(ctx, endingKey{}, e)
	go func() {
		select {
		case <-end:
		case <-e.hangup:
		case <-ctx.Done():
			return
		}
		cancel(errInterrupted)
		signal.Stop(end)
		signal.Stop(e.hangup)
		time.Sleep(time.Duration(e.grace.Load()))
		complain(os.Stderr, disk.Errorf(disk.Interrupted, "interrupted, and left: something does not answer"))
		os.Exit(exitInterrupted)
	}()
	return ctx, func() { cancel(nil) }
}

// An ending is how a process ends that is told to.
type ending struct {
	hangup chan os.Signal
	grace  atomic.Int64 // nanoseconds
}

// endingKey is the key of the ending in a context of untilSignal.
type endingKey struct{}

// servesMount lets a context of untilSignal outlive SIGHUP, and end as a mount does.
func servesMount(ctx context.Context) {
	if e, ok := ctx.Value(endingKey{}).(*ending); ok {
		signal.Stop(e.hangup)
		e.grace.Store(int64(mountTime))
	}
}
