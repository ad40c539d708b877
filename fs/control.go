package fs

import (
	"bytes"
	"context"
	"encoding/json"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"chromogenic/pipeline"
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

// controlFiles are the files in it.
func (t *tree) controlFiles() []controlText {
	return []controlText{
		{"errors", t.lines},
		{"metrics", t.metrics},
		{refreshName, func() []byte { return nil }},
		{"status", t.status},
		{"version", func() []byte { return []byte(t.o.Version + "\n") }},
	}
}

// refreshName is the file that forgets all listings when it is touched.
const refreshName = "refresh"

// Lookup finds a file, or the directory of jobs.
func (d *controlDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	if name == jobsName {
		j := &jobsDir{fixedDir{d.sub(name)}}
		return d.attach(ctx, j, j.path, out), 0
	}
	return d.lookText(ctx, d.t.controlFiles(), name, out)
}

// OpendirHandle lists them.
func (d *controlDir) OpendirHandle(context.Context, uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	return d.listDir(append(d.texts(d.t.controlFiles()), d.subdirs(jobsName)...)), 0, 0
}

// A controlText is a file whose text is made when somebody looks.
type controlText struct {
	name string
	text func() []byte
}

// lookText finds a file of a directory of texts.
func (d *dirNode) lookText(ctx context.Context, files []controlText, name string, out *fuse.EntryOut) (*gofuse.Inode, syscall.Errno) {
	for _, c := range files {
		if c.name == name {
			f := &controlFile{t: d.t, controlText: c}
			f.attr(&out.Attr)
			return d.NewInode(ctx, f, gofuse.StableAttr{Mode: syscall.S_IFREG, Ino: inode("control", join(d.path, name))}), 0
		}
	}
	return nil, syscall.ENOENT
}

// texts are the entries of the files.
func (d *dirNode) texts(files []controlText) []fuse.DirEntry {
	var out []fuse.DirEntry
	for _, c := range files {
		out = append(out, fuse.DirEntry{Mode: syscall.S_IFREG, Name: c.name, Ino: inode("control", join(d.path, c.name))})
	}
	return out
}

// controlFile is text that is made when it is opened. Writing to refresh, or
// touching it, forgets all listings.
type controlFile struct {
	gofuse.Inode
	controlText
	t *tree
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
	if f.name == refreshName {
		mode = 0o640
	}
	*out = fuse.Attr{
		Ino: out.Ino, Mode: syscall.S_IFREG | f.t.mode(mode), Nlink: 1, Owner: f.t.owner,
		Size: uint64(len(f.text())), Blksize: blockSize,
	}
	out.SetTimes(&f.t.mounted, &f.t.mounted, &f.t.mounted)
}

// Getattr shows the size of the present text.
func (f *controlFile) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.attr(&out.Attr)
	return 0
}

// Setattr is what touch and > do to refresh.
func (f *controlFile) Setattr(_ context.Context, _ gofuse.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if f.name != refreshName {
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
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY && f.name != refreshName {
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
		Jobs       []runningJob `json:"jobs"`

		Listings []pipeline.ListingState `json:"listings"`

		Traffic []pipeline.Traffic `json:"traffic"` // of each provider
	}{t.o.Version, t.mounted.UTC(), t.o.ReadOnly, t.formats, t.p.SiteNames(), []unfinished{}, t.running(), t.p.Listings(), t.p.Traffic()}
	for _, f := range t.allFolders() {
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
	return jsonText(s)
}

// jsonText is v as JSON for people.
func jsonText(v any) []byte {
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil // never happens: the fields are text and numbers
	}
	return append(out, '\n')
}

// metrics are the numbers of the pipeline for Prometheus.
func (t *tree) metrics() []byte {
	var b bytes.Buffer
	if err := t.p.Metrics(&b); err != nil {
		t.log.Warn("gather metrics", "error", err)
	}
	return b.Bytes()
}
