// Package guest reaches the filesystems inside a disk: it finds the partitions and
// the root filesystem, mounts what belongs together where no host file and no host
// kernel can be reached by it, lets work be done on the tree, and leaves the disk
// checked, with nothing of what was deleted in its free blocks.
//
// # Ways
//
// A disk is foreign, and a filesystem is a program for the driver that mounts it. So
// the host's kernel does not, unless it is told to:
//
//	uml      a kernel of its own (user-mode-linux) boots with one of our programs as its
//	         only process and the partitions as its disks: ext2, ext3, ext4, xfs,
//	         btrfs, and vfat where its modules are installed. No right is needed.
//	fuse2fs  a program mounts ext2, ext3 and ext4. Users other than root need
//	         newuidmap and lines in /etc/subuid and /etc/subgid, for owners to stay.
//	loop     the host's kernel mounts what it has drivers for: for root, and images
//	         that are trusted.
//
// Available tells which of them work, and what the others lack.
//
// # The sandbox
//
// Whatever the way, it is in namespaces of its own (user, mount, process, network, IPC,
// host name), whose root is an empty tmpfs with the host's programs to read, and
// /dev/fuse. Of root the ids are some that nobody has. The first process there is a program
// whose main calls Child before anything else: Options.Program, which is small and starts
// fast, or the caller's own again. Programs that need no right have none. All of it ends
// with its first process, that with the caller, and a run with its context or after
// Options.Timeout.
//
//	caller            sandbox                        user-mode-linux
//	Run ── socket ──> mounts, starts ──────────────> boots
//	 │                e2fsck -p ─────────── line ──> mount, Work, trim, unmount
//	scrub, socket ──> mounts, e2fsck -n
//	 │
//	 └─ FUSE: a file for each partition; holes that are punched, and zeros, are discards
//
// The sandbox opens /dev/fuse, mounts it where nobody else sees it, and hands the device
// to the caller, who answers. Orders, replies and facts are messages of bounded size;
// nothing is shared.
//
// # Nothing stays
//
// What is deleted is to be nowhere in the bytes of the disk. After the work
//
//   - of ext2, ext3 and ext4, unmounted and checked, free blocks and inodes, the journal,
//     what files have behind their ends or never wrote to, and the gaps between names
//     are zeroed (ext_scrub.go);
//   - of xfs free blocks, those that each group keeps ready, and the log (xfs.go,
//     xfs_log.go);
//   - of btrfs, mounted, files that show only a part of an extent are rewritten, for the
//     rest would stay, and free space is trimmed (btrfs.go); metadata is never
//     overwritten, and so is trimmed with it;
//   - of vfat free clusters are trimmed;
//   - swap space keeps its header alone, swap files too;
//   - what lies between partitions, and in a partition behind its filesystem, is
//     discarded. The first MiB of an MBR disk stays, for boot loaders live there.
//
// All become holes of the disk. Then each filesystem is checked again, and one that is
// not clean fails the run. What remains: names and short links in free space within
// folders and inodes of xfs and of vfat, and the blocks of bigalloc ext4 that share a
// cluster with a file.
//
// # What is not done
//
// LUKS, LVM, RAID, Windows, and filesystems without a driver are named in Facts with the
// reason, and their bytes stay as they are.
package guest
