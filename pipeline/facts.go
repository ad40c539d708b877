package pipeline

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/formats/layout"
	"chromogenic/providers"
)

// factsBudget bounds, in bytes, the allocation maps that are held in memory.
// The others come back from the state when they are needed.
const factsBudget = 32 << 20

// fluidTime is how long facts hold that may be others in a moment: of an image
// that was written so short ago that a clock of coarse ticks (2 s on FAT) need not
// show the next write, and of one that cannot be read.
const fluidTime = 3 * time.Second

// facts are what one look into an image has told: enough for the size and the
// layout of every format, without its bytes. They hold for one version, and are
// kept for ever, so that what was laid out once is laid out so again; those that
// are fluid are neither kept nor relied on for long.
type facts struct {
	Format    string // of the container
	Contained bool   // it is one file, so that it can be handed on as it is
	FileSize  int64
	File      *layout.Map // holes of the container; nil unless Contained and not raw
	Disks     []diskFacts
	Meta      disk.Meta

	err     error // why the image cannot be read
	fluid   bool
	learned time.Time
}

type diskFacts struct {
	Size        int64 // bytes
	Device, Bus string
	Map         *layout.Map
	Own         *ownFacts // of a data disk that is one file; nil for others, and for the boot disk
}

// ownFacts are of the container that a data disk has to itself: those that facts
// have of the boot disk's.
type ownFacts struct {
	Format string
	Size   int64       // bytes
	File   *layout.Map // nil for raw
}

// own is the container that holds disk n and can be handed on as it is; ok is false
// where there is none.
func (f *facts) own(n int) (o ownFacts, ok bool) {
	switch {
	case n == 0:
		return ownFacts{f.Format, f.FileSize, f.File}, f.Contained
	case n < len(f.Disks) && f.Disks[n].Own != nil:
		return *f.Disks[n].Own, true
	}
	return o, false
}

// weight is roughly what the facts take in memory.
func (f *facts) weight() uint32 {
	n := int64(1024)
	if f.File != nil {
		n += f.File.Blocks() / 8
	}
	for _, d := range f.Disks {
		n += d.Map.Blocks() / 8
		if d.Own != nil && d.Own.File != nil {
			n += d.Own.File.Blocks() / 8
		}
	}
	return uint32(min(n, 1<<31))
}

// stored is how many bytes disk n takes where it is kept, as far as is known, or with
// n < 0 the image: of disks that lie in one file all of that.
func (f *facts) stored(n int) int64 {
	together := f.File != nil && isMachine(f.Format)
	var sum int64
	for i, d := range f.Disks {
		switch own, _ := f.own(i); {
		case n >= 0 && i != n && !together:
		case own.File != nil:
			sum += min(own.Size, own.File.Allocated()*layout.BlockSize)
		case i > 0 && together: // counted with the boot disk
		default:
			sum += min(d.Size, d.Map.Allocated()*layout.BlockSize)
		}
	}
	return sum
}

// imageKey names a version of an image in the state.
func imageKey(site string, e providers.Entry) string {
	return strings.Join([]string{site, string(e.Kind), e.ID, e.Version}, "\x00")
}

// facts gives what is known of an image, and looks into it where nothing is. An
// image that cannot be read for good is an error here too, remembered.
func (p *Pipeline) facts(ctx context.Context, site string, e providers.Entry) (*facts, error) {
	return p.factsOver(ctx, site, e, false)
}

// factsOver is facts, for who may read on when the read budget is used up.
func (p *Pipeline) factsOver(ctx context.Context, site string, e providers.Entry, over bool) (*facts, error) {
	key := imageKey(site, e)
	if f, ok := p.known.GetIfPresent(key); ok && !(f.fluid && time.Since(f.learned) > fluidTime) {
		return f, f.err
	}
	l := p.look(key, site, e, over)
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	if l.err != nil {
		return nil, l.err
	}
	return l.facts, l.facts.err
}

// Unreadable tells whether a look at an image has shown that it cannot be read, in this
// version. Nothing is asked for that: one that nobody has looked at is not.
func (p *Pipeline) Unreadable(site string, e providers.Entry) bool {
	f, ok := p.known.GetIfPresent(imageKey(site, e))
	return ok && f.err != nil
}

// lookInto finds the facts of an image: in the listing, in the state, or in the image
// itself.
func (p *Pipeline) lookInto(key, site string, e providers.Entry, over bool, l *look) (*facts, error) {
	if e.Dense && !e.Live() {
		return denseFacts(e), nil
	}
	if enc := p.state.get(bucketFacts, key); enc != nil {
		if f, err := decodeFacts(enc); err == nil {
			return f, nil
		}
		// An older program's encoding, or damaged: look again.
	}
	src, err := p.openSource(p.ctx, site, e, sourceOptions{over: over, brief: true, wrap: l.watching})
	if err == nil {
		defer src.close()
		var f *facts
		if f, err = learn(src, e); err == nil {
			f.learned = time.Now()
			f.fluid = e.Live() || p.ticks(site) && f.learned.Sub(e.Updated) < fluidTime
			if !f.fluid {
				p.keepFacts(key, f)
			}
			return f, nil
		}
	}
	if lasting(err) {
		return &facts{err: err, fluid: true, learned: time.Now()}, nil
	}
	return nil, err
}

// ticks tells whether the versions of a site are made of the times of files. Those of a
// cloud are made of what it knows of the bytes.
func (p *Pipeline) ticks(site string) bool {
	s, err := p.site(site)
	return err != nil || s.prober
}

// denseFacts are those of an image of which the listing says all.
func denseFacts(e providers.Entry) *facts {
	m, err := fullMap(e.Size)
	return &facts{
		Format: formatRaw, Contained: true, FileSize: e.Size, Disks: []diskFacts{{Size: e.Size, Map: m}},
		err: err, learned: time.Now(),
	}
}

// lasting tells whether err is for good: as long as the image has this version.
func lasting(err error) bool {
	switch disk.KindOf(err) {
	case disk.Malformed, disk.Unsupported, disk.TooLarge, disk.Invalid:
		return true
	}
	return false
}

// learn looks into an open source: tables, no content.
func learn(src *source, e providers.Entry) (*facts, error) {
	f := &facts{Format: src.format.Name, FileSize: src.Size(), Meta: src.machine.Meta}
	f.Contained = !src.resolved && (src.format.Layout != nil || src.format.Alone) && !e.Live()
	mapOf := layout.MapOf
	if e.Live() {
		// A live disk is dense, for its holes may be gone when it is captured.
		mapOf = fullMapOf
	}
	for i, d := range src.machine.Disks {
		m, err := mapOf(d)
		if err != nil {
			return nil, fmt.Errorf("map disk %d: %w", i, err)
		}
		f.Disks = append(f.Disks, diskFacts{Size: d.Size(), Device: d.Device, Bus: d.Bus, Map: m})
	}
	if !e.Live() {
		if err := f.learnOwn(src); err != nil {
			return nil, err
		}
	}
	if len(f.Disks) == 0 {
		return nil, disk.Errorf(disk.Malformed, "open image: it holds no disk")
	}
	if f.Contained && f.Format != formatRaw {
		var err error
		if f.File, err = layout.MapOf(src); err != nil {
			return nil, fmt.Errorf("map container: %w", err)
		}
	}
	return f, nil
}

// learnOwn looks at the containers of data disks that are kept apart.
func (f *facts) learnOwn(src *source) error {
	for i, one := range src.set {
		if one.resolved || one.format.Layout == nil {
			continue
		}
		o := &ownFacts{Format: one.format.Name, Size: one.Size()}
		if o.Format != formatRaw {
			var err error
			if o.File, err = layout.MapOf(one); err != nil {
				return fmt.Errorf("map container of disk %d: %w", i+1, err)
			}
		}
		f.Disks[i+1].Own = o
	}
	return nil
}

// same tells whether two looks have told the same.
func (f *facts) same(g *facts) bool {
	if f == g {
		return true
	}
	a, err := f.encode()
	if err != nil {
		return false
	}
	b, err := g.encode()
	return err == nil && bytes.Equal(a, b)
}

// check compares facts that may be others by now with the source that is read
// for them: it is closed and Stale where it is not what it was.
func (f *facts) check(src *source, e providers.Entry) error {
	now, err := learn(src, e)
	if err == nil && !f.same(now) {
		err = disk.Errorf(disk.Stale, "open image: it has changed since it was looked at")
	}
	if err != nil {
		return errors.Join(err, src.close())
	}
	return nil
}

// keepFacts writes facts into the state.
func (p *Pipeline) keepFacts(key string, f *facts) {
	enc, err := f.encode()
	if err != nil {
		p.log.Warn("write state", "error", err)
		return
	}
	p.remember(bucketFacts, key, enc)
}

// fullMapOf is MapOf for a disk whose holes are not to be relied on.
func fullMapOf(img disk.Image) (*layout.Map, error) { return fullMap(img.Size()) }

// fullMap is that of a disk of so many bytes, all of them data.
func fullMap(size int64) (*layout.Map, error) {
	if size > layout.MaxSize {
		return nil, disk.Errorf(disk.TooLarge, "map image: %d bytes, at most %d", size, int64(layout.MaxSize))
	}
	return layout.FullMap(size), nil
}

// factsWire is the encoding of facts.
type factsWire struct {
	Format    string
	Contained bool
	FileSize  int64
	File      []byte
	Disks     []diskWire
	Meta      disk.Meta
}

type diskWire struct {
	Size        int64
	Device, Bus string
	Map         []byte
	Own         *ownWire
}

type ownWire struct {
	Format string
	Size   int64
	File   []byte
}

func (f *facts) encode() ([]byte, error) {
	w := factsWire{Format: f.Format, Contained: f.Contained, FileSize: f.FileSize, Meta: f.Meta}
	var err error
	if f.File != nil {
		if w.File, err = f.File.MarshalBinary(); err != nil {
			return nil, fmt.Errorf("encode facts: %w", err)
		}
	}
	for _, d := range f.Disks {
		m, err := d.Map.MarshalBinary()
		if err != nil {
			return nil, fmt.Errorf("encode facts: %w", err)
		}
		own, err := d.Own.wire()
		if err != nil {
			return nil, fmt.Errorf("encode facts: %w", err)
		}
		w.Disks = append(w.Disks, diskWire{d.Size, d.Device, d.Bus, m, own})
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(w); err != nil {
		return nil, fmt.Errorf("encode facts: %w", err)
	}
	// A bit of a map that is wrong would be a hole where data is.
	return binary.LittleEndian.AppendUint32(b.Bytes(), crc32.Checksum(b.Bytes(), castagnoli)), nil
}

func (o *ownFacts) wire() (w *ownWire, err error) {
	if o == nil {
		return nil, nil
	}
	w = &ownWire{Format: o.Format, Size: o.Size}
	if o.File != nil {
		w.File, err = o.File.MarshalBinary()
	}
	return w, err
}

func (w *ownWire) facts() (o *ownFacts, err error) {
	if w == nil {
		return nil, nil
	}
	o = &ownFacts{Format: w.Format, Size: w.Size}
	if w.File != nil {
		o.File, err = layout.UnmarshalMap(w.File)
	}
	return o, err
}

func decodeFacts(p []byte) (*facts, error) {
	var w factsWire
	n := len(p) - crc32.Size
	if n < 0 || crc32.Checksum(p[:n], castagnoli) != binary.LittleEndian.Uint32(p[n:]) {
		return nil, disk.Errorf(disk.Malformed, "decode facts: checksum differs")
	}
	if err := gob.NewDecoder(bytes.NewReader(p[:n])).Decode(&w); err != nil {
		return nil, fmt.Errorf("decode facts: %w", err)
	}
	f := &facts{Format: w.Format, Contained: w.Contained, FileSize: w.FileSize, Meta: w.Meta}
	var err error
	if w.File != nil {
		if f.File, err = layout.UnmarshalMap(w.File); err != nil {
			return nil, err
		}
	}
	for _, d := range w.Disks {
		m, err := layout.UnmarshalMap(d.Map)
		if err != nil {
			return nil, err
		}
		own, err := d.Own.facts()
		if err != nil {
			return nil, err
		}
		f.Disks = append(f.Disks, diskFacts{d.Size, d.Device, d.Bus, m, own})
	}
	return f, nil
}

// formatRaw is the name of the format without a container.
const formatRaw = "raw"

// rowOf finds the row of the table of formats, for a name that a user gave.
func rowOf(name string) (formats.Format, error) {
	row, ok := formats.ByName(name)
	if !ok {
		return formats.Format{}, disk.Errorf(disk.Invalid, "find format %q: there is none of that name", name)
	}
	return row, nil
}
