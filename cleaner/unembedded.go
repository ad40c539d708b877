//go:build !worker

package cleaner

// Worker is none: see embedded.go.
func Worker() []byte { return nil }
