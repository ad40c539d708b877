package fs

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// disksNode is NAME.disks: the data disks of a machine, each a file of its own. It is
// there for an image that has some, for disks that wait for theirs, and where somebody
// has made it to write some.
type disksNode struct {
	bytesDir
	kind *kindNode
	stem string // of the image
}

var (
	_ gofuse.NodeLookuper       = (*disksNode)(nil)
	_ gofuse.NodeOpendirHandler = (*disksNode)(nil)
	_ gofuse.NodeSetattrer      = (*disksNode)(nil)
	_ gofuse.NodeFsyncer        = (*disksNode)(nil)
	_ gofuse.NodeCreater        = (*disksNode)(nil)
	_ gofuse.NodeMkdirer        = (*disksNode)(nil)
	_ gofuse.NodeUnlinker       = (*disksNode)(nil)
	_ gofuse.NodeRmdirer        = (*disksNode)(nil)
	_ gofuse.NodeRenamer        = (*disksNode)(nil)
	_ gofuse.NodeSymlinker      = (*disksNode)(nil)
	_ gofuse.NodeLinker         = (*disksNode)(nil)
	_ gofuse.NodeMknoder        = (*disksNode)(nil)
)

// disksStem is the stem of the image whose disks a directory holds.
func disksStem(dir string) (stem string, ok bool) {
	stem, ok = strings.CutSuffix(dir, disksExt)
	return stem, ok && stem != "" && stem[0] != '.'
}

// disksKey is the key of the directory of an image's disks.
func disksKey(name string) string { return Encode(name) + disksExt }

// diskKey is that of a data disk, the same for all names of it.
func diskKey(name string, n int, f formats.Format) string {
	return disksKey(name) + "/" + strconv.Itoa(n) + "." + f.Name
}

// A machine is what has one name: the image, if it is there, and its disks.
type machine struct {
	name    string // the true one
	image   *Named
	disks   []disk.Disk
	waiting map[int]providers.Entry // by number
}

// machine finds what a stem names.
func (k *kindNode) machine(ctx context.Context, stem string) (machine, error) {
	m := machine{name: Decode(stem)}
	var err error
	if m.image, err = k.find(ctx, stem); err != nil {
		return m, err
	}
	if m.image != nil {
		m.name = trueName(m.image.Entry)
		whole, err := k.t.p.Machine(ctx, pipeline.Ref{Site: k.site, Entry: m.image.Entry, Format: "raw"})
		if err != nil {
			return m, err
		}
		m.disks = whole.Disks
	}
	m.waiting, err = k.waiting(ctx, m.name)
	return m, err
}

// waiting are the data disks that wait for an image of the name.
func (k *kindNode) waiting(ctx context.Context, name string) (map[int]providers.Entry, error) {
	if k.folder == nil || !k.keepsSets() {
		return nil, nil
	}
	l, err := k.t.p.List(ctx, k.site, providers.Disks)
	if err != nil {
		return nil, err
	}
	waiting := map[int]providers.Entry{}
	for _, e := range l.Entries {
		if e.Name == name && e.Kind == providers.Disks {
			waiting[e.Waiting.Number] = e
		}
	}
	return waiting, nil
}

// keepsSets tells whether data disks can be written.
func (k *kindNode) keepsSets() bool {
	p, _ := k.t.p.Provider(k.site)
	_, ok := p.(providers.SetKeeper)
	return ok
}

// ref is the disk of a number.
func (m machine) ref(site string, n int, f formats.Format) (r pipeline.Ref, ok bool) {
	if n < len(m.disks) {
		return pipeline.Ref{Site: site, Entry: m.image.Entry, Format: f.Name, Disk: n}, true
	}
	e, ok := m.waiting[n]
	return pipeline.Ref{Site: site, Entry: e, Format: f.Name}, ok
}

// lookupDisks finds the directory of an image's disks. An image of one disk has none,
// until somebody makes it.
func (k *kindNode) lookupDisks(ctx context.Context, name, stem string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	ctx, cancel := patient(pipeline.Impatient(ctx, lookupStall))
	defer cancel()
	if k.folder == nil || !k.folder.made(disksKey(Decode(stem))) {
		m, err := k.machine(ctx, stem)
		if err != nil {
			return nil, k.fail("lookup", name, err)
		}
		if len(m.disks) < 2 && len(m.waiting) == 0 {
			return nil, syscall.ENOENT
		}
	}
	return k.disks(ctx, name, stem, out), 0
}

func (k *kindNode) disks(ctx context.Context, name, stem string, out *fuse.EntryOut) *gofuse.Inode {
	d := &disksNode{bytesDir{k.sub(name)}, k, stem}
	node := k.attach(ctx, d, d.path, out)
	out.SetEntryTimeout(k.t.nameTime())
	return node
}

// made tells whether somebody has made a directory.
func (f *folder) made(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dirs[key] != nil
}

// sets are the directories of the data disks of the images that are listed. They are
// listed too, for a backup must have all disks.
func (k *kindNode) sets(ctx context.Context) ([]fuse.DirEntry, error) {
	ctx, cancel := patient(pipeline.Impatient(ctx, readdirStall))
	defer cancel()
	x, err := k.index(ctx)
	if err != nil {
		return nil, err
	}
	if len(k.t.diskRows()) == 0 {
		return nil, nil
	}
	cheap, shown := k.cheap(), x.Shown()
	var names []string
	for i := range shown {
		n := &shown[i]
		if n.Entry.Reason != "" {
			continue
		}
		has, err := k.hasDisks(ctx, n.Entry)
		if err != nil {
			return nil, err
		}
		if has && (cheap || !k.t.p.Unreadable(k.site, n.Entry)) {
			names = append(names, n.Name+disksExt)
		}
	}
	return k.subdirs(names...), nil
}

// hasDisks tells whether an image has data disks, as far as that is known without
// asking a cloud. One in doubt, of a format that can have some, has: what is missing in
// a listing, rsync --delete deletes.
func (k *kindNode) hasDisks(ctx context.Context, e providers.Entry) (bool, error) {
	if len(e.Disks) > 1 || !k.cheap() {
		return len(e.Disks) > 1, nil
	}
	ref := pipeline.Ref{Site: k.site, Entry: e, Format: "raw"}
	if m, err := k.t.p.Machine(ctx, ref); err == nil {
		return len(m.Disks) > 1, nil
	}
	f, _ := formats.ByName(e.Format)
	if !f.Machine {
		return false, nil
	}
	raw, _ := formats.ByName("raw")
	return k.shows(ctx, &ref, &raw, true)
}

// diskRows are the formats that are listed and hold one disk.
func (t *tree) diskRows() []formats.Format {
	var rows []formats.Format
	for _, f := range t.rows() {
		if !f.Machine {
			rows = append(rows, f)
		}
	}
	return rows
}

// machine is what the directory shows.
func (d *disksNode) machine(ctx context.Context) (machine, error) { return d.kind.machine(ctx, d.stem) }

// key is that of a name in the directory.
func (d *disksNode) key(name string) string { return disksKey(Decode(d.stem)) + "/" + name }

// Lookup finds a disk by its number; what follows it is for people.
func (d *disksNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	if strings.HasPrefix(name, ".") {
		return d.kind.lookupHidden(ctx, &d.dirNode, d.key(name), name, out)
	}
	n, _, f, ok := ParseDisk(name)
	if !ok {
		return nil, syscall.ENOENT
	}
	ctx, cancel := patient(pipeline.Impatient(ctx, lookupStall))
	defer cancel()
	m, err := d.machine(ctx)
	if err != nil {
		return nil, d.fail("lookup", name, err)
	}
	if k := d.kind; k.folder != nil {
		if g := k.folder.unfinished(goal{name: m.name, disk: n, format: f}.key(), callerProcess(ctx)); g != nil {
			return g.attach(ctx, &d.dirNode, out), 0
		}
	}
	ref, ok := m.ref(d.kind.site, n, f)
	if !ok || d.fresh(ctx, name) {
		return nil, syscall.ENOENT
	}
	return d.kind.image(ctx, &d.dirNode, name, ref, out)
}

// OpendirHandle lists the data disks in the listed formats that hold one disk and
// take this one. The boot disk, of number 0, resolves; it is the image itself.
func (d *disksNode) OpendirHandle(ctx context.Context, _ uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	ctx, cancel := patient(pipeline.Impatient(ctx, readdirStall))
	defer cancel()
	m, err := d.machine(ctx)
	if err != nil {
		return nil, 0, d.fail("readdir", "", err)
	}
	var files []fuse.DirEntry
	for n := 1; n < providers.MaxDisks; n++ {
		for _, f := range d.t.diskRows() {
			ref, ok := m.ref(d.kind.site, n, f)
			if !ok || ref.Entry.Reason != "" {
				continue
			}
			show, err := d.kind.shows(ctx, &ref, &f, true) // the image was opened when it was looked up
			if err != nil {
				return nil, 0, d.fail("readdir", "", err)
			}
			if show {
				files = append(files, fuse.DirEntry{Mode: syscall.S_IFREG, Name: m.stem(n) + "." + f.Exts[0], Ino: d.kind.inode(&ref, true)})
			}
		}
	}
	d.t.solve(d.path)
	if d.kind.folder != nil {
		files = append(files, d.kind.folder.list(disksKey(Decode(d.stem)), d.path)...)
	}
	return d.listDir(files), 0, 0
}

// stem is the name of a disk without its extension.
func (m machine) stem(n int) string {
	if n < len(m.disks) {
		return DiskStem(n, m.disks[n].Device)
	}
	return DiskStem(n, m.waiting[n].Waiting.Device)
}

// ref is what a program has written as it is now: an image, or one disk of it.
func (g *staged) ref(e providers.Entry) pipeline.Ref {
	r := pipeline.Ref{Site: g.folder.site, Entry: e, Disk: g.disk}
	if e.Kind == providers.Disks {
		r.Disk = 0
	}
	if g.format != nil && e.Kind != providers.Companions {
		r.Format = g.format.Name
	}
	return r
}

// overdue records that a data disk has waited for its image for long.
func (t *tree) overdue(o pipeline.Overdue) {
	w := o.Entry.Waiting
	if role := o.Entry.Role; role != "" {
		err := disk.Errorf(disk.NotFound, "wait for the image of a %s: none of the name %q has come since %s", role, o.Entry.Name, o.Since.UTC().Format(time.RFC3339))
		err = disk.Hint(err, "copy the image; the %s is kept, and is a part of it then", role)
		_ = t.fail("close", join(o.Site, "images/"+Encode(o.Entry.Name)+"."+string(role)), err)
		return
	}
	err := disk.Errorf(disk.NotFound, "wait for the machine of disk %d: since %s image %q has had no boot disk, or lacks a disk before this one",
		w.Number, o.Since.UTC().Format(time.RFC3339), o.Entry.Name)
	err = disk.Hint(err, "copy what is missing; the disk is kept, and is a part of the image then")
	name := DiskStem(w.Number, w.Device) + "." + o.Entry.Format
	_ = t.fail("close", join(o.Site, "images/"+disksKey(o.Entry.Name)+"/"+name), err)
}
