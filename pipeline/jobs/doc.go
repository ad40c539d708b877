// Package jobs remembers what was asked for and what became of it: one Record
// for each copy and capture, in the database of the state directory, so that a
// crash leaves a note of what was half made and of how to go on.
package jobs
