// Package qcow2 reads images of QEMU's qcow2 format, versions 2 and 3, and lays
// them out.
//
// "The spec" in comments is docs/interop/qcow2.txt of the QEMU sources, with the
// name of the section where it helps. Where the spec leaves something open, the
// reader does what QEMU does for an image that it opens read-only.
//
// # Reading
//
// Open reads the header and every L1 and L2 table once, with little memory, and
// checks all that they say: an offset outside the file, two structures in one
// place, or a byte of the disk that a cut-off file no longer holds is refused
// there, not met in the middle of a copy. Refcounts, snapshots and bitmaps are
// not needed to read the disk, so the dirty and the corrupt bit do not matter.
// The disk has the size that the header says, to the byte; QEMU drops what does
// not fill a sector.
//
// The bytes name no file that is opened: a backing file is what the caller
// supplies or nothing, and an external data file is refused.
//
// # Memory
//
// An open image keeps its L1 table (8 bytes for each 512 MiB at 64 KiB clusters)
// and grows, when it is read, to at most 2 MiB of L2 tables and 8 MiB of
// decompressed clusters, for an image that has such.
package qcow2
