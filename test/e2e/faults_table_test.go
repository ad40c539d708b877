package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"chromogenic/test/faultfs"
)

// A fault is something that goes wrong, and what a program is told of it: a row of
// docs/faults.md, which TestFaultsDocumented holds against this table.
type fault struct {
	name  string // short, unique within its side
	what  string // goes wrong, for people
	disk  faultfs.Fault
	errno syscall.Errno // that a program gets; 0: it succeeds, with the right bytes
	cause string        // what the reason says beside the file, and the offset where disk has one
	note  string        // for people: what follows

	// What somebody does to the file while disk, which is Hang then, holds up the
	// program.
	meanwhile func(t testing.TB, x *faultCase)
	undo      func(t testing.TB, x *faultCase) // of meanwhile, when the program has ended; nil is nothing
	notOf     func(faultRoute) bool            // routes to which it cannot happen; nil is none
	anew      bool                             // a capture begins anew: it is of the machine as it is then
	direct    syscall.Errno                    // where the file is no provider's; 0 is errno
}

// anewNote tells people of anew.
const anewNote = "a capture begins anew, and is of the machine as it is then"

// at is where the faults strike that have a place: everything before it is well. It
// begins a page, for no kernel knows more of a disk, and no cluster or block.
const (
	at    = 1236 * 1024
	until = at + 4096
)

func failing(op faultfs.Op, errno syscall.Errno) faultfs.Fault {
	f := faultfs.Fault{Op: op, Effect: faultfs.Fail, Errno: errno}
	if op == faultfs.Write {
		f.From = at
	}
	return f
}

// sector is a bad sector: a read of it gives err, what lies around it is well.
func sector(from int64, errno syscall.Errno) faultfs.Fault {
	return faultfs.Fault{Op: faultfs.Read, Effect: faultfs.Fail, Errno: errno, From: from, To: from + 4096}
}

func effect(op faultfs.Op, e faultfs.Effect) faultfs.Fault {
	return faultfs.Fault{Op: op, Effect: e, From: at, To: until}
}

// held holds up a read in the middle of the file.
func held() faultfs.Fault {
	return faultfs.Fault{Op: faultfs.Read, Effect: faultfs.Hang, From: at, To: until, Times: 1}
}

// sourceFaults are those of the disk that an image is read from.
func sourceFaults() []fault {
	return []fault{
		{name: "bad sector", what: "a read fails with EIO at the nth block", disk: sector(at, syscall.EIO), errno: syscall.EIO, cause: "input/output error"},
		{name: "bad header", what: "the same in the first block", disk: sector(0, syscall.EIO), errno: syscall.EIO, cause: "input/output error"},
		{name: "short reads", what: "each read gives fewer bytes than were asked for", disk: faultfs.Fault{Op: faultfs.Read, Effect: faultfs.Short}},
		{name: "early end", what: "a read gives nothing, as at the end, and the size says otherwise", disk: faultfs.Fault{Op: faultfs.Read, Effect: faultfs.End, From: at}, errno: syscall.EIO, cause: "got no more"},
		{name: "slow", what: "each read takes 20 ms longer", disk: faultfs.Fault{Op: faultfs.Read, Effect: faultfs.Slow, Delay: 20 * time.Millisecond}},
		{name: "interrupted", what: "reads fail with EINTR, three times", disk: faultfs.Fault{Op: faultfs.Read, Effect: faultfs.Fail, Errno: syscall.EINTR, From: at, Times: 3}},
		{name: "timed out", what: "a read fails with ETIMEDOUT (NFS, mounted soft)", disk: sector(at, syscall.ETIMEDOUT), errno: syscall.ETIMEDOUT, cause: "timed out"},
		{name: "denied", what: "a read fails with EACCES (NFS, export revoked)", disk: sector(at, syscall.EACCES), errno: syscall.EACCES, cause: "permission denied"},
		{name: "stale handle", what: "a read fails with ESTALE (NFS, removed at the server)", disk: sector(at, syscall.ESTALE), errno: syscall.ESTALE, cause: "stale"},
		{name: "vanishing", what: "a read fails with ENOENT", disk: sector(at, syscall.ENOENT), errno: syscall.ESTALE, cause: "no such file"},
		{name: "not opened", what: "open fails with EIO", disk: failing(faultfs.Open, syscall.EIO), errno: syscall.EIO, cause: "input/output error"},
		{name: "forbidden", what: "open fails with EACCES (chmod 000)", disk: failing(faultfs.Open, syscall.EACCES), errno: syscall.EACCES, cause: "permission denied"},
		{name: "bad inode", what: "stat of the file fails with EIO", disk: failing(faultfs.Lookup, syscall.EIO), errno: syscall.EHOSTUNREACH, direct: syscall.EIO, cause: "input/output error", note: "the whole folder is unreachable: a listing without the image would have it deleted from backups; of a file that is no provider's it is EIO"},

		{name: "removed", what: "the file is removed while it is read", disk: held(), errno: syscall.ESTALE, cause: "deleted or replaced", meanwhile: func(t testing.TB, x *faultCase) { must(t, os.Remove(x.file)) }},
		{name: "renamed", what: "the file gets another name while it is read", disk: held(), note: "who has it open reads on; the old name is ENOENT from then on", meanwhile: func(t testing.TB, x *faultCase) { must(t, os.Rename(x.file, x.file+".away")) }},
		{name: "replaced", what: "another file takes its name while it is read", disk: held(), errno: syscall.ESTALE, cause: "deleted or replaced", anew: true, note: anewNote, meanwhile: func(t testing.TB, x *faultCase) {
			other := filepath.Join(filepath.Dir(x.file), ".other")
			run(t, "cp", x.master, other)
			must(t, os.Rename(other, x.file))
		}},
		{name: "truncated", what: "the file is cut while it is read", disk: held(), errno: syscall.ESTALE, cause: "changed", anew: true, note: anewNote, meanwhile: func(t testing.TB, x *faultCase) { must(t, os.Truncate(x.file, at/2)) }},
		{name: "grown", what: "the file grows while it is read", disk: held(), errno: syscall.ESTALE, cause: "changed", anew: true, note: anewNote, meanwhile: func(t testing.TB, x *faultCase) { script(t, `echo more >> "$1"`, x.file) }},
		{name: "written to", what: "somebody writes to the file while it is read", disk: held(), errno: syscall.ESTALE, cause: "changed", anew: true, note: anewNote, meanwhile: func(t testing.TB, x *faultCase) {
			script(t, `echo other | dd of="$1" bs=1 seek=4000 conv=notrunc status=none`, x.file)
		}},
		{name: "unplugged", what: "the disk goes away while the file is read", disk: held(), errno: syscall.EHOSTUNREACH, cause: "", meanwhile: func(t testing.TB, x *faultCase) { must(t, x.disk.Kill()) }},
	}
}

// noProvider tells whether a route goes to a plain path.
func noProvider(r faultRoute) bool { return r.plain }

// destinationFaults are those of the disk that an image is written to.
func destinationFaults() []fault {
	whole := func(op faultfs.Op, e faultfs.Effect) faultfs.Fault { return faultfs.Fault{Op: op, Effect: e} }
	// Not at fsync(2), during which the kernel lets nobody remove the file.
	atClose := faultfs.Fault{Op: faultfs.Close, Effect: faultfs.Hang, Times: 1}
	all := []fault{
		{name: "short writes", what: "each write takes fewer bytes than it was given", disk: whole(faultfs.Write, faultfs.Short)},
		{name: "slow", what: "each write takes 20 ms longer", disk: faultfs.Fault{Op: faultfs.Write, Effect: faultfs.Slow, Delay: 20 * time.Millisecond}},
		{name: "interrupted", what: "writes fail with EINTR, three times", disk: faultfs.Fault{Op: faultfs.Write, Effect: faultfs.Fail, Errno: syscall.EINTR, From: at, Times: 3}},
		{name: "wrong bytes written", what: "one bit is stored wrong", disk: effect(faultfs.Write, faultfs.Flip), errno: syscall.EBADMSG, cause: "digest"},
		{name: "lost write", what: "a write says that it is done, and nothing is stored", disk: effect(faultfs.Write, faultfs.Lose), errno: syscall.EBADMSG, cause: "digest"},
		{name: "wrong bytes read back", what: "one bit is read wrong, each time", disk: effect(faultfs.Read, faultfs.Flip), errno: syscall.EBADMSG, cause: "digest"},
		{name: "bad sector", what: "what was written cannot be read back", disk: sector(at, syscall.EIO), errno: syscall.EIO, cause: "input/output error"},
		{name: "early end", what: "what was written ends too early when it is read back", disk: faultfs.Fault{Op: faultfs.Read, Effect: faultfs.End, From: at}, errno: syscall.EIO, cause: "got no more"},

		{name: "temporary removed", what: "somebody removes the unfinished file", disk: atClose, errno: syscall.ESTALE, cause: "has been removed", meanwhile: func(t testing.TB, x *faultCase) { must(t, os.Remove(x.temporary(t))) }},
		{name: "temporary renamed", what: "somebody renames it", disk: atClose, errno: syscall.ESTALE, cause: "has been removed", meanwhile: func(t testing.TB, x *faultCase) {
			must(t, os.Rename(x.temporary(t), filepath.Join(filepath.Dir(x.temporary(t)), ".mine")))
		}},
		{name: "temporary replaced", what: "somebody puts another file in its place", disk: atClose, errno: syscall.ESTALE, cause: "has been replaced", meanwhile: func(t testing.TB, x *faultCase) {
			other := filepath.Join(filepath.Dir(x.temporary(t)), ".mine")
			run(t, "cp", x.master, other)
			must(t, os.Rename(other, x.temporary(t)))
		}},
		{name: "name taken", what: "another disk of the name appears meanwhile", disk: atClose, errno: syscall.EEXIST, cause: "", notOf: func(r faultRoute) bool { return r.instance }, meanwhile: func(t testing.TB, x *faultCase) {
			dir := t.TempDir()
			other, laidOut := filepath.Join(dir, "other.raw"), filepath.Join(dir, "x."+x.route.format)
			writeFile(t, other, randomBytes(mib, 213))
			run(t, binary(), "convert", other, laidOut)
			run(t, "cp", laidOut, filepath.Join(x.b.images, x.name+"."+x.route.format))
		}, undo: func(t testing.TB, x *faultCase) {
			must(t, os.Remove(filepath.Join(x.b.images, x.name+"."+x.route.format)))
		}},
		{name: "folder renamed", what: "the folder gets another name", disk: atClose, errno: syscall.EHOSTUNREACH, cause: "", notOf: noProvider, meanwhile: func(t testing.TB, x *faultCase) {
			must(t, os.Rename(x.folder(), x.folder()+".away"))
		}, undo: func(t testing.TB, x *faultCase) {
			must(t, os.Rename(x.folder()+".away", x.folder()))
		}},
		{name: "folder replaced", what: "another folder takes its place", disk: atClose, errno: syscall.EHOSTUNREACH, cause: "another folder", notOf: noProvider, meanwhile: func(t testing.TB, x *faultCase) {
			must(t, os.Rename(x.folder(), x.folder()+".away"))
			must(t, os.Mkdir(x.folder(), 0o755))
		}, undo: func(t testing.TB, x *faultCase) {
			must(t, os.Remove(x.folder()))
			must(t, os.Rename(x.folder()+".away", x.folder()))
		}},
		{name: "unplugged", what: "the disk goes away", disk: atClose, errno: syscall.EHOSTUNREACH, cause: "", note: "the unfinished file stays on the disk until that is back: the next mount removes it, or `chromogenic gc`", meanwhile: func(t testing.TB, x *faultCase) { must(t, x.disk.Kill()) }},
	}
	for _, op := range []struct {
		faultfs.Op
		what   string
		errnos []syscall.Errno
	}{
		{faultfs.Create, "making the file", []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EACCES, syscall.EIO}},
		{faultfs.Write, "a write in the middle", []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EFBIG, syscall.EIO}},
		{faultfs.Truncate, "setting the file's size", []syscall.Errno{syscall.EFBIG}},
		{faultfs.Fsync, "fsync", []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO}},
		{faultfs.Close, "close", []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO}},
		{faultfs.Rename, "the rename to its name", []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO}},
		{faultfs.SyncDir, "fsync of the folder", []syscall.Errno{syscall.EIO}},
	} {
		for _, errno := range op.errnos {
			all = append(all, fault{
				name: fmt.Sprintf("%s %s", op.Op, errnoName(errno)), what: fmt.Sprintf("%s fails with %s", op.what, errnoName(errno)),
				disk: failing(op.Op, errno), errno: errno, cause: errno.Error(),
			})
		}
	}
	for i := range all {
		switch f := &all[i].disk; f.Op {
		case faultfs.SyncDir:
		default:
			f.File = ".chromogenic-*"
		}
	}
	return all
}
