// Command worker is what works in the sandboxes of the cleaner, and nothing else: in
// user-mode-linux a program takes the longer to start the larger it is, 0.9 s for all of
// chromogenic and 0.1 s for this. The Makefile builds it into the binary (tag "worker").
package main

import (
	"fmt"
	"os"

	"chromogenic/cleaner"
	"chromogenic/cleaner/guest"
)

func main() {
	if guest.Child(cleaner.Serve) {
		return
	}
	fmt.Fprintln(os.Stderr, "worker: it is for chromogenic's sandboxes")
	os.Exit(2)
}
