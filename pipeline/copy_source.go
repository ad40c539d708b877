package pipeline

import (
	"context"
	"crypto/sha256"
	"fmt"

	"chromogenic/disk"
	"chromogenic/formats/layout"
	"chromogenic/providers"
)

// check refuses what can be known to fail before any work.
func (j *job) check(ctx context.Context) error {
	if err := j.checkDestination(ctx); err != nil {
		return err
	}
	return j.afford(ctx)
}

// checkDestination refuses what the destination is known not to take.
func (j *job) checkDestination(ctx context.Context) error {
	var err error
	if j.site, err = j.p.site(j.spec.Site); err != nil {
		return err
	}
	up, ok := j.site.provider.(providers.Uploader)
	if !ok {
		return disk.Errorf(disk.Unsupported, "send to provider %q: it takes no images", j.spec.Site)
	}
	if j.spec.Name == "" {
		return disk.Errorf(disk.Invalid, "send to provider %q: the image has no name", j.spec.Site)
	}
	if p, ok := up.(providers.Permitter); ok {
		if err := p.MayUpload(ctx); err != nil {
			return fmt.Errorf("send to provider %q: %w", j.spec.Site, err)
		}
	}
	j.uploader = up
	j.keeper, _ = up.(providers.SetKeeper)
	return nil
}

// afford refuses a copy whose source the read budget does not do for.
func (j *job) afford(ctx context.Context) error {
	if j.spec.From == nil {
		return nil
	}
	return j.p.Afford(ctx, j.spec.From, j.spec.Machine)
}

// open makes the source ready: that of a site is captured first if it is a live
// machine; bytes from outside are taken apart as the format that was stated.
func (j *job) open(ctx context.Context) error {
	if err := j.openSource(ctx); err != nil {
		return err
	}
	src, err := j.src.lease.get(ctx)
	if err != nil {
		return err
	}
	j.pace(ctx)
	return src.verifyDisks(ctx)
}

// pace has a source of a site read at the rate of the job.
func (j *job) pace(ctx context.Context) {
	if rate := j.spec.Rate.Read; rate > 0 && j.spec.From != nil {
		p := pacers{newPacer(rate)} // of all disks together
		j.src = j.src.paced(func(img disk.Image) disk.Image { return paced{img, ctx, p} })
	}
}

// look is open for a plan: it captures nothing and reads no content.
func (j *job) look() error {
	if v := j.spec.From; v != nil {
		j.p.retain(v.core)
		j.held, j.src = v.core, v.core
	} else if err := j.openBytes(); err != nil {
		return err
	}
	j.rec.VirtualSize = j.src.facts.Disks[j.diskOf()].Size
	return nil
}

func (j *job) openSource(ctx context.Context) error {
	if err := j.look(); err != nil || j.spec.From == nil {
		return err
	}
	src, err := j.held.lease.get(ctx)
	if err != nil {
		return err
	}
	e := j.held.Ref.Entry
	live := e.Live()
	if live {
		e.Capture = src.captured
		if !src.metadata.Empty() {
			e.Metadata = src.metadata
		}
	}
	if e.Capture != nil {
		j.rec.Consistency = string(e.Capture.Consistency)
	}
	f, late := src.Image.(*filled)
	if late {
		if _, err := f.get(ctx); err != nil {
			return err
		}
	}
	if !live && !late {
		return nil
	}
	// The view of a live machine is dense, and so is that of an image that can be had as a
	// whole only; its capture, and what was fetched, have the holes they have.
	return j.own(src, e)
}

// openBytes takes apart what comes from outside any site.
func (j *job) openBytes() error {
	if s, ok := j.spec.Image.(spoolImage); ok {
		if err := s.whole(); err != nil {
			return err
		}
	}
	src, err := decode(providers.Source{Image: j.spec.Image, Format: j.spec.Format}, trust{ambiguous: j.spec.Role == ""})
	if err != nil {
		return err
	}
	switch {
	case j.spec.Role != "": // of which nothing is known
	case src.format.Name == formatRaw:
		err = checkWhole(src)
	case src.format.Alone:
		err = checkDisc(src)
	}
	if err != nil {
		return err
	}
	return j.own(src, providers.Entry{Kind: providers.Images, Name: j.spec.Name})
}

// own makes a core of a source that stays somebody else's to close.
func (j *job) own(src *source, e providers.Entry) error {
	f, err := learn(src, e)
	if err != nil {
		return err
	}
	j.src = &core{p: j.p, facts: f, meta: f.metadata(e), seed: SeedOf(f.Disks[0].Map)}
	j.src.Ref = Ref{Entry: e, Format: f.Format}
	j.src.lease = &lease{ctx: j.p.ctx, src: src, keep: true}
	return nil
}

// SeedOf derives the seed of a layout from what the disk is, for an image that
// has no id: its virtual size and allocation map.
func SeedOf(m *layout.Map) []byte {
	enc, err := m.MarshalBinary()
	if err != nil {
		enc = nil // never happens: the encoding is in memory
	}
	sum := sha256.Sum256(enc)
	return sum[:]
}
