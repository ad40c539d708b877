package disktest

import (
	"runtime/debug"
	"testing"
	"time"
)

// inputTime is what a parser may take for one input of a fuzz test. The go
// command does not notice one that never comes back.
const inputTime = 10 * time.Second

// Within ends the process with the stacks of all goroutines when t, which is one
// input of a fuzz test, takes longer than 10 seconds.
func Within(t testing.TB) {
	timer := time.AfterFunc(inputTime, func() {
		debug.SetTraceback("all")
		panic("disktest: one input took longer than " + inputTime.String())
	})
	t.Cleanup(func() { timer.Stop() })
}
