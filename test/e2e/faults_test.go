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

// perFault is how many routes a fault meets where not all are asked for.
const perFault = 2

// cross plays every fault on every route, or on some of them: together the faults
// meet all routes.
func cross(t *testing.T, s *faultStage, faults []fault, routes []faultRoute) {
	next := 0
	for _, f := range faults {
		n := len(routes)
		if !full() {
			n = perFault
		}
		for range n {
			r := routes[next*7%len(routes)] // neighbours are alike
			if next++; f.notOf != nil && f.notOf(r) {
				continue
			}
			t.Run(f.name+"/"+r.name, func(t *testing.T) { s.newCase(t, f, r).play(t) })
		}
	}
}
