package pipeline

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"chromogenic/cleaner"
	"chromogenic/cleaner/guest"
	"chromogenic/disk"
	"chromogenic/providers"
)

// Cleaning says how guests are cleaned: by what, and how their disks are reached.
type Cleaning struct {
	Options cleaner.Options
	Guest   guest.Options
}

// guest is how its disk is reached, by the program that is the fastest to start.
func (c Cleaning) guest() guest.Options {
	o := c.Guest
	if o.Program == nil && o.Executable == "" {
		o.Program = cleaner.Worker()
	}
	return o
}

// Ways are those of guest.Available.
func (c Cleaning) Ways() ([]guest.Way, error) { return guest.Available(c.guest()) }

// The policies of cleaning. With cleanAuto it depends on where a copy comes from.
const (
	cleanAuto       = "auto"
	cleanRequire    = "require"     // whole, or not at all
	cleanBestEffort = "best-effort" // as much as can be, and the record says what could not
	cleanOff        = "off"
)

// sandboxes is how many guests are cleaned at a time: each takes a kernel's memory.
const sandboxes = 2

// overlayBudget is how much of what cleaning writes to a disk is held in memory, in
// bytes; the rest goes to a file without a name in the spool folder.
const overlayBudget = 16 << 20

// A cleaningRoom is where guests are cleaned, and what is known of those that were.
type cleaningRoom struct {
	Cleaning
	turns chan struct{}
	work  singleflight.Group // by the key of a patch

	mu      sync.Mutex
	patches map[string]patchRecord // those that a state without a database would forget
}

func newCleaningRoom(c Cleaning) *cleaningRoom {
	return &cleaningRoom{Cleaning: c, turns: make(chan struct{}, sandboxes), patches: map[string]patchRecord{}}
}

// A patchRecord is what is known of an image that was cleaned.
type patchRecord struct {
	File   string          `json:"file"` // in the folder of patches
	Sum    string          `json:"sum"`  // of it, as disk.WritePatch gives it
	Facts  []byte          `json:"facts"`
	Report json.RawMessage `json:"report"`
}

// versionKey names what is known of what a Ref shows in the state.
func (r Ref) versionKey() string {
	key := imageKey(r.Site, r.Entry)
	if r.Cleaned != "" {
		key += cleanedMark + r.Cleaned
	}
	return key
}

// cleanedMark is between the name of a version and how it was cleaned.
const cleanedMark = "\x00cleaned\x00"

// listedKey is the key that a listing has of a version, cleaned or not.
func listedKey(key string) string {
	key, _, _ = strings.Cut(key, cleanedMark)
	return key
}

// Cleaned is the Ref of the same image, cleaned as the configuration has it: all of it,
// or not at all.
func (p *Pipeline) Cleaned(r Ref) Ref { return p.cleanedRef(r, cleanRequire) }

func (p *Pipeline) cleanedRef(r Ref, policy string) Ref {
	r.Cleaned = policy + " " + p.room.Options.Fingerprint()
	return r
}

// policy is that of what a Ref shows.
func (r Ref) policy() string {
	policy, _, _ := strings.Cut(r.Cleaned, " ")
	return policy
}

// factsOf gives what is known of what a Ref shows. An image that was never cleaned is
// cleaned for that: what is in its file systems decides where its holes are. A live
// machine has none that could be relied on.
func (p *Pipeline) factsOf(ctx context.Context, r Ref) (*facts, error) {
	if r.Cleaned == "" || r.Entry.Live() {
		return p.factsOver(ctx, r.Site, r.Entry, r.Over)
	}
	if f, ok := p.known.GetIfPresent(r.versionKey()); ok {
		return f, nil
	}
	rec, err := p.patchOf(ctx, r)
	if err != nil {
		return nil, err
	}
	f, err := decodeFacts(rec.Facts)
	if err != nil {
		return nil, err
	}
	p.known.Set(r.versionKey(), f)
	return f, nil
}

// patchOf gives the patch that makes the cleaned image of the image, and cleans that
// where there is none. It is made once, whoever asks for it.
func (p *Pipeline) patchOf(ctx context.Context, r Ref) (patchRecord, error) {
	key := r.versionKey()
	if rec, ok := p.knownPatch(key); ok {
		return rec, nil
	}
	if err := p.settled(ctx, r); err != nil {
		return patchRecord{}, err
	}
	done := p.room.work.DoChan(key, func() (any, error) {
		if rec, ok := p.knownPatch(key); ok {
			return rec, nil
		}
		return p.makePatch(p.ctx, r)
	})
	select {
	case <-ctx.Done():
		return patchRecord{}, context.Cause(ctx)
	case got := <-done:
		if got.Err != nil {
			return patchRecord{}, fmt.Errorf("clean %s: %w", placeOf(r.Site, r.Entry), got.Err)
		}
		return got.Val.(patchRecord), nil
	}
}

// settled waits until the version of an image says what its bytes are.
func (p *Pipeline) settled(ctx context.Context, r Ref) error {
	for {
		f, err := p.factsOver(ctx, r.Site, r.Entry, r.Over)
		if err != nil || !f.fluid {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(fluidTime):
		}
	}
}

// knownPatch finds a patch that was made before, of this process or an earlier one.
func (p *Pipeline) knownPatch(key string) (rec patchRecord, ok bool) {
	p.room.mu.Lock()
	rec, ok = p.room.patches[key]
	p.room.mu.Unlock()
	if !ok {
		enc := p.state.get(bucketCleaned, key)
		if enc == nil || json.Unmarshal(enc, &rec) != nil {
			return rec, false
		}
	}
	_, err := os.Stat(p.state.patchPath(rec.File))
	return rec, err == nil
}

// makePatch cleans an image, and keeps what that has changed.
func (p *Pipeline) makePatch(ctx context.Context, r Ref) (rec patchRecord, err error) {
	src, err := p.openSource(ctx, r.Site, r.Entry, sourceOptions{checked: true, over: r.Over})
	if err != nil {
		return rec, err
	}
	defer src.close()
	o, report, err := p.cleanSource(ctx, src, r.policy())
	if err != nil {
		return rec, err
	}
	defer o.Close()
	cleaned := src.with(o)
	f, err := learn(cleaned, r.Entry)
	if err != nil {
		return rec, err
	}
	if rec.Facts, err = f.cleaned().encode(); err != nil {
		return rec, err
	}
	key := r.versionKey()
	name := sha256.Sum256([]byte(key))
	rec.File = hex.EncodeToString(name[:16]) + patchSuffix
	rec.Report = report
	if rec.Sum, err = disk.WritePatch(p.state.patchPath(rec.File), o); err != nil {
		return rec, err
	}
	enc, err := json.Marshal(rec)
	if err != nil {
		return rec, err
	}
	p.room.mu.Lock()
	p.room.patches[key] = rec
	p.room.mu.Unlock()
	p.remember(bucketCleaned, key, enc)
	return rec, nil
}

// cleaned are the facts of a source with an overlay: its container is not that of the
// image, and nothing of it can be passed on.
func (f *facts) cleaned() *facts {
	now := *f
	now.Contained, now.File, now.FileSize = false, nil, 0
	return &now
}

// patchSuffix ends the names of patches.
const patchSuffix = ".patch"

// openCleaned opens an image, and makes it the cleaned one.
func (p *Pipeline) openCleaned(ctx context.Context, r Ref) (*source, error) {
	src, err := p.openSource(ctx, r.Site, r.Entry, sourceOptions{checked: true, over: r.Over})
	if err != nil {
		return nil, err
	}
	rec, err := p.patchOf(ctx, r)
	if err != nil {
		return nil, errors.Join(err, src.close())
	}
	o := disk.NewOverlay(src.machine.Disks[0], p.overlayOptions())
	sum, err := disk.ApplyPatch(p.state.patchPath(rec.File), o)
	if err == nil && sum != rec.Sum {
		err = disk.Errorf(disk.Malformed, "read patch: it is another one than was kept")
	}
	if err != nil {
		if disk.KindOf(err) == disk.Malformed {
			// Another patch would make other bytes: who has this one open must not get them.
			p.forgetPatch(r.versionKey(), rec)
			err = disk.Hint(disk.Errorf(disk.Stale, "%w", err), "open it again: it is cleaned anew")
		}
		return nil, errors.Join(err, o.Close(), src.close())
	}
	return src.with(o), nil
}

// captureCleaned captures a live machine, and cleans the capture where the Ref says so.
func (p *Pipeline) captureCleaned(ctx context.Context, r Ref, snap providers.SnapSpec) (*source, error) {
	src, err := p.capture(ctx, r.Site, r.Entry, snap, r.Over)
	if err != nil || r.Cleaned == "" {
		return src, err
	}
	o, _, err := p.cleanSource(ctx, src, r.policy())
	if err != nil {
		return nil, errors.Join(err, src.close())
	}
	return src.with(o), nil
}

func (p *Pipeline) overlayOptions() disk.OverlayOptions {
	return disk.OverlayOptions{Budget: overlayBudget, Scratch: p.state.spool}
}

// forgetPatch removes a patch that is of no use.
func (p *Pipeline) forgetPatch(key string, rec patchRecord) {
	p.room.mu.Lock()
	delete(p.room.patches, key)
	p.room.mu.Unlock()
	p.known.Invalidate(key)
	if err := errors.Join(p.state.drop(bucketCleaned, key), removeFile(p.state.patchPath(rec.File))); err != nil {
		p.log.Warn("forget what was cleaned", "error", err)
	}
}

// with is the source with an overlay over its boot disk, which is the source's to close
// from then on.
func (s *source) with(o *disk.Overlay) *source {
	out, m := *s, *s.machine
	m.Disks = slices.Clone(m.Disks)
	m.Disks[0].Image = overlaid{o, m.Disks[0].Image}
	out.machine = &m
	return &out
}

// overlaid is an overlay that closes its base too.
type overlaid struct {
	*disk.Overlay
	base disk.Image
}

func (o overlaid) Close() error { return errors.Join(o.Overlay.Close(), o.base.Close()) }

// cleanSource cleans the boot disk of a source on an overlay, which is the caller's to
// close, and gives the report as JSON. With cleanRequire it fails with Unsupported if
// any part of the machine cannot be cleaned.
func (p *Pipeline) cleanSource(ctx context.Context, src *source, policy string) (*disk.Overlay, json.RawMessage, error) {
	if n := len(src.machine.Disks); n > 1 && policy == cleanRequire {
		err := disk.Errorf(disk.Unsupported, "clean image: the machine has %d disks, and only a boot disk can be cleaned", n)
		return nil, nil, disk.Hint(err, "copy the disks one by one: %s", waysOn)
	}
	o := disk.NewOverlay(src.machine.Disks[0], p.overlayOptions())
	report, err := p.clean(ctx, p.room.Cleaning, o, policy)
	if err != nil {
		return nil, nil, errors.Join(err, o.Close())
	}
	return o, report, nil
}

// waysOn say how an image is copied that cannot be cleaned.
const waysOn = "copy into images.verbatim/, or with --clean off, which leaves everything in it"

// clean has a guest cleaned when there is room for a sandbox.
func (p *Pipeline) clean(ctx context.Context, c Cleaning, o *disk.Overlay, policy string) (json.RawMessage, error) {
	select {
	case p.room.turns <- struct{}{}:
		defer func() { <-p.room.turns }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return c.Clean(ctx, o, policy)
}

// Clean has the guest of a disk cleaned in a sandbox, by a policy other than off and
// auto, and gives the report (cleaner.Report) as JSON. When it fails the overlay is of
// no use; with "require" it does with Unsupported where any part of the disk stays as
// it is.
func (c Cleaning) Clean(ctx context.Context, o *disk.Overlay, policy string) (json.RawMessage, error) {
	order, err := cleaner.Order{Options: c.Options}.Encode()
	if err != nil {
		return nil, fmt.Errorf("clean image: %w", err)
	}
	got, err := guest.Run(ctx, o, c.guest(), order)
	if err == nil && policy == cleanRequire {
		err = wholly(got.Facts)
	}
	if err != nil {
		if disk.KindOf(err) == disk.Unsupported {
			err = disk.Hint(err, waysOn)
		}
		return nil, err
	}
	return got.Reply, nil
}

// Inspect looks at the guest of a disk in a sandbox, and changes nothing.
func (c Cleaning) Inspect(ctx context.Context, img disk.Image) (in cleaner.Inspection, err error) {
	o := disk.NewOverlay(img, disk.OverlayOptions{Budget: overlayBudget})
	defer o.Close()
	order, err := cleaner.Order{Inspect: true, Options: c.Options}.Encode()
	if err != nil {
		return in, fmt.Errorf("inspect image: %w", err)
	}
	c.Guest.ReadOnly = true
	got, err := guest.Run(ctx, o, c.guest(), order)
	if err != nil {
		return in, err
	}
	if err := json.Unmarshal(got.Reply, &in); err != nil {
		return in, fmt.Errorf("inspect image: %w", err)
	}
	return in, nil
}

// planCleaning has a sandbox look what cleaning would touch in the boot disk of a source.
func (p *Pipeline) planCleaning(ctx context.Context, src *source, policy string) (said cleaner.Report, err error) {
	o := disk.NewOverlay(src.machine.Disks[0], p.overlayOptions())
	defer o.Close()
	plan := p.room.Cleaning
	plan.Options.Plan, plan.Guest.ReadOnly = true, true
	report, err := p.clean(ctx, plan, o, policy)
	if err != nil {
		return said, err
	}
	if err := json.Unmarshal(report, &said); err != nil {
		return said, fmt.Errorf("plan cleaning: %w", err)
	}
	return said, nil
}

// wholly refuses a disk of which a part was left as it is.
func wholly(f guest.Facts) error {
	for _, v := range f.Filesystems {
		if v.Reason == "" {
			continue
		}
		err := disk.Errorf(disk.Unsupported, "clean image: partition %d, %s, at offset %d: %s", v.Number, cmp.Or(v.Type, "of unknown content"), v.Offset, v.Reason)
		return disk.Hint(err, "%s; with --clean best-effort everything else is cleaned", waysOn)
	}
	return nil
}

// sweepPatches removes the patches that nothing is known of.
func (p *Pipeline) sweepPatches() error {
	known := map[string]bool{}
	for _, enc := range p.state.all(bucketCleaned) {
		var rec patchRecord
		if json.Unmarshal(enc, &rec) == nil {
			known[rec.File] = true
		}
	}
	p.room.mu.Lock()
	for _, rec := range p.room.patches {
		known[rec.File] = true
	}
	p.room.mu.Unlock()
	files, err := os.ReadDir(filepath.Dir(p.state.patchPath("x")))
	if err != nil {
		return fmt.Errorf("read folder of what was cleaned: %w", err)
	}
	for _, f := range files {
		ours := strings.HasSuffix(f.Name(), patchSuffix) || strings.HasPrefix(f.Name(), disk.PatchTemp)
		if !ours || known[f.Name()] {
			continue
		}
		if err := removeFile(p.state.patchPath(f.Name())); err != nil {
			return err
		}
	}
	return nil
}
