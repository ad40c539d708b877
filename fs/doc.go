// Package fs is the mount: files and directories over the pipeline. It knows
// names and errnos, no cloud, and nothing of what is inside a format.
//
// This is its manual: what every operation on a file means.
//
// # The tree
//
//	PROVIDER/images/NAME.FMT          an image in a format; raw, qcow2, vmdk and ova are listed
//	PROVIDER/images/NAME.iso          an image that is an ISO: as it is, and in no other format
//	PROVIDER/images/NAME.json         its metadata, listed too (docs/image.schema.json)
//	PROVIDER/images/NAME.kernel       what it boots with, where it has such a file; NAME.ramdisk
//	PROVIDER/images/NAME.disks/       the data disks of a machine that has some, listed too
//	    N-DEVICE.FMT                  one of them; 1 is the second disk of the machine
//	PROVIDER/images/by-id/ID.FMT      a symlink to the named file; resolves, is not listed
//	PROVIDER/images.verbatim/         the same images; what is copied in is never cleaned
//	PROVIDER/images.cleaned/          the same images, cleaned; what is copied in is cleaned too
//	PROVIDER/instances/NAME.FMT       the boot disk of a live machine
//	PROVIDER/instances/NAME@TIME.FMT  a capture of it, in UTC: 20261121T030000Z
//	.chromogenic/                     status, version, errors, metrics, refresh, jobs/; resolves, is not listed
//
// Other views (images.compressed/, images.bootable/) answer
// ENOTSUP until they exist. What cannot be cleaned answers ENOTSUP in images.cleaned/;
// the first look at an image there cleans it, which takes seconds, and nothing is
// removed by way of it. A format that is not listed resolves by name. What is an
// ISO is told by its provider, or its extension, and never by its bytes: a hybrid one
// that is called .raw is a disk. It is passed on byte for byte, wherever it is copied.
//
// # Names
//
// A file's name is the shown name of an image and an extension. The shown name is
// the true one with some bytes as %XX (Encode). Of several images of one name the
// oldest keeps it, the others are NAME~ID8; so are names that are too long. A
// lookup takes the shown name, any other spelling of the true one, or the id.
// Creating decodes a name as a lookup does. See names.go, the only place that
// knows all this.
//
// # Looking
//
// A file's size, times, inode number and bytes follow from provider, id, version
// and format, and are the same on every mount. st_blocks counts what is not a
// hole; SEEK_HOLE and SEEK_DATA work. Directories have a constant time. statfs
// says 1 PiB, free.
//
// A directory is listed as a whole or not at all: a provider that cannot be
// reached is an error of opendir, never an empty directory. Listed are images
// that can be read, in formats that take their disk; the others resolve by name,
// and stat tells their errno. A plain ls makes no lookup per file and opens no
// image of a cloud. Names and attributes are kept by the kernel for a second, names
// of images not at all where they may go together (AllowDelete). All files have one
// owner, and modes of 0640 and 0750, or 0644 and 0755 with AllowOther, unless the
// mount says otherwise (UID, GID, Umask).
//
// # Reading
//
// What is read is one version: an image that has changed gives ESTALE, or its old
// bytes where the kernel has them. A disk that was pulled out gives EHOSTUNREACH, and
// when it is back the same open file reads on. What has failed after seconds fails at
// once for who asks for it again in the same moment, as a kernel does. raw goes through
// the page cache; containers, instances and what was written a moment ago do not, and are
// best read with as much at once as stat(2) advises, 1 MiB. An instance is read as its
// provider's snapshot policy says: auto captures it at the first read; with never
// it cannot be opened; otherwise it opens, can be copied into an images/ directory
// by copy_file_range, and a plain read is EPERM. A capture that was kept is read as
// an image, whatever the policy.
//
// Where the rate is bounded (bwlimit) readers wait for their turn, a twentieth of a
// second's bytes at a time each; who is killed meanwhile does not. When the read
// budget of a provider is used up, whatever is not in memory gives EDQUOT until it is
// renewed or raised, and a copy that it does not do for is refused at its beginning.
//
// # Writing
//
// The mount takes new images and changes none. What is written under a public
// name goes to a spool. It becomes an image in close(2), whose result is that of
// the whole job: cp's exit status is true. Until then the name is there for the
// process that writes, and for nobody else. Another process that writes it has a
// file of its own: the first of them to be published is the image, and to the other
// that is one which was there before. In detail, a close of a writable descriptor
// (FUSE's FLUSH)
//   - with no new bytes since the last commit gives that one's result again;
//   - of an empty file does nothing: dd and shells close once before they write;
//   - by a caller that a signal is killing publishes nothing, now or later;
//   - after a write that failed, or a read of an image by the same process that
//     failed while it was writing, publishes nothing and gives that error;
//   - by a process that inherited the descriptor and never wrote does nothing as
//     long as the opener has it: whoever starts a program has his files closed;
//   - by qemu, of a disk of zeros, does nothing the first time. If qemu ends then,
//     the disk is published a moment later, with errors in the record alone.
//
// More bytes through the same open file after a commit, or a new open for writing
// by the qemu that made it within ten seconds, replace what that commit made; qemu
// may open no other image for writing, for it ignores the error of its last close,
// and is told at once when there is no room for what it writes. Anybody else who
// writes over an existing image succeeds if it is the same disk, and gets EEXIST if
// it is not; the image is never touched, and its readers never see the writer's
// bytes. Opened without O_TRUNC the file begins with the image's content; closed
// without a change it leaves nothing behind.
//
// What is written under the name of an image is compared with it as it arrives, and
// takes no scratch space as long as it is equal. Of a raw disk the write that brings
// the first byte which differs fails, with EEXIST and the offset as the reason. The
// close or the rename fails instead
//   - of a container, for another container can hold the same disk;
//   - of a file that is open for reading too, and of a 4 KiB block of zeros where the
//     image has data: either may be written once more;
//   - of a disk that ends too early;
//   - of a dot-name, so that rsync goes on with what it has besides;
//   - where the image was made of another disk, and knows its digest.
//
// With AllowReplace nothing of this fails: see below.
//
// Names with a leading dot, and names in directories with a leading dot (which
// mkdir makes, in NAME.disks too), are unfinished files: anybody may see, read, rename
// and remove them, closing them publishes nothing. Renaming one to a public name publishes
// it, with the result in rename(2); not if it is still being written (EBUSY), nor
// if its time is 1970 (EINTR), which is how a killed rsync marks a partial copy.
// What is written to it after that is lost, and close says so (ESTALE). The kernel
// holds the directory's lock during a rename: while rsync, which publishes so,
// waits for the commit of a big image, nobody can list that directory.
//
// The extension says what is handed over: an unknown one is EINVAL at creation, a
// container under .raw is refused at close. COPY_FILE_RANGE from an image binds,
// and moves no byte; where it is compared with another one it reads both, unless
// their digests are known. fallocate punches holes and extends, and reserves nothing.
// fsync makes the spool durable and publishes nothing. A modification time set
// before the commit or after it, or on an image, is kept, where the provider can;
// chmod and chown are accepted and change nothing; xattrs cannot be set (ENOTSUP),
// but for the properties of an image, user.chromogenic.prop.KEY, where the mount
// allows it (AllowMeta; EPERM otherwise).
//
// Renaming one image to another name of the same format renames it in the
// provider. Leaving the directory is EPERM, never EXDEV, with which mv would copy
// and remove. Links and devices are EPERM.
//
// A name that is taken by another disk is EEXIST, unless the mount lets a copy take
// its place (AllowReplace): the new image is verified first, then takes the name.
//
// # Removing
//
// rm is EPERM unless the mount allows it (AllowDelete). Then unlink(2) of one name
// removes the image, or a capture, in all formats and for good; the other names are
// ENOENT from that moment on, which rm -f ignores and rm tells. It is EBUSY while
// somebody has the image open, whoever that is, in whatever format; while it is the
// source or destination of a job that runs or waits; and when its provider protects
// it or another image is made of it. A removal is a job, with a record.
//
// What a program has listed may be another image by the time that it gets there. So
// the other names of an image that it has removed are EBUSY, once, if an image has
// come under them since; after half a minute without a removal it starts afresh.
// rsync means names, not images: with it an image goes with the last of the formats
// that are listed, its metadata with the image, and until then unlink succeeds and
// removes nothing, which the log tells.
//
// With an image go all its disks. In NAME.disks the same rules hold for the names of one
// data disk, which goes alone, and not while any disk of the machine is in use; those
// of greater numbers wait then. A boot disk, and what an ova holds, go with the image.
//
// An image that cannot be read has no file that could be removed; chromogenic rm can.
//
// A program that writes over an image and removes the file drops what it was writing;
// the image stays, and it is told so (EPERM, or EBUSY with AllowDelete). Live machines
// are never removed, nor are directories but those that mkdir has made (EPERM).
//
// # Machines of several disks
//
// NAME.FMT is the boot disk, but NAME.ova all disks. NAME.disks/ has the data disks,
// by their numbers: the device is for people, and any will do in a lookup. 0 is the
// boot disk there too; it resolves and is not listed. A disk whose file has a time of
// its own shows that. A machine of one disk has no such directory, until mkdir makes
// it; who has made it, and writes there for the first time, finds in it what he has
// written himself, for cp takes a directory of its own for empty.
//
// What is written there becomes a data disk of NAME, under the rules of Writing, as a
// job of its own: the same disk under its number is a success without work, another one
// EEXIST, or takes its place (AllowReplace), and the other disks stay. So does the
// machine when it is NAME.FMT that is written. It joins the machine when that has a disk
// of every smaller number, in whatever order they come; an ova over what is there adds
// what is missing. Until then it waits at the provider: it can be read, over restarts
// too, its directory resolves and is not listed, and no image shows it. After an hour
// that is a failure, with ENOENT in .chromogenic/errors and at the file; the disk is
// kept, and goes with rm and AllowDelete, or chromogenic rm. So a copy that is cut off
// never leaves a part of a disk, but may leave a machine without its last disks, which
// the next run adds. To an image that is kept as an ova no disk is added (EEXIST).
//
// Each file of a live machine is captured on its own; NAME.ova, and a capture that is
// kept, have all disks at one moment.
//
// A copy of NAME.raw, qcow2 or vmdk is one of the boot disk. If the others are not there
// either, its record and .chromogenic/jobs/ID/log have a note.
//
// # Kernels and ramdisks
//
// NAME.kernel and NAME.ramdisk are what the machine of an image boots with besides its
// disk: files of their own, byte for byte, listed with an image that has them. A copy of
// the boot disk within the mount takes along those that the destination has not, as part
// of its job: all appear with the image, or none.
//
// What is written as one, in any order with its image, is a part of that as soon as both
// are there. Until then it waits at the provider, resolves and is not listed, and can be
// removed; after an hour that is a failure in .chromogenic/errors, and it is kept. The
// same again is a success without work, another one EEXIST, also where images may be
// replaced. One of an image goes with that: to remove it alone is EPERM, and for rsync a
// success that removes nothing. Nor is it renamed but with its image.
//
// # Metadata
//
// NAME.json is what is known of the image besides its bytes: what was set as a
// whole, or else what the provider knows and its container says. It is one document
// for all providers; its bytes follow from the image's version and name, and its time
// is that at which it was set, or the image's. Metadata that cannot be read hides no
// image: NAME.json alone is EBADMSG then, and not listed.
//
// What is written as NAME.json is set at close, or by a rename, under the rules of
// Writing, in the place of all that was known but who may see the image; the same again is a success without
// work. What is no document is EBADMSG, with the key, and changes nothing. Without an
// image of the name, or while that is being written, it waits, over restarts too:
// the name resolves, is not listed, and the image takes it along when it is published,
// whatever metadata its source has. After an hour without an image it is given up,
// with ENOENT in .chromogenic/errors. rm removes what waits, and with AllowDelete what
// was set, if the image could be removed too; never the image. A document is renamed
// with its image alone.
//
// # Waiting
//
// A disk that does not answer is waited for, by those who need it and nobody else. A
// caller that gets a fatal signal is let go from whatever it waits for. A listing
// waits three seconds for an image of which nothing is known yet, and shows it; its
// lookup, during which the kernel holds the directory's lock, fails with ETIMEDOUT
// after half a minute. See docs/faults.md.
//
// # Ending
//
// A caller that waits for a commit and gets a fatal signal is let go with EINTR;
// the copy is cancelled, and what it made is removed. When the mount ends, copies
// are suspended: the writer is told that nothing is published yet, and the next
// mount goes on with what was complete. Signals that the caller
// handles change nothing.
//
// # Errors
//
// The errno follows from the kind of the error alone (errno.go):
//
//	no such image or provider                               ENOENT
//	the provider cannot be reached                          EHOSTUNREACH
//	credentials missing, expired, denied by the cloud       EACCES
//	denied by the mount's own policy                        EPERM
//	read-only mount                                         EROFS
//	exists with other content                               EEXIST
//	in use, saving, locked, protected, being written        EBUSY
//	cloud quota, read budget                                EDQUOT
//	scratch space or backend full                           ENOSPC
//	larger than the format or the cloud takes               EFBIG
//	cannot be done                                          ENOTSUP
//	malformed, hostile, truncated, checksum differs         EBADMSG
//	changed or deleted while it was open                    ESTALE
//	throttled or timed out                                  ETIMEDOUT
//	cancelled                                               ECANCELED
//	interrupted                                             EINTR
//	the request makes no sense                              EINVAL
//	anything else                                           EIO
//
// Every failure but a plain ENOENT leaves its reason in .chromogenic/errors (JSON
// lines, newest last), in the log, and in the xattr user.chromogenic.error of the
// file and of the directories above it, until that path is published, opened for
// reading, listed, renamed or removed. A rename that does not publish is a failure
// of the new name. An unfinished copy that its program gives up keeps its reason.
//
// # How it is built
//
// A view of an image is one node (file.go), a file being written another
// (staging.go, writer.go, commit.go), even under the same name: so no byte of a
// writer can get into the pages or the size of an image. Opening an image for
// writing answers ESTALE, by which the kernel looks the name up again and finds
// the writer's node. Nothing here sends notifications to the kernel.
package fs
