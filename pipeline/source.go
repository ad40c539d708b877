package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
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
	metadata   providers.Metadata // that came with it
	set        []*source          // of data disks that are kept apart; their disks are those of the machine too
	release    func() error
}

// close closes the disks, then the containers, then what the provider keeps for
// them.
func (s *source) close() error {
	err := s.machine.Close()
	if e := s.Image.Close(); err == nil {
		err = e
	}
	for _, one := range s.set {
		if e := one.Image.Close(); err == nil {
			err = e
		}
	}
	if s.release != nil {
		if e := s.release(); err == nil {
			err = e
		}
	}
	return err
}

// sourceOptions are those of openSource.
type sourceOptions struct {
	checked bool                                    // it was opened before, with the same version
	over    bool                                    // it may be read beyond the budget
	brief   bool                                    // its tables are read, and no content
	wrap    func(providers.Source) providers.Source // what is opened passes through it; may be nil
}

// verifyContainers compares the bytes of the containers of disks, all for none, with the
// digests that the provider has of them, where it has some. What was read in order as a
// whole was compared then, and is not read again.
func (c *core) verifyContainers(ctx context.Context, disks ...int) error {
	src, err := c.lease.get(ctx)
	if err != nil {
		return err
	}
	if c.pace != nil {
		ctx = disk.Through(ctx, c.pace)
	}
	for n, one := range append([]*source{src}, src.set...) {
		if len(disks) > 0 && len(src.set) > 0 && !slices.Contains(disks, n) {
			continue
		}
		if err := disk.Verify(ctx, one.Image); err != nil {
			return fmt.Errorf("verify source: %w", err)
		}
	}
	return nil
}

// verifyDisks compares disks, all for none, with the digests that the container itself has
// of them. The disk of any other container is its bytes, at most, and those are for verifyContainers.
func (s *source) verifyDisks(ctx context.Context, disks ...int) error {
	for n, d := range s.machine.Disks {
		one := s
		if len(s.set) > 0 && n > 0 {
			one = s.set[n-1]
		}
		if !one.format.Machine || len(disks) > 0 && !slices.Contains(disks, n) {
			continue
		}
		if err := disk.Verify(ctx, d); err != nil {
			return fmt.Errorf("verify disk %d: %w", n+1, err)
		}
	}
	return nil
}

// openSource opens an entry at its provider and takes it apart.
func (p *Pipeline) openSource(ctx context.Context, site string, e providers.Entry, o sourceOptions) (*source, error) {
	s, err := p.site(site)
	if err != nil {
		return nil, err
	}
	var disks []providers.Source
	fail := func(err error) (*source, error) {
		for _, d := range disks {
			d.Close()
		}
		return nil, fmt.Errorf("open %s %q of %s: %w", e.Kind, e.Name, site, err)
	}
	for n := range max(1, len(e.Disks)) {
		src, err := s.provider.Open(ctx, e, n)
		if err != nil {
			return fail(err)
		}
		src = s.traffic.metered(p.ctx, src, o.over)
		if !s.prober && !e.Live() {
			key := imageKey(site, e)
			if n > 0 {
				key += "\x00" + strconv.Itoa(n)
			}
			if o.over {
				key += "\x00over" // who may read on must not wait for the refusal of another
			}
			if src.Image, err = p.near(ctx, key, src, o); err != nil {
				return fail(err)
			}
		} else if o.wrap != nil {
			src = o.wrap(src)
		}
		disks = append(disks, src)
	}
	out, err := decodeSet(disks, e.Disks, func(src providers.Source) trust {
		return trust{ambiguous: strings.HasSuffix(cmp.Or(src.Name, e.ID), ".img"), checked: o.checked}
	})
	if err != nil {
		return nil, fmt.Errorf("read %s %q of %s: %w", e.Kind, e.Name, site, err)
	}
	return out, nil
}

// near makes a source of a provider that is far away fit to be read in any order.
func (p *Pipeline) near(ctx context.Context, key string, src providers.Source, o sourceOptions) (disk.Image, error) {
	if _, ok := fillerOf(src.Image); ok && src.InOrder {
		return newFilled(p, key, src.Image), nil
	}
	if o.wrap != nil {
		src = o.wrap(src)
	}
	switch {
	case src.InOrder:
		return p.fetchWhole(ctx, key, src.Image, false)
	case o.brief:
		return p.brief.Image(key, src.Image), nil
	case src.Streams:
		return p.cache.Stream(key, src.Image), nil
	}
	return p.cache.Image(key, src.Image), nil
}

// decodeSet takes apart the disks of a machine, one container each, the boot disk
// first, and makes one machine of them. It closes them all when it fails.
func decodeSet(disks []providers.Source, info []providers.DiskInfo, trusted func(providers.Source) trust) (*source, error) {
	var all *source
	fail := func(i int, err error) (*source, error) {
		if all != nil {
			_ = all.close()
		}
		for _, d := range disks[i:] {
			_ = d.Close()
		}
		if len(disks) > 1 {
			err = fmt.Errorf("disk %d: %w", i, err)
		}
		return nil, err
	}
	for i, d := range disks {
		one, err := decode(d, trusted(d))
		if err != nil {
			return fail(i, err)
		}
		if len(disks) > 1 && len(one.machine.Disks) != 1 {
			err := disk.Errorf(disk.Malformed, "its file holds %d disks, and is one disk of a machine", len(one.machine.Disks))
			return fail(i, errors.Join(err, one.machine.Close()))
		}
		if i < len(info) && info[i].Device != "" {
			one.machine.Disks[0].Device = info[i].Device
		}
		if all == nil {
			all = one
			continue
		}
		all.machine.Disks = append(all.machine.Disks, one.machine.Disks...)
		all.set = append(all.set, one)
	}
	if all == nil {
		return nil, disk.Errorf(disk.Malformed, "it holds no disk")
	}
	return all, nil
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
	once bool // opened anew it would be another: the capture of a live machine

	mu     sync.Mutex // held while the source is opened, which may take long
	src    *source
	lost   []*source // that could not be reached any longer
	closed bool
	ready  atomic.Bool // src is there
	pulse              // of the reads
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

// lose has the source opened anew at the next read: a disk that was pulled out and
// is there again has other open files. Those who read the old one go on with it.
func (l *lease) lose(src *source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.src != src || l.keep || l.once {
		return
	}
	l.src, l.lost = nil, append(l.lost, src)
	l.ready.Store(false)
}

// opened tells whether the source is open.
func (l *lease) opened() bool { return l.ready.Load() }

// close closes the source if it was opened.
func (l *lease) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.ready.Store(false)
	for _, src := range l.lost {
		_ = src.close() // of a disk that is gone
	}
	src := l.src
	l.src, l.lost = nil, nil
	if src == nil || l.keep {
		return nil
	}
	return src.close()
}

// A leased image is one that a lease's source holds: disk n, or for n < 0 the
// container of disk -1-n. Its size is known before the source is open; its extents are
// those of a frozen map around it, but for what a filled one comes to know.
type leased struct {
	*lease
	n    int
	size int64
}

func (l leased) Size() int64 { return l.size }

func (l leased) Close() error { return nil }

func (l leased) Extent(off, n int64) (disk.Extent, error) {
	n, err := disk.CheckRange(off, n, l.size)
	if d := l.late(); d != nil && err == nil && l.n == 0 && d.Size() == l.size {
		return d.Extent(off, n)
	}
	return disk.Extent{Off: off, Len: n}, err
}

// late is the disk of the source if that is open and filled: with what was cleaned on it.
func (l *lease) late() disk.Image {
	if !l.opened() || !l.mu.TryLock() {
		return nil
	}
	defer l.mu.Unlock()
	if l.src == nil {
		return nil
	}
	if _, ok := l.src.Image.(*filled); !ok || len(l.src.machine.Disks) != 1 {
		return nil
	}
	return l.src.machine.Disks[0]
}

// image is that of a leased one.
func (s *source) image(n int) (disk.Image, error) {
	switch {
	case n == -1:
		return s.Image, nil
	case n < 0 && -1-n <= len(s.set):
		return s.set[-2-n].Image, nil
	case n >= 0 && n < len(s.machine.Disks):
		return s.machine.Disks[n], nil
	}
	return nil, disk.Errorf(disk.Stale, "read disk %d: the image holds %d now", max(n, -1-n), len(s.machine.Disks))
}

func (l leased) ReadAt(p []byte, off int64) (int, error) {
	l.begin()
	defer l.end()
	src, err := l.get(l.ctx)
	if err != nil {
		return 0, err
	}
	img, err := src.image(l.n)
	if err != nil {
		return 0, err
	}
	if img.Size() != l.size {
		return 0, disk.Errorf(disk.Stale, "read image: its size is %d bytes now, it was %d", img.Size(), l.size)
	}
	k, err := img.ReadAt(p, off)
	if err != nil && disk.KindOf(err) == disk.Unreachable {
		l.lose(src)
	}
	return k, err
}
