package fs

import "sync"

// A workload is work that outlives its request, and that the end of the mount waits for.
// What begins later, of programs that have files open on a mount that is gone, runs
// beside that end.
type workload struct {
	mu    sync.Mutex
	ended bool
	group sync.WaitGroup
}

// Go runs f.
func (w *workload) Go(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		go f()
		return
	}
	w.group.Go(f)
}

// end waits for all that has begun until now.
func (w *workload) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.group.Wait()
}
