package fs

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// A folder holds what is being written into one view of a site.
//
// Keys of files: a dot-name, the key of a directory and a name in it with a
// slash between them, or writerKey. Dot-names are files like any other, seen by
// all. A file under a public name is seen by the process that writes it and by
// nobody else, so an unfinished image never appears under its final name. Each
// process that writes it has one of its own, and the first commit makes the image.
type folder struct {
	t    *tree
	site string
	view view

	mu    sync.Mutex // taken before that of a staged
	files map[string]*staged
	dirs  map[string]*madeDir // directories that were made: dot-names, and disksKey
}

// publicKey is that of a public name, the same for all its spellings.
func publicKey(name string, f formats.Format) string { return Encode(name) + "." + f.Name }

// writerKey is that of the file which a process writes under a public name, of that
// publicKey or diskKey.
func writerKey(key string, by process) string {
	return key + "\x00" + strconv.Itoa(by.pid) + " " + by.start
}

// unfinished is the file that the process is writing under a public name.
func (f *folder) unfinished(key string, by process) *staged {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.files[writerKey(key, by)]; g != nil && g.is(writing) {
		return g
	}
	return nil
}

// hidden is what has a dot-name, or a name in a dot-directory.
func (f *folder) hidden(key string) (g *staged, dir bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.files[key], f.dirs[key] != nil
}

// list is what a directory shows of it: dot-names, or what is in the directory of
// the key dir.
func (f *folder) list(dir, path string) []fuse.DirEntry {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []fuse.DirEntry
	for key, g := range f.files {
		if in, name := splitKey(key); !g.public() && in == dir {
			out = append(out, fuse.DirEntry{Mode: syscall.S_IFREG, Name: name, Ino: g.ino})
		}
	}
	for key := range f.dirs {
		if in, name := splitKey(key); in == dir {
			out = append(out, fuse.DirEntry{Mode: syscall.S_IFDIR, Name: name, Ino: inode("directory", join(path, name))})
		}
	}
	slices.SortFunc(out, func(a, b fuse.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// splitKey parts the key of a directory from the name in it.
func splitKey(key string) (dir, name string) {
	i := strings.LastIndexByte(key, '/')
	return key[:max(i, 0)], key[i+1:]
}

// claimTime is how long a file that was reserved waits for its first open.
const claimTime = 2 * time.Second

// add makes a file. Of a public name it refuses a process a second one while the
// first is being written; one that published an image a moment ago may replace it.
func (f *folder) add(g *staged) error {
	spool, err := f.t.p.NewSpool(f.t.ctx)
	if err != nil {
		return err
	}
	g.spool = spool
	gone, err := f.put(g)
	for _, g := range gone {
		g.drop()
	}
	return err
}

// put makes g the file of its key. It gives those that are gone, which are to be
// dropped once the folder is free: that may wait for a slow provider.
func (f *folder) put(g *staged) (gone []*staged, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gone = f.sweep()
	if old := f.files[g.key]; old != nil {
		if err := old.yield(g); err != nil {
			return append(gone, g), err
		}
		if old.is(dropped) {
			gone = append(gone, old)
		}
	}
	f.files[g.key] = g
	return gone, nil
}

// supersedeTime is how long after the commit of an image the process that wrote
// it may write it anew. qemu-img does so at once.
const supersedeTime = 10 * time.Second

// sweep forgets what nobody comes back for: of public names, what has ended and
// what was reserved and never opened.
func (f *folder) sweep() (gone []*staged) {
	for key, g := range f.files {
		if g.public() && g.idle() {
			delete(f.files, key)
			gone = append(gone, g)
		}
	}
	return gone
}

// idle tells whether the file has waited for its first open for too long, or has
// ended and was left alone as long as its writer may replace it.
func (g *staged) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == writing {
		return !g.opened && time.Since(g.made) > claimTime
	}
	return g.opens == 0 && (time.Since(g.closed) > supersedeTime || !g.owner.alive())
}

// supersedable tells whether the process may replace the image that it has made
// of the file. It is called under mu.
func (g *staged) supersedable(by process) bool {
	return g.state == published && g.qemu && g.owner == by && time.Since(g.closed) < supersedeTime
}

// remove forgets a file, if it is still the one of its key.
func (f *folder) remove(g *staged) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files[g.key] == g {
		delete(f.files, g.key)
	}
}

// state is where a staged file is in its life.
type state int

const (
	writing   state = iota // being written, or waiting for its end
	published              // its bytes are an image; more of them would be another
	failed                 // the commit failed; more bytes get another one
	spoiled                // cut off by a signal or an error: nothing makes an image of it
	dropped                // unlinked, or taken over
)

// A staged file is what is being written: a spool and what is known of its end.
// It is the node of its file too.
//
// Content is guarded by content: writes share it, a commit has it alone.
// Everything below mu is guarded by mu.
type staged struct {
	gofuse.Inode
	fixedXattrs
	folder *folder
	ino    uint64          // of its node, and of its directory entry
	owner  process         // who made it
	qemu   bool            // the owner is one of qemu's programs
	empty  bool            // the owner is qemu-img create, which leaves an empty disk
	format *formats.Format // of a public name, else nil
	name   string          // true name of the image, of a public one
	disk   int             // its number in that; 0 is the image itself
	device string          // of a data disk

	spool   *pipeline.Spool
	content sync.RWMutex
	commits chan struct{} // holds one token: who has it may commit
	written atomic.Int64  // bytes, of what qemu writes
	room    room          // of the provider

	mu        sync.Mutex
	key, path string
	state     state
	err       error            // why it failed or is spoiled
	image     *providers.Entry // that it has become, or was at first
	replaces  *providers.Entry // the same, or that of the file before, if it was made by this writer
	opens     int              // handles
	opened    bool             // there was one
	made      time.Time
	closed    time.Time // when it was published, or given back by the last handle
	dirty     bool      // bytes have changed since the last commit
	unflushed bool      // bytes have changed since the last close
	blank     bool      // qemu has closed it as a disk of zeros
	size      int64
	head      *headStart       // the copy that was begun meanwhile, nil for none
	mtime     time.Time        // as the writer has set it
	timed     bool             // mtime is set
	writers   map[process]bool // who has written
	thread    int              // that wrote last
}

func newStaged(f *folder, key, path string, by process) *staged {
	g := &staged{folder: f, key: key, path: path, owner: by, qemu: by.isQemu(), empty: by.creates(), made: time.Now(), commits: make(chan struct{}, 1), writers: map[process]bool{}}
	g.commits <- struct{}{}
	g.ino = inode("unfinished", strconv.FormatUint(f.t.unfinished.Add(1), 10))
	return g
}

// public tells whether the file has a public name.
func (g *staged) public() bool { return g.format != nil }

func (g *staged) is(s state) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state == s
}

// fail records a failure of an operation on the file.
func (g *staged) fail(op string, err error) syscall.Errno {
	g.mu.Lock()
	path := g.path
	g.mu.Unlock()
	return g.folder.t.fail(op, path, err)
}

// yield makes room for next under the same key, or tells why not.
func (g *staged) yield(next *staged) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.public():
		return disk.Errorf(disk.Exists, "make file: the name is taken")
	case g.supersedable(next.owner):
		next.replaces = g.replaces
	case g.state == writing && g.busy():
		err := disk.Errorf(disk.Busy, "write image %q: another program is writing it", g.name)
		return disk.Hint(err, "wait until it is done, or choose another name")
	case g.state == writing:
		g.state = dropped
	}
	return nil
}

// busy tells whether somebody still writes the file. What was reserved and not
// opened, or closed while it was empty, is free once it is left alone.
func (g *staged) busy() bool {
	if g.opens > 0 {
		return true
	}
	if g.dirty && g.spool.Size() > 0 && (g.qemu || g.owner == process{} || g.owner.alive()) {
		return true // the commit of what qemu has left is on its way
	}
	return time.Since(g.made) < claimTime && g.owner.alive()
}

// attach gives the node of the file in out. The kernel keeps nothing of it: once
// it is published the name is another node's.
func (g *staged) attach(ctx context.Context, at *dirNode, out *fuse.EntryOut) *gofuse.Inode {
	g.attr(&out.Attr)
	return at.NewInode(ctx, g, gofuse.StableAttr{Mode: syscall.S_IFREG, Ino: g.ino})
}

// attr is what stat(2) shows of the file as it is now.
func (g *staged) attr(out *fuse.Attr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opens > 0 || g.state == writing {
		g.size = g.spool.Size()
	}
	*out = fuse.Attr{
		Ino: out.Ino, Mode: syscall.S_IFREG | g.folder.t.mode(0o666), Nlink: 1, Owner: g.folder.t.owner,
		Size: uint64(g.size), Blocks: blocks(g.size), Blksize: blockSize,
	}
	when := g.made
	if g.timed {
		when = g.mtime
	}
	out.SetTimes(&when, &when, &when)
}

// spoil marks what the process is writing as cut off: it has
// just been told that it cannot read its source, and many a program closes the
// copy as if it were whole.
func (t *tree) spoil(by process, cause error) {
	if by == (process{}) {
		return
	}
	for _, f := range t.allFolders() {
		f.mu.Lock()
		for _, g := range f.files {
			if g.owner == by {
				g.spoil(cause)
			}
		}
		f.mu.Unlock()
	}
}

// abandon ends an unfinished file with the mount. Who is still writing it is told
// so: a program that believed it copied might remove the original.
func (g *staged) abandon() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == writing {
		g.state, g.err = spoiled, disk.Errorf(disk.Cancelled, "write image: the mount has ended, so nothing is published")
	}
	if g.opens == 0 {
		g.spool.Close()
	}
}

// spoil keeps the file from ever becoming an image.
func (g *staged) spoil(cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == writing && g.opens > 0 {
		g.state, g.err = spoiled, cause
	}
}
