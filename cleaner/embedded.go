//go:build worker

package cleaner

import _ "embed"

// Worker is the program that a guest.Run is to use: that of cleaner/worker, which starts
// faster than the whole. It is nil where the Makefile has not built it in, and the whole
// does the same.
func Worker() []byte { return worker }

//go:embed worker/worker
var worker []byte
