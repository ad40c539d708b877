// Package e2e tests chromogenic from outside: the binary, a real mount, and the
// programs that people copy and back up with. It imports nothing of the module.
//
// The tests need /dev/fuse and the right to mount. With CI set in the
// environment a missing tool fails a test; otherwise it skips it, loudly.
// E2E_RACE=1, or a test binary built with -race, builds the server with the
// race detector.
package e2e
