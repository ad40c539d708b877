package fs

import (
	"sync"
	"time"
)

// A program that removes many images has listed the directory before. There each
// image has several names, all of which are gone with the first that it removes; what
// it does with the others must not meet an image that has come under the name since.
// And one that syncs directories means names, not images: the image goes with the
// last of them. So what a program removes is remembered for a while.

// spreeTime is how long after its last removal a program goes on with the names that
// it has listed.
const spreeTime = 30 * time.Second

// sprees are those of all programs. The zero value has none.
type sprees struct {
	mu sync.Mutex
	by map[process]*spree
}

// A spree is what one program removes.
type spree struct {
	all    *sprees
	last   time.Time // under all.mu
	mu     sync.Mutex
	images map[string]*removal // by the path of an image without its extension
}

// A removal is what a program has done to an image.
type removal struct {
	names []string // formats under which it has removed it
	gone  bool     // the image: what has the name now is another
}

// of gives the spree of a program, for itself alone until done is called.
func (a *sprees) of(by process) *spree {
	a.mu.Lock()
	for other, s := range a.by {
		if time.Since(s.last) > spreeTime {
			delete(a.by, other)
		}
	}
	s := a.by[by]
	if s == nil {
		s = &spree{all: a, images: map[string]*removal{}}
		if a.by == nil {
			a.by = map[process]*spree{}
		}
		a.by[by] = s
	}
	s.last = time.Now()
	a.mu.Unlock()
	s.mu.Lock()
	return s
}

func (s *spree) done() {
	s.mu.Unlock()
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.last = time.Now()
}

// image is what the program has done to the image of a path.
func (s *spree) image(path string) *removal {
	if s.images[path] == nil {
		s.images[path] = &removal{}
	}
	return s.images[path]
}
