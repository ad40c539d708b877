package fs

import (
	"context"
	"strings"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
)

// Setattr accepts mode, owner and times, which rsync and cp -a set, and keeps none of
// them.
func (d *disksNode) Setattr(_ context.Context, _ gofuse.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if err := d.kind.writable(); err != nil {
		return d.fail("setattr", "", err)
	}
	d.t.dirAttr(&out.Attr)
	return 0
}

// target is what a name in the directory will be, and whether it is there.
func (d *disksNode) target(ctx context.Context, name string) (to goal, there bool, err error) {
	if err := d.kind.setsWritable(); err != nil {
		return to, false, err
	}
	n, device, f, ok := ParseDisk(name)
	if !ok || f.Layout == nil {
		err := disk.Errorf(disk.Invalid, "write %q: it is no name of a disk", name)
		return to, false, disk.Hint(err, "disks are called NUMBER-DEVICE.FORMAT, as 1-vdb.qcow2, where 0 is the boot disk; the formats are raw, qcow2 and vmdk")
	}
	m, err := d.machine(ctx)
	_, there = m.ref(d.kind.site, n, f)
	return goal{m.name, n, device, f, join(d.path, name)}, there, err
}

// setsWritable tells why no data disk can be written.
func (k *kindNode) setsWritable() error {
	if err := k.writable(); err != nil {
		return err
	}
	if !k.keepsSets() {
		err := disk.Errorf(disk.Policy, "provider %q keeps one file for each machine", k.site)
		return disk.Hint(err, "copy the machine as .ova, which holds all its disks")
	}
	return nil
}

// Create begins a file: of a disk to be, or of a name beginning with a dot that will
// be renamed to one.
func (d *disksNode) Create(ctx context.Context, name string, flags, _ uint32, out *fuse.EntryOut) (*gofuse.Inode, gofuse.FileHandle, uint32, syscall.Errno) {
	g, err := d.create(ctx, name, flags)
	if err != nil {
		return nil, nil, 0, d.fail("create", name, err)
	}
	return g.attach(ctx, &d.dirNode, out), g.open(flags), fuse.FOPEN_DIRECT_IO, 0
}

func (d *disksNode) create(ctx context.Context, name string, flags uint32) (*staged, error) {
	k, by := d.kind, callerProcess(ctx)
	if strings.HasPrefix(name, ".") {
		if err := k.setsWritable(); err != nil {
			return nil, err
		}
		g := newStaged(k.folder, d.key(name), join(d.path, name), by)
		return g, k.begin(ctx, g, meant(g.key))
	}
	to, there, err := d.target(ctx, name)
	if err != nil {
		return nil, err
	}
	if there && flags&syscall.O_EXCL != 0 && !d.fresh(ctx, name) {
		return nil, disk.Errorf(disk.Exists, "create %q: the disk exists", name)
	}
	k.folder.active(to, by)
	g := newPublic(k.folder, to, by)
	return g, k.begin(ctx, g, nil)
}

// Mkdir makes a dot-directory.
func (d *disksNode) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	err := d.kind.setsWritable()
	if err == nil && !strings.HasPrefix(name, ".") {
		err = errFixed()
	}
	if err == nil {
		err = d.kind.folder.mkdir(d.key(name), callerProcess(ctx))
	}
	if err != nil {
		return nil, d.fail("mkdir", name, err)
	}
	dot := &dotDir{dirNode: d.sub(name), kind: d.kind, name: d.key(name)}
	return d.attach(ctx, dot, dot.path, out), 0
}

// Rmdir removes a dot-directory that is empty.
func (d *disksNode) Rmdir(_ context.Context, name string) syscall.Errno {
	if err := d.kind.writable(); err != nil {
		return d.fail("rmdir", name, err)
	}
	made, errno := d.kind.folder.rmdir(d.key(name))
	if !made {
		return syscall.ENOENT
	}
	return errno
}

// Rename publishes an unfinished file, or moves it.
func (d *disksNode) Rename(ctx context.Context, name string, to gofuse.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if !strings.HasPrefix(name, ".") {
		err := disk.Errorf(disk.Policy, "rename %q: a disk has the name of its number", name)
		return d.fail("rename", name, disk.Hint(err, "copy it under another number, or rename the image"))
	}
	return d.kind.rename(ctx, &d.dirNode, d.key(name), name, to, newName, flags)
}

// inDisks tells whether a directory is one of disks.
func (k *kindNode) inDisks(dir gofuse.InodeEmbedder) bool {
	_, ok := dir.(*disksNode)
	return ok
}

// mkdirDisks makes the directory of the disks of an image, which need not be there
// yet.
func (k *kindNode) mkdirDisks(ctx context.Context, name, stem string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	err := k.setsWritable()
	if err == nil {
		err = k.folder.mkdir(disksKey(Decode(stem)), callerProcess(ctx))
	}
	if err != nil {
		return nil, k.fail("mkdir", name, err)
	}
	return k.disks(ctx, name, stem, out), 0
}

// rmdirDisks removes the directory of the disks of an image, if there are none.
func (k *kindNode) rmdirDisks(ctx context.Context, name, stem string) syscall.Errno {
	m, err := k.machine(ctx, stem)
	if err != nil {
		return k.fail("rmdir", name, err)
	}
	if len(m.disks) > 1 || len(m.waiting) > 0 {
		if k.t.o.AllowDelete {
			return syscall.ENOTEMPTY
		}
		return k.fail("rmdir", name, disk.Errorf(disk.Policy, "the directories of the mount are fixed"))
	}
	_, errno := k.folder.rmdir(disksKey(Decode(stem)))
	return errno
}

// fresh tells whether the caller has just made the directory, and not written a file
// of that name in it. Into a directory of its own cp copies without a look, and takes
// a disk that is there in another format, which it has copied a moment ago, for
// somebody else's.
func (d *disksNode) fresh(ctx context.Context, name string) bool {
	f := d.kind.folder
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	made := f.dirs[disksKey(Decode(d.stem))]
	if made == nil || made.names[name] || time.Since(made.last) > supersedeTime || made.by == (process{}) || made.by != callerProcess(ctx) {
		return false
	}
	made.last = time.Now()
	return true
}

// active notes that a process writes, or has written, a file into the directory of
// disks that it has made.
func (f *folder) active(to goal, by process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if made := f.dirs[disksKey(to.name)]; made != nil && made.by == by {
		_, name := splitKey(to.path)
		made.names[name], made.last = true, time.Now()
	}
}
