package cleaner

// randomSeed removes seeds of the random number generator, and the keys that are made
// once for a machine: two machines with one seed draw the same keys.
func randomSeed(g *Guest) error {
	return g.remove(
		"/var/lib/systemd/random-seed", "/var/lib/random-seed", "/var/lib/urandom/random-seed", "/var/lib/misc/random-seed", "/var/run/random-seed", "/etc/random-seed", "/var/db/entropy-file", "/var/db/entropy/*", "/var/lib/seedrng/*", "/var/lib/jitterentropy/*", "/var/lib/pollinate/*", "/var/cache/pollinate/*",
		"/boot/loader/random-seed", "/boot/efi/loader/random-seed", "/efi/loader/random-seed", "/boot/random-seed",
		"/var/lib/systemd/credential.secret", "/var/lib/systemd/tpm2-srk-public-key.*", "/var/lib/systemd/nvpcr/*",
	)
}
