package faultfs

import (
	"path"
	"sync"
	"syscall"
	"time"
)

// An Op is a request of the kernel.
type Op string

// The operations that can go wrong.
const (
	Lookup   Op = "lookup"   // of a name
	Getattr  Op = "getattr"  // stat(2) and its like
	Open     Op = "open"     // of a file that is there
	Create   Op = "create"   // of a new one
	Read     Op = "read"     //
	Write    Op = "write"    //
	Truncate Op = "truncate" // to whatever size
	Setattr  Op = "setattr"  // of anything but the size
	Fsync    Op = "fsync"    // of a file
	Close    Op = "close"    // of a descriptor
	Rename   Op = "rename"   // File is the old name
	Unlink   Op = "unlink"   //
	Readdir  Op = "readdir"  //
	SyncDir  Op = "syncdir"  // fsync of the folder
)

// An Effect is how an operation goes wrong.
type Effect string

// The effects. Each but Slow and Hang is in the place of the operation.
const (
	Fail  Effect = "fail"  // it fails with Errno
	Short Effect = "short" // a read or write does half of what was asked for, and the next one goes on there
	End   Effect = "end"   // a read gives nothing, as at the end of a file
	Flip  Effect = "flip"  // one bit of the byte at From is wrong, be it read or written
	Lose  Effect = "lose"  // a write changes nothing and says that it did
	Slow  Effect = "slow"  // it takes Delay longer
	Hang  Effect = "hang"  // it does not answer until the fault is cleared, or the caller is killed
	Deaf  Effect = "deaf"  // it does not answer until the fault is cleared, whatever becomes of the caller
)

// A Fault says what goes wrong and when.
type Fault struct {
	Op     Op
	File   string        // pattern of path.Match for the file's name; empty is every file
	From   int64         // of a read or write: the first byte that it is about
	To     int64         // the first byte that it is not about any longer; 0 is the end
	Skip   int           // so many go well before the first that does not
	Times  int           // how many go wrong; 0 is all
	Effect Effect        //
	Errno  syscall.Errno // of Fail
	Delay  time.Duration // of Slow
}

// faults are those that are set. It is safe for concurrent use.
type faults struct {
	mu  sync.Mutex
	set []*active
}

// An active fault has been set, and is not cleared.
type active struct {
	Fault
	seen    int // operations that it is about
	hits    int // those that went wrong
	cleared chan struct{}
}

// add sets a fault and gives its number.
func (f *faults) add(x Fault) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set = append(f.set, &active{Fault: x, cleared: make(chan struct{})})
	return len(f.set) - 1
}

// clear ends all faults; what hangs goes on. Their numbers stay.
func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.set {
		select {
		case <-a.cleared:
		default:
			close(a.cleared)
		}
	}
}

// hits is how often a fault has struck.
func (f *faults) hits(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n < 0 || n >= len(f.set) {
		return 0
	}
	return f.set[n].hits
}

// match finds the fault of an operation on a file, of the bytes [off, end) where it
// has any. It counts.
func (f *faults) match(op Op, file string, off, end int64) *active {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.set {
		select {
		case <-a.cleared:
			continue
		default:
		}
		if ok, err := path.Match(a.File, file); a.Op != op || a.File != "" && (!ok || err != nil) {
			continue
		}
		if a.From > 0 && end <= a.From || a.To > 0 && off >= a.To {
			continue
		}
		if a.Effect == Flip && off > a.From {
			continue
		}
		a.seen++
		if a.seen <= a.Skip || a.Times > 0 && a.hits >= a.Times {
			continue
		}
		a.hits++
		return a
	}
	return nil
}
