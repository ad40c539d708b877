package fs

import (
	"context"
	"encoding/json"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// controlName is the directory for people and scripts. It resolves and is not
// listed, so that rsync -a, du and find pass it by.
const controlName = ".chromogenic"

// controlDir is .chromogenic.
type controlDir struct{ fixedDir }

var (
	_ gofuse.NodeLookuper       = (*controlDir)(nil)
	_ gofuse.NodeOpendirHandler = (*controlDir)(nil)
)

// controlFiles are the names in it.
func controlFiles() []string { return []string{"errors", "refresh", "status", "version"} }

// Lookup finds a file.
func (d *controlDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	for _, have := range controlFiles() {
		if have == name {
			f := &controlFile{t: d.t, name: name}
			f.attr(&out.Attr)
			return d.NewInode(ctx, f, gofuse.StableAttr{Mode: syscall.S_IFREG, Ino: inode("control", name)}), 0
		}
	}
	return nil, syscall.ENOENT
}

// OpendirHandle lists the files.
func (d *controlDir) OpendirHandle(context.Context, uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	var files []fuse.DirEntry
	for _, name := range controlFiles() {
		files = append(files, fuse.DirEntry{Mode: syscall.S_IFREG, Name: name, Ino: inode("control", name)})
	}
	return d.listDir(files), 0, 0
}

// controlFile is text that is made when it is opened. Writing to refresh, or
// touching it, forgets all listings.
type controlFile struct {
	gofuse.Inode
	t    *tree
	name string
}

var (
	_ gofuse.NodeGetattrer = (*controlFile)(nil)
	_ gofuse.NodeSetattrer = (*controlFile)(nil)
	_ gofuse.NodeOpener    = (*controlFile)(nil)
	_ gofuse.NodeStatfser  = (*controlFile)(nil)
	_ gofuse.FileReader    = (*controlHandle)(nil)
	_ gofuse.FileWriter    = (*controlHandle)(nil)
)

func (f *controlFile) attr(out *fuse.Attr) {
	mode := uint32(0o440)
	if f.name == "refresh" {
		mode = 0o640
	}
	*out = fuse.Attr{
		Ino: out.Ino, Mode: syscall.S_IFREG | mode, Nlink: 1, Owner: f.t.owner(),
		Size: uint64(len(f.text())), Blksize: blockSize,
	}
	out.SetTimes(&f.t.mounted, &f.t.mounted, &f.t.mounted)
}

// text is the content now.
func (f *controlFile) text() []byte {
	switch f.name {
	case "version":
		return []byte(f.t.o.Version + "\n")
	case "errors":
		return f.t.lines()
	case "status":
		return f.t.status()
	}
	return nil
}

// Getattr shows the size of the present text.
func (f *controlFile) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.attr(&out.Attr)
	return 0
}

// Setattr is what touch and > do to refresh.
func (f *controlFile) Setattr(_ context.Context, _ gofuse.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if f.name != "refresh" {
		return syscall.EPERM
	}
	if _, ok := in.GetMTime(); ok {
		f.t.p.Refresh()
	}
	f.attr(&out.Attr)
	return 0
}

// Statfs is that of every node.
func (f *controlFile) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	return statfs(out)
}

// Open takes the text as it is now.
func (f *controlFile) Open(_ context.Context, flags uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY && f.name != "refresh" {
		return nil, 0, syscall.EPERM
	}
	return &controlHandle{f.t, f.text()}, fuse.FOPEN_DIRECT_IO, 0
}

type controlHandle struct {
	t    *tree
	text []byte
}

// Read gives the text.
func (h *controlHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if off >= int64(len(h.text)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, h.text[off:])]), 0
}

// Write refreshes, whatever is written.
func (h *controlHandle) Write(_ context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	h.t.p.Refresh()
	return uint32(len(data)), 0
}

// status is what the mount is doing, as JSON. It asks no provider.
func (t *tree) status() []byte {
	type unfinished struct {
		Path  string `json:"path"`
		Bytes int64  `json:"bytes"`
	}
	s := struct {
		Version    string       `json:"version"`
		Mounted    time.Time    `json:"mounted"`
		ReadOnly   bool         `json:"read_only"`
		Formats    []string     `json:"formats"`
		Providers  []string     `json:"providers"`
		Unfinished []unfinished `json:"unfinished"`
	}{t.o.Version, t.mounted.UTC(), t.o.ReadOnly, t.formats, t.p.SiteNames(), []unfinished{}}
	for _, f := range t.folders {
		f.mu.Lock()
		for _, g := range f.files {
			if !g.public() || g.is(writing) {
				g.mu.Lock()
				s.Unfinished = append(s.Unfinished, unfinished{g.path, g.spool.Size()})
				g.mu.Unlock()
			}
		}
		f.mu.Unlock()
	}
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil // never happens: the fields are text and numbers
	}
	return append(out, '\n')
}
