// Package faultfs is a file system with faults, for tests: it shows a folder, and
// at a command reads fail, files end too early, bytes are wrong, writes are lost or
// nothing answers any more. What asks it is a real program on a real kernel, so
// nothing need be built into the program under test.
//
// It runs as a process of its own, which a test starts (Start) and tells what goes
// wrong (Mount.Set). Its process may die as a disk does that is unplugged
// (Mount.Kill). When the test dies, it ends.
package faultfs
