package e2e

import (
	"testing"
)

// TestSourceFaults lets the disk of an image fail in every way of the table while
// it is read on every route.
func TestSourceFaults(t *testing.T) {
	t.Parallel()
	s := newFaultStage(t, faultImages(t))
	cross(t, s, sourceFaults(), sourceRoutes())
}

// TestDestinationFaults lets the disk fail to which an image is written.
func TestDestinationFaults(t *testing.T) {
	t.Parallel()
	s := newFaultStage(t, faultImages(t))
	cross(t, s, destinationFaults(), destinationRoutes())
}

// cross plays every fault on every route, or on one of them, each on another.
func cross(t *testing.T, s *faultStage, faults []fault, routes []faultRoute) {
	next, stride := 0, 7 // neighbours are alike
	for _, f := range faults {
		left := 1
		if full() {
			left, stride = len(routes), 1
		}
		for range routes {
			if left == 0 {
				break
			}
			r := routes[next*stride%len(routes)]
			next++
			if f.notOf != nil && f.notOf(r) {
				continue
			}
			left--
			t.Run(f.name+"/"+r.name, func(t *testing.T) { s.newCase(t, f, r).play(t) })
		}
	}
}
