package pipeline

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"chromogenic/disk"
	"chromogenic/formats/layout"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// Ref names an image, or one disk of it, in a format: what a View is of.
type Ref struct {
	Site   string
	Entry  providers.Entry
	Format string // a name of the table of formats
	Disk   int    // 0 for the boot disk, with which an ova holds all others too
	Over   bool   // read on when the read budget is used up

	// Cleaned is how the image is cleaned that is shown, as Pipeline.Cleaned has it;
	// empty for the image as it is.
	Cleaned string
}

// Updated is the modification time of the Ref: that of the one disk, where it shows
// one that has a time of its own.
func (r Ref) Updated() time.Time {
	if r.Format != formatOVA && r.Disk < len(r.Entry.Disks) {
		if t := r.Entry.Disks[r.Disk].Updated; !t.IsZero() {
			return t
		}
	}
	return r.Entry.Updated
}

func (r Ref) key() string {
	return fmt.Sprintf("%s\x00%s\x00%d\x00%t", r.versionKey(), r.Format, r.Disk, r.Over)
}

// Stat is what stat(2) needs to know of a view.
type Stat struct {
	Size      int64 // bytes, exact
	Allocated int64 // bytes that are not holes
}

// A View is an open image in a format. It is a disk.Image; its extents come
// from a map that was frozen when the image was first seen.
//
// The view of a live instance is dense: it has no holes, so that its size is exact
// before it is captured. It is captured at its first read, or when it is copied
// by Copy, and shows that moment until it is closed; whether a read may do that
// (SnapshotPolicy) is for the caller to decide.
type View struct {
	*core
	brief  bool // nobody copies from it: its core need not be remembered
	closed atomic.Bool
}

// A core is what the views of one Ref share. It lives as long as one of them is
// open, and a little longer, so that a copy of it can still be recognised.
type core struct {
	p     *Pipeline
	Ref   Ref
	facts *facts
	meta  providers.Metadata
	lease *lease
	snap  providers.SnapSpec // how a live instance is captured
	image disk.Image         // the whole view
	seed  []byte
	pace  func(disk.Image) disk.Image // of what is read for one job; nil adds nothing
	key   string                      // in Pipeline.cores
	lost  lost                        // what programs could not read of it

	refs    int // under Pipeline.mu
	guesses int // how many of refs are none that keep an image; see guess
}

// Size is the exact length in bytes.
func (c *core) Size() int64 { return c.image.Size() }

// Extent is that of disk.Image.
func (c *core) Extent(off, n int64) (disk.Extent, error) { return c.image.Extent(off, n) }

// Allocated is the number of bytes that are not holes.
func (c *core) Allocated() int64 {
	n, err := disk.Allocated(c.image)
	if err != nil {
		return c.Size() // a frozen map does not fail; without one all is data
	}
	return n
}

// Settled tells whether the bytes are sure to be those of the entry's version. Of
// an image that was written a moment ago they need not be: a later write may
// have left the version as it is.
func (c *core) Settled() bool { return !c.facts.fluid }

// ReadAt reads as disk.Image says.
func (v *View) ReadAt(p []byte, off int64) (int, error) {
	if v.closed.Load() {
		return 0, disk.ErrClosed
	}
	n, err := v.image.ReadAt(p, off)
	if v.closed.Load() {
		return 0, disk.ErrClosed
	}
	if err != nil && err != io.EOF {
		v.lost.note(off, int64(len(p)), err)
	}
	return n, err
}

// Ready opens the source now, and captures a live instance, which otherwise the first
// read does.
func (v *View) Ready(ctx context.Context) error {
	_, err := v.lease.get(ctx)
	return err
}

// Verify compares what the view is made of with what is known of it at its source, as
// Copy does: with the digests of the provider, and with those of a machine's container.
// What was read in order as a whole was compared then. It fails with Malformed where
// they differ.
func (v *View) Verify(ctx context.Context) error {
	src, err := v.lease.get(ctx)
	if err != nil {
		return err
	}
	shown := []int{v.Ref.Disk}
	if v.Ref.Format == formatOVA && v.Ref.Disk == 0 {
		shown = nil
	}
	if err := src.verifyDisks(ctx, shown...); err != nil {
		return err
	}
	return v.verifyContainers(ctx, shown...)
}

var _ disk.Verifier = (*View)(nil)

// Close ends the view.
func (v *View) Close() error {
	switch {
	case v.closed.Swap(true):
	case v.brief:
		v.p.drop(v.core)
	default:
		v.p.linger(v.core)
	}
	return nil
}

// View opens the bytes of a Ref: immutable, random access, the same at every
// read. The caller closes it. Its source is opened at the first read and shared
// with all other views of the same image.
func (p *Pipeline) View(ctx context.Context, r Ref) (*View, error) {
	key := r.key()
	if r.Entry.Live() {
		key += "\x00" + jobs.NewID() // each view of an instance is a capture of its own
	}
	c, err := p.compose(ctx, r)
	if err != nil {
		return nil, err
	}
	c.key = key
	return &View{core: p.share(c)}, nil
}

// compose makes the core of a Ref: no byte of content is read for it.
func (p *Pipeline) compose(ctx context.Context, r Ref) (*core, error) {
	f, err := p.factsOf(ctx, r)
	if err != nil {
		p.metrics.failed(r.Site, err)
		return nil, err
	}
	c := &core{p: p, Ref: r, facts: f, meta: f.metadata(r.Entry), seed: r.seed()}
	// The source may be opened long after the caller of View has gone.
	c.lease = &lease{ctx: p.ctx, once: r.Entry.Live(), open: func(ctx context.Context) (*source, error) {
		if r.Entry.Live() {
			return p.captureCleaned(ctx, r, c.snap)
		}
		var src *source
		var err error
		if r.Cleaned != "" {
			src, err = p.openCleaned(ctx, r)
		} else {
			src, err = p.openSource(ctx, r.Site, r.Entry, sourceOptions{checked: !f.fluid, over: r.Over})
		}
		if err == nil && f.fluid {
			err = f.check(src, r.Entry)
		}
		if disk.KindOf(err) == disk.NotFound { // it was there when it was looked at
			err = disk.Errorf(disk.Stale, "read image: it is gone: %w", err)
		}
		return src, err
	}}
	if c.image, err = c.lay(r.Format, r.Disk, nil); err != nil {
		return nil, fmt.Errorf("show %q of %s as %s: %w", r.Entry.Name, r.Site, r.Format, err)
	}
	return c, nil
}

// lay makes the bytes of disk n of the image in a format; of all disks for an ova
// of the boot disk. They are the source's own container where it is of that
// format, a layout otherwise. Disk i passes through wrap, which may be nil.
func (c *core) lay(format string, n int, wrap func(i int, img disk.Image) disk.Image) (disk.Image, error) {
	row, err := rowOf(format)
	if err != nil {
		return nil, err
	}
	if c.passes(format, n) {
		return c.container(n), nil
	}
	if row.Layout == nil {
		return nil, disk.Errorf(disk.Unsupported, "lay out %s: the format can only be read", format)
	}
	if format == formatRaw && wrap == nil && n < len(c.facts.Disks) {
		return refined{c.disk(n), c.source(n, c.facts.Disks[n].Size)}, nil
	}
	m := c.machine(wrap)
	if !row.Machine || n > 0 {
		if n >= len(m.Disks) {
			return nil, disk.Errorf(disk.NotFound, "find disk %d: the image holds %d", n, len(m.Disks))
		}
		m.Disks = m.Disks[n : n+1]
	}
	if format == formatRaw {
		return m.Disks[0].Image, nil
	}
	return row.Layout(m, layout.Options{Seed: c.seed, Name: c.Ref.Entry.Name})
}

// A refined image is a disk with the holes that its source has come to know. Of what is
// laid out in a container they are no part: its bytes never change.
type refined struct {
	disk.Image
	source disk.Image
}

// Extent is that of the disk, and where that is data of the source.
func (r refined) Extent(off, n int64) (disk.Extent, error) {
	e, err := r.Image.Extent(off, n)
	if err != nil || e.Zero {
		return e, err
	}
	return r.source.Extent(off, e.Len)
}

// Allocated is that of the disk.
func (r refined) Allocated() int64 { return allocatedOf(r.Image) }

// Verify is that of the disk.
func (r refined) Verify(ctx context.Context) error { return disk.Verify(ctx, r.Image) }

// formatOVA is the name of the format that holds all disks of a machine.
const formatOVA = "ova"

// passes tells whether the source's own bytes are disk n of the image in a
// format.
func (c *core) passes(format string, n int) bool {
	own, ok := c.facts.own(n)
	return ok && format == own.Format && format != formatRaw
}

// container is the source's own bytes, with disk n in them.
func (c *core) container(n int) disk.Image {
	own, _ := c.facts.own(n)
	if own.File == nil {
		return c.disk(n)
	}
	return layout.Frozen(c.source(-1-n, own.Size), own.File)
}

// disk is one disk of the image.
func (c *core) disk(i int) disk.Image {
	d := c.facts.Disks[i]
	return layout.Frozen(c.source(i, d.Size), d.Map)
}

// source is disk n of the source, or for n < 0 the container of disk -1-n. What is
// read of it is counted.
func (c *core) source(n int, size int64) disk.Image {
	img := c.p.metrics.counted(c.Ref.Site, leased{c.lease, n, size})
	if c.pace != nil {
		return c.pace(img)
	}
	return img
}

// paced is c with its source read at the rate of a job, which owns it.
func (c *core) paced(pace func(disk.Image) disk.Image) *core {
	return &core{p: c.p, Ref: c.Ref, facts: c.facts, meta: c.meta, lease: c.lease, snap: c.snap, seed: c.seed, pace: pace}
}

// machine is all disks of the image, each passed through wrap.
func (c *core) machine(wrap func(i int, img disk.Image) disk.Image) *disk.Machine {
	m := &disk.Machine{Meta: c.meta.Meta}
	for i, d := range c.facts.Disks {
		img := c.disk(i)
		if wrap != nil {
			img = layout.Frozen(wrap(i, img), d.Map)
		}
		m.Disks = append(m.Disks, disk.Disk{Image: img, Device: d.Device, Bus: d.Bus})
	}
	return m
}

// seed is what the identifiers inside the containers of an image derive from.
func (r Ref) seed() []byte {
	id := r.Entry.ID + "\x00" + r.Entry.Version
	if r.Cleaned != "" {
		id += cleanedMark + r.Cleaned
	}
	sum := sha256.Sum256([]byte(id))
	return sum[:]
}

// Stat tells the size of a view. The first time it may open the source for its
// map; after that, and after a restart, it costs nothing. It fails as View does:
// Malformed for an image that cannot be read, TooLarge or Invalid where the
// format does not take the disk, Unreachable, Stale.
func (p *Pipeline) Stat(ctx context.Context, r Ref) (Stat, error) {
	c, err := p.compose(ctx, r)
	if err != nil {
		return Stat{}, err
	}
	return Stat{Size: c.Size(), Allocated: c.Allocated()}, nil
}

// Machine tells what an image holds, from memory where it is known: disks with
// size, device and bus, whose bytes cannot be read, and metadata.
func (p *Pipeline) Machine(ctx context.Context, r Ref) (*disk.Machine, error) {
	c, err := p.compose(ctx, r)
	if err != nil {
		return nil, err
	}
	return c.machine(nil), nil
}

// lingering is how long the source of a view that was closed stays open: rsync
// closes what it sends before the receiver has written the last of it. It may have
// sent some more small images while the receiver waits for the copy of a big one, so
// nothing is closed while copies run.
const lingering = 5 * time.Second

// lingerers bounds how many cores wait so.
const lingerers = 64

// share gives the core that is there for the same key and of the same facts, or
// puts c there. Either counts one more user. Facts that are looked for anew may be
// others, and then the old core is that of its old views alone.
func (p *Pipeline) share(c *core) *core {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.cores[c.key]; old != nil && old.facts.same(c.facts) {
		c = old
	}
	p.cores[c.key] = c
	c.refs++
	return c
}

// retain counts one more user of a core that has one.
func (p *Pipeline) retain(c *core) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.refs++
}

// linger drops a use, after a while: the newest of those that wait push out the
// oldest.
func (p *Pipeline) linger(c *core) {
	w := &waiting{c}
	p.mu.Lock()
	p.late = append(p.late, w)
	var out *waiting
	if len(p.late) > lingerers {
		out = p.late[0]
	}
	p.mu.Unlock()
	p.await(w)
	if out != nil {
		p.leave(out)
	}
}

// await lets go of a waiting core when its time is over.
func (p *Pipeline) await(w *waiting) {
	time.AfterFunc(lingering, func() {
		if p.jobs.Running() > 0 && p.ctx.Err() == nil {
			p.await(w)
			return
		}
		p.leave(w)
	})
}

// A waiting core has one use that its view has given up.
type waiting struct{ core *core }

// leave ends the waiting, once.
func (p *Pipeline) leave(w *waiting) {
	p.mu.Lock()
	found := false
	for i, x := range p.late {
		if x == w {
			p.late = append(p.late[:i], p.late[i+1:]...)
			found = true
			break
		}
	}
	p.mu.Unlock()
	if found {
		p.drop(w.core)
	}
}

// drop gives a use back; the last one closes the source.
func (p *Pipeline) drop(c *core) {
	p.mu.Lock()
	c.refs--
	last := c.refs == 0
	if last && p.cores[c.key] == c {
		delete(p.cores, c.key)
	}
	p.mu.Unlock()
	if !last {
		return
	}
	if err := c.lease.close(); err != nil {
		p.log.Warn("close image", "site", c.Ref.Site, "name", c.Ref.Entry.Name, "error", err)
	}
}

// guess counts n more uses of each core as those of a spool that compares what is
// written first: an image may be removed meanwhile, for nothing depends on it yet, and
// that takes a while where many are open.
func (p *Pipeline) guess(cores []*core, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cores {
		c.guesses += n
	}
}

// recent gives the cores that a program which writes now may be copying: those
// that are open or were a moment ago, and can be read without a capture. Each
// counts one more user. Of two that are alike it is taken to copy the first, and so
// those of clouds come first: their copies are cleaned.
func (p *Pipeline) recent() []*core {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*core
	for _, c := range p.cores {
		if !c.Ref.Entry.Live() || c.lease.opened() {
			c.refs++
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *core) int {
		return cmp.Or(p.ofCloud(b.Ref.Site)-p.ofCloud(a.Ref.Site), cmp.Compare(a.key, b.key))
	})
	return out
}

// ofCloud is 1 for a site that is a cloud.
func (p *Pipeline) ofCloud(site string) int {
	if s, err := p.site(site); err == nil && s.made.Cloud {
		return 1
	}
	return 0
}
