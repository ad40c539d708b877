package fs

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// indexed is an index with the moment of the listing that it is of.
type indexed struct {
	at time.Time
	x  *Index
}

// index is that of the present listing of a site, made once for each listing: an
// ls -l looks up every file. Who reads the whole directory wants it as it is now.
func (t *tree) index(ctx context.Context, site string, kind providers.Kind, now bool) (*Index, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	list := t.p.List
	if now {
		list = t.p.ListNow
	}
	l, err := list(ctx, site, kind)
	if err != nil {
		return nil, err
	}
	key := site + "/" + string(kind)
	t.indexMu.Lock()
	defer t.indexMu.Unlock()
	if have, ok := t.indexes[key]; ok && have.at.Equal(l.At) {
		return have.x, nil
	}
	x := NewIndex(l.Entries)
	t.indexes[key] = indexed{l.At, x}
	return x, nil
}

// statsAtOnce bounds how many images of a folder one readdir looks into at a
// time.
const statsAtOnce = 4

// readdirStall is how long a readdir waits for an image whose disk does not answer,
// and lookupStall a lookup: with either, the kernel holds a lock of the directory.
const (
	readdirStall = 3 * time.Second
	lookupStall  = 30 * time.Second
)

// listsJSON tells whether metadata is listed.
func (t *tree) listsJSON() bool { return slices.Contains(t.formats, JSONName) }

// rows are the formats that are listed.
func (t *tree) rows() []formats.Format {
	var rows []formats.Format
	for _, name := range t.formats {
		if f, ok := formats.ByName(name); ok && f.Layout != nil {
			rows = append(rows, f)
		}
	}
	return rows
}

// files are what the directory lists: each image that can be read, in each listed
// format that takes its disk. Of a cloud's, which are not opened for that, it leaves out
// those of which somebody has found out already that they cannot be read. A directory may
// have tens of thousands, so nothing of an image is copied for each of them.
func (k *kindNode) files(ctx context.Context) ([]listedFile, error) {
	ctx, cancel := patient(pipeline.Impatient(ctx, readdirStall))
	defer cancel()
	x, err := k.t.index(ctx, k.site, k.view.kind, true)
	if err != nil {
		return nil, err
	}
	l, shown := k.lister(), x.Shown()
	files := make([][]listedFile, len(shown))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(statsAtOnce)
	for i := range shown {
		list := func() (err error) { files[i], err = l.files(ctx, &shown[i]); return err }
		if l.cheap {
			g.Go(list)
		} else if err := list(); err != nil {
			return nil, err
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(files...), nil
}

// A listedFile is an image in a format, as a directory lists it.
type listedFile struct {
	of  *Named
	ext string
	ino uint64
}

func (f listedFile) name() string { return f.of.Name + "." + f.ext }

// A lister lists the files of images.
type lister struct {
	k     *kindNode
	cheap bool // images may be opened for it
	rows  []formats.Format
	alone map[string]formats.Format // those whose images are listed as what they are alone, an ISO, whatever is listed of disks
	more  []formats.Format          // of every image
}

func (k *kindNode) lister() *lister {
	l := &lister{k: k, cheap: k.cheap(), rows: k.t.rows(), alone: map[string]formats.Format{}}
	for _, f := range formats.Table() {
		if f.Alone {
			l.alone[f.Name] = f
		}
	}
	if k.view.images() && k.t.listsJSON() {
		l.more = []formats.Format{jsonFormat()}
	}
	return l
}

// rowsOf are the formats in which an image is listed, but for more.
func (l *lister) rowsOf(e *providers.Entry) []formats.Format {
	if f, ok := l.alone[e.Format]; ok {
		return []formats.Format{f}
	}
	return l.rows
}

func (l *lister) files(ctx context.Context, n *Named) (files []listedFile, err error) {
	if n.Entry.Reason != "" || !l.cheap && l.k.t.p.Unreadable(l.k.site, n.Entry) {
		return nil, nil
	}
	rows := l.rowsOf(&n.Entry)
	files = make([]listedFile, 0, len(rows)+len(l.more))
	ref := pipeline.Ref{Site: l.k.site, Entry: n.Entry}
	add := func(f *formats.Format) error {
		ref.Format = f.Name
		show, err := l.k.shows(ctx, &ref, f, l.cheap)
		if show {
			files = append(files, listedFile{n, f.Exts[0], l.k.inode(&ref, false)})
		}
		return err
	}
	for _, all := range [][]formats.Format{rows, l.more} {
		for i := range all {
			if err := add(&all[i]); err != nil {
				return nil, err
			}
		}
	}
	return append(files, l.k.companions(n)...), nil
}

// cheap tells whether the images of the provider may be opened by a readdir.
func (k *kindNode) cheap() bool {
	p, _ := k.t.p.Provider(k.site)
	prober, ok := p.(providers.Prober)
	return ok && prober.ProbeOnList()
}

// shows tells whether a listing shows an image in a format. One that surely
// cannot be read so is left out, for it would make every nightly rsync fail. One
// whose state is in doubt stays in: what is missing here, rsync --delete deletes.
func (k *kindNode) shows(ctx context.Context, ref *pipeline.Ref, f *formats.Format, cheap bool) (bool, error) {
	json := f.Name == JSONName
	if json && ref.Entry.MetaReason != "" {
		return false, nil
	}
	if !cheap {
		return f.MaxSize == 0 || ref.Entry.VirtualSize <= f.MaxSize, nil
	}
	var err error
	if json {
		_, err = k.t.p.Metadata(ctx, ref.Site, ref.Entry)
	} else {
		_, err = k.t.p.Stat(ctx, *ref)
	}
	if err == nil || errors.Is(err, pipeline.ErrStalled) {
		return true, nil
	}
	switch disk.KindOf(err) {
	case disk.Malformed, disk.Unsupported, disk.TooLarge, disk.Invalid, disk.NotFound:
		return false, nil
	case disk.Unreachable, disk.Timeout, disk.Cancelled, disk.Interrupted:
		return false, err
	}
	return true, nil
}
