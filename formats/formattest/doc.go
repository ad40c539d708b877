// Package formattest judges all readers and writers of package formats together,
// on disks as they are: partitioned, with filesystems that mkfs made, dense,
// sparse, empty, and of awkward sizes.
//
// Disks makes the disks. Matrix wraps each in every container, by qemu-img where
// it can and by ourselves, opens the container by its row of the table, lays the
// disk out in every format, and asks qemu-img and our own reader whether what
// came out is what went in.
package formattest
