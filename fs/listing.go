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

// A listedFile is an image in a format, as a directory lists it.
type listedFile struct {
	Named
	ref    pipeline.Ref
	format formats.Format
}

func (f listedFile) name() string { return f.Name + "." + f.format.Exts[0] }

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

// rowsOf are the formats in which an image is listed: an ISO as what it is alone,
// whatever is listed of disks.
func (t *tree) rowsOf(e providers.Entry) []formats.Format {
	if f, ok := formats.ByName(e.Format); ok && f.Alone {
		return []formats.Format{f}
	}
	return t.rows()
}

// files are what the directory lists: each image that can be read, in each listed
// format that takes its disk. Of a cloud's, which are not opened for that, it leaves out
// those of which somebody has found out already that they cannot be read.
func (k *kindNode) files(ctx context.Context) ([]listedFile, error) {
	ctx, cancel := patient(pipeline.Impatient(ctx, readdirStall))
	defer cancel()
	x, err := k.t.index(ctx, k.site, k.view.kind, true)
	if err != nil {
		return nil, err
	}
	cheap, shown := k.cheap(), x.Shown()
	files := make([][]listedFile, len(shown))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(statsAtOnce)
	for i, n := range shown {
		if n.Entry.Reason != "" || !cheap && k.t.p.Unreadable(k.site, n.Entry) {
			continue
		}
		g.Go(func() error {
			rows := k.t.rowsOf(n.Entry)
			if k.view.images() && k.t.listsJSON() {
				rows = append(rows, jsonFormat())
			}
			for _, f := range rows {
				ref := pipeline.Ref{Site: k.site, Entry: n.Entry, Format: f.Name}
				show, err := k.shows(ctx, ref, f, cheap)
				if err != nil {
					return err
				}
				if show {
					files[i] = append(files[i], listedFile{n, ref, f})
				}
			}
			files[i] = append(files[i], k.companions(n)...)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(files...), nil
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
func (k *kindNode) shows(ctx context.Context, ref pipeline.Ref, f formats.Format, cheap bool) (bool, error) {
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
		_, err = k.t.p.Stat(ctx, ref)
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
