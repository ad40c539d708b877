package pipeline

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/providers"
)

// A source is an image of a provider, opened and taken apart.
type source struct {
	disk.Image // the container's bytes
	format     formats.Format
	machine    *disk.Machine
	resolved   bool               // files beside the container hold parts of it
	captured   *providers.Capture // of a live machine: the moment that this is
	release    func() error
}

// close closes the disks, then the container, then what the provider keeps for
// it.
func (s *source) close() error {
	err := s.machine.Close()
	if e := s.Image.Close(); err == nil {
		err = e
	}
	if s.release != nil {
		if e := s.release(); err == nil {
			err = e
		}
	}
	return err
}

// verifyContainer compares the container's bytes with the digest that the provider has
// of them, where it has one. What was read in order as a whole was compared then.
func (c *core) verifyContainer(ctx context.Context) error {
	src, err := c.lease.get(ctx)
	if err != nil {
		return err
	}
	if err := disk.Verify(ctx, src.Image); err != nil {
		return fmt.Errorf("verify source: %w", err)
	}
	return nil
}

// openSource opens an entry at its provider and takes it apart. Checked says that
// this was done before with the same version.
func (p *Pipeline) openSource(ctx context.Context, site string, e providers.Entry, checked bool) (*source, error) {
	s, err := p.site(site)
	if err != nil {
		return nil, err
	}
	src, err := s.provider.Open(ctx, e, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s %q of %s: %w", e.Kind, e.Name, site, err)
	}
	if !s.prober && !e.Live() {
		src.Image = p.cache.Image(imageKey(site, e), src.Image)
	}
	out, err := decode(src, trust{ambiguous: strings.HasSuffix(e.ID, ".img"), checked: checked})
	if err != nil {
		src.Close()
		return nil, fmt.Errorf("read %s %q of %s: %w", e.Kind, e.Name, site, err)
	}
	return out, nil
}

// trust is what is known of a container before it is opened.
type trust struct {
	ambiguous bool // "raw" is only the habit of a name such as x.img: a container under it is refused, and not served as the disk it is not
	checked   bool // it has been opened before
}

// decode takes a container apart. Where the format is stated it is that one.
func decode(src providers.Source, t trust) (*source, error) {
	s := &source{Image: src.Image}
	stated := src.Format
	if stated == "" || stated == formatRaw && t.ambiguous {
		found, err := formats.Detect(src)
		if err != nil {
			return nil, err
		}
		if stated == formatRaw && found.Name != formatRaw {
			err := disk.Errorf(disk.Malformed, "open raw image: it begins as a file of format %s", found.Name)
			return nil, disk.Hint(err, "give the file the extension .%s, or .raw if it really is a raw disk", found.Exts[0])
		}
		stated = found.Name
	}
	var err error
	if s.format, err = rowOf(stated); err != nil {
		return nil, err
	}
	resolve := src.Resolve
	if resolve != nil {
		resolve = func(name string) (disk.Image, error) {
			s.resolved = true
			return src.Resolve(name)
		}
	}
	s.machine, err = s.format.Open(src.Image, formats.OpenOptions{Name: src.Name, Resolve: resolve, Checked: t.checked})
	return s, err
}

// A lease opens a source when it is first needed and closes it at the end. All
// views of one image in one format share one.
type lease struct {
	ctx  context.Context // of readers, who have none: the pipeline's
	open func(context.Context) (*source, error)
	keep bool // the source is the caller's: never closed here

	mu     sync.Mutex // held while the source is opened, which may take long
	src    *source
	closed bool
	ready  atomic.Bool // src is there
}

// get gives the source. An error is not remembered: the provider may come back.
func (l *lease) get(ctx context.Context) (*source, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, disk.ErrClosed
	}
	if l.src == nil {
		src, err := l.open(ctx)
		if err != nil {
			return nil, err
		}
		l.src = src
		l.ready.Store(true)
	}
	return l.src, nil
}

// opened tells whether the source is open.
func (l *lease) opened() bool { return l.ready.Load() }

// close closes the source if it was opened.
func (l *lease) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.ready.Store(false)
	if l.src == nil {
		return nil
	}
	src := l.src
	l.src = nil
	if l.keep {
		return nil
	}
	return src.close()
}

// A leased image is one that a lease's source holds: disk n, or the container
// for n < 0. Its size is known before the source is open; its extents are those
// of a frozen map around it.
type leased struct {
	*lease
	n    int
	size int64
}

func (l leased) Size() int64 { return l.size }

func (l leased) Close() error { return nil }

func (l leased) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, l.size)
	return disk.Extent{Off: off, Len: n}, err
}

func (l leased) ReadAt(p []byte, off int64) (int, error) {
	src, err := l.get(l.ctx)
	if err != nil {
		return 0, err
	}
	img := src.Image
	if l.n >= 0 {
		if l.n >= len(src.machine.Disks) {
			return 0, disk.Errorf(disk.Stale, "read disk %d: the image holds %d now", l.n, len(src.machine.Disks))
		}
		img = src.machine.Disks[l.n]
	}
	if img.Size() != l.size {
		return 0, disk.Errorf(disk.Stale, "read image: its size is %d bytes now, it was %d", img.Size(), l.size)
	}
	return img.ReadAt(p, off)
}
