package disktest

import (
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// inputTime is what a parser may take for one input of a fuzz test. The go
// command does not notice one that never comes back.
const inputTime = 10 * time.Second

// Within bounds t, which is one input of a fuzz test. The process ends with the
// stacks of all goroutines when it takes longer than 10 seconds; t fails when
// the memory of the process has ever been more than FUZZ_RSS MiB. Without that
// variable in the environment memory is not looked at.
func Within(t testing.TB) {
	timer := time.AfterFunc(inputTime, func() {
		debug.SetTraceback("all")
		panic("disktest: one input took longer than " + inputTime.String())
	})
	t.Cleanup(func() {
		timer.Stop()
		limit, err := strconv.ParseInt(os.Getenv("FUZZ_RSS"), 10, 64)
		if err != nil {
			return
		}
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		if u.Maxrss > limit<<10 { // getrusage(2) counts in KiB
			t.Errorf("the process has taken %d KiB of memory", u.Maxrss)
		}
	})
}
