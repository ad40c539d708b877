//go:build !race

package e2e

const raceBuilt = false
