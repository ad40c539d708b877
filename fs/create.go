package fs

import (
	"context"
	"strings"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/providers"
)

// writable tells why nothing can be written into the directory.
func (k *kindNode) writable() error {
	if k.t.o.ReadOnly {
		return errReadOnly()
	}
	if k.folder == nil {
		err := disk.Errorf(disk.Policy, "instances are not written")
		return disk.Hint(err, "copy an instance into an images/ directory")
	}
	p, ok := k.t.p.Provider(k.site)
	if !ok {
		return disk.Errorf(disk.NotFound, "find provider %q", k.site)
	}
	if _, ok := p.(providers.Uploader); !ok {
		return disk.Errorf(disk.Policy, "provider %q takes no images", k.site)
	}
	return nil
}

// permitted tells why the provider would take no image, before one is written: what
// it can know of that.
func (k *kindNode) permitted(ctx context.Context) error {
	p, _ := k.t.p.Provider(k.site)
	if asked, ok := p.(providers.Permitter); ok {
		ctx, cancel := patient(ctx)
		defer cancel()
		return asked.MayUpload(ctx)
	}
	return nil
}

// target reads a public name that is to be written: its stem and the format of
// what is handed over.
func target(file string) (stem string, f formats.Format, err error) {
	stem, f, ok := parseFile(file)
	switch {
	case ok && (f.Name == JSONName || roleOf(f) != ""):
	case !ok:
		err := disk.Errorf(disk.Invalid, "write %q: the name ends in no known extension", file)
		return "", f, disk.Hint(err, "the extension says what is handed over: .raw, .qcow2, .vmdk, .ova, .iso")
	case f.Layout == nil && !f.Alone:
		err := disk.Errorf(disk.Invalid, "write %q: %s can only be read", file, f.Name)
		return "", f, disk.Hint(err, "pack it as .ova, or copy its disk")
	}
	return stem, f, nil
}

// Create begins a file: of an image to be, or of a name beginning with a dot that
// will be renamed to one.
func (k *kindNode) Create(ctx context.Context, name string, flags, _ uint32, out *fuse.EntryOut) (*gofuse.Inode, gofuse.FileHandle, uint32, syscall.Errno) {
	g, err := k.create(ctx, name, flags)
	if err != nil {
		return nil, nil, 0, k.fail("create", name, err)
	}
	return g.attach(ctx, &k.dirNode, out), g.open(flags), fuse.FOPEN_DIRECT_IO, 0
}

func (k *kindNode) create(ctx context.Context, name string, flags uint32) (*staged, error) {
	if err := k.writable(); err != nil {
		return nil, err
	}
	if err := k.permitted(ctx); err != nil {
		return nil, err
	}
	by := callerProcess(ctx)
	if strings.HasPrefix(name, ".") {
		g := newStaged(k.folder, name, join(k.path, name), by)
		return g, k.begin(ctx, g, meant(g.key))
	}
	// The kernel has asked whether the name exists; it may have come since.
	to, there, err := k.target(ctx, k, name)
	if err != nil {
		return nil, err
	}
	if there && flags&syscall.O_EXCL != 0 {
		return nil, disk.Errorf(disk.Exists, "create %q: the image exists", name)
	}
	g := newPublic(k.folder, to, by)
	return g, k.begin(ctx, g, nil)
}

// newPublic begins a file under a public name.
func newPublic(f *folder, to goal, by process) *staged {
	g := newStaged(f, writerKey(to.key(), by), to.path, by)
	g.name, g.disk, g.device, g.format = to.name, to.disk, to.device, &to.format
	return g
}

// key is what all files have in common that become the same: a boot disk is the image,
// wherever it is written.
func (to goal) key() string {
	if to.disk == 0 {
		return publicKey(to.name, to.format)
	}
	return diskKey(to.name, to.disk, to.format)
}

// goal is what the file becomes when it is written anew.
func (f *imageFile) goal() goal {
	row, _ := formats.ByName(f.ref.Format)
	if role := f.ref.Entry.Role; role != "" {
		row = companionFormat(role)
	}
	to := goal{name: trueName(f.ref.Entry), format: row, path: f.path}
	if f.part {
		_, name := splitKey(f.path)
		to.disk, to.device, _, _ = ParseDisk(name)
	}
	return to
}

// trueName is what an image is published as.
func trueName(e providers.Entry) string {
	if e.Name == "" {
		return e.ID
	}
	return e.Name
}

// reserve begins a file over an existing image, for the process that opens it.
// Unless it truncates, the file begins with the content that is there.
func (f *imageFile) reserve(ctx context.Context, truncate bool) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	k := f.kind
	if err := k.writable(); err != nil {
		return err
	}
	to := f.goal()
	if to.format.Layout == nil && !to.format.Alone && roleOf(to.format) == "" {
		return disk.Errorf(disk.Policy, "this file can only be read")
	}
	by := callerProcess(ctx)
	g := newPublic(k.folder, to, by)
	if !truncate {
		g.image = &f.ref.Entry
	}
	if old := k.folder.unfinished(to.key(), by); old != nil {
		return nil // opened a second time by its writer
	}
	if by.isQemu() && !k.t.o.AllowReplace && !k.folder.publishedBy(to.key(), by) {
		// The errors of its last close are not qemu's to see, so what that
		// would say of another disk is said now.
		err := disk.Errorf(disk.Exists, "write image %q: it exists, and qemu does not notice when a close fails", g.name)
		return disk.Hint(err, "write it under another name; cp and rsync find out whether the disk is the same")
	}
	if err := k.begin(ctx, g, nil); err != nil {
		return err
	}
	if truncate {
		return nil
	}
	v, err := k.t.p.View(ctx, f.ref)
	if err == nil {
		err = g.spool.Bind(v, 0, 0, v.Size())
		v.Close()
	}
	if err != nil {
		k.folder.remove(g)
		g.spool.Close()
	}
	return err
}

// publishedBy tells whether the process has itself made the image of a key, a
// moment ago.
func (f *folder) publishedBy(key string, by process) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.files[writerKey(key, by)]
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.supersedable(by)
}

// Mkdir makes a dot-directory, in which programs keep unfinished copies, or the
// directory of the disks of a machine.
func (k *kindNode) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	if stem, ok := disksStem(name); ok {
		return k.mkdirDisks(ctx, name, stem, out)
	}
	err := k.writable()
	if err == nil && !strings.HasPrefix(name, ".") {
		err = disk.Errorf(disk.Policy, "make directory %q: only names with a leading dot, for unfinished copies, and NAME.disks", name)
	}
	if err == nil {
		err = k.folder.mkdir(name, callerProcess(ctx))
	}
	if err != nil {
		return nil, k.fail("mkdir", name, err)
	}
	d := &dotDir{dirNode: k.sub(name), kind: k, name: name}
	return k.attach(ctx, d, d.path, out), 0
}

// A madeDir is a directory that a process has made.
type madeDir struct {
	by    process
	names map[string]bool // public ones that this process has written in it
	last  time.Time       // when it did something there
}

func (f *folder) mkdir(key string, by process) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirs[key] != nil || f.files[key] != nil {
		return disk.Errorf(disk.Exists, "make directory %q: the name is taken", key)
	}
	f.dirs[key] = &madeDir{by: by, names: map[string]bool{}, last: time.Now()}
	return nil
}

// rmdir removes a directory that is empty; made is false where nobody has made it.
func (f *folder) rmdir(key string) (made bool, errno syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for in, g := range f.files {
		if strings.HasPrefix(in, key+"/") && (!g.public() || g.is(writing)) {
			return true, syscall.ENOTEMPTY
		}
	}
	made = f.dirs[key] != nil
	delete(f.dirs, key)
	return made, 0
}

// Rmdir removes a directory that was made, if it is empty.
func (k *kindNode) Rmdir(ctx context.Context, name string) syscall.Errno {
	if err := k.writable(); err != nil {
		return k.fail("rmdir", name, err)
	}
	if stem, ok := disksStem(name); ok {
		return k.rmdirDisks(ctx, name, stem)
	}
	made, errno := k.folder.rmdir(name)
	if !made {
		return k.fail("rmdir", name, disk.Errorf(disk.Policy, "the directories of the mount are fixed"))
	}
	return errno
}
