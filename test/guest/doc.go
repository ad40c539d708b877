// Package guest tests the cleaner with whole machines: Debian as its own tools install
// it, on a disk with a boot loader, full of what its owner would not give away. It is
// cleaned by the command, searched, and booted.
//
// Building one takes minutes and root, so these tests are of make test-full, and of make
// bench.
package guest
