package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// heldTime is how long metadata waits for its image.
const heldTime = time.Hour

// heldLimit bounds, in bytes, all metadata that waits.
const heldLimit = 64 << 20

// A Held is metadata that was written before its image.
type Held struct {
	Site, Name string
	Since      time.Time
	providers.Metadata
}

// heldWire is the encoding of a Held.
type heldWire struct {
	Since    time.Time       `json:"since"`
	Time     time.Time       `json:"time"`
	Document json.RawMessage `json:"document"`
}

func heldKey(site, name string) string { return site + "\x00" + name }

// HoldMeta keeps metadata for an image that is not there yet: a copy that makes it
// takes it along. It outlives the process, and waits for an hour.
func (p *Pipeline) HoldMeta(site, name string, m providers.Metadata) error {
	s, err := p.site(site)
	if err != nil {
		return err
	}
	if _, err := s.metaSetter(site); err != nil {
		return err
	}
	key := heldKey(site, name)
	doc := providers.Document{Name: name, Metadata: m}.Encode()
	p.mu.Lock()
	h := Held{Site: site, Name: name, Since: time.Now(), Metadata: m}
	size := int64(len(doc))
	for other, x := range p.held {
		if other != key {
			size += int64(len(providers.Document{Metadata: x.Metadata}.Encode()))
		}
	}
	if size <= heldLimit {
		p.held[key] = h
	}
	p.mu.Unlock()
	if size > heldLimit {
		err := disk.Errorf(disk.NoSpace, "hold metadata of %q: %d bytes of others wait already", name, size-int64(len(doc)))
		return disk.Hint(err, "copy the images that it is for")
	}
	enc, err := json.Marshal(heldWire{h.Since, m.MetaTime, doc})
	if err != nil {
		return fmt.Errorf("hold metadata of %q: %w", name, err)
	}
	return p.state.put(bucketHeld, key, enc)
}

// HeldMeta is the metadata that waits for an image of that name.
func (p *Pipeline) HeldMeta(site, name string) (providers.Metadata, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, ok := p.held[heldKey(site, name)]
	return h.Metadata, ok
}

// DropMeta forgets the metadata that waits for an image of that name.
func (p *Pipeline) DropMeta(site, name string) error {
	key := heldKey(site, name)
	p.mu.Lock()
	delete(p.held, key)
	p.mu.Unlock()
	return p.state.drop(bucketHeld, key)
}

// restoreHeld finds what an earlier process has held.
func (p *Pipeline) restoreHeld() {
	p.held = map[string]Held{}
	for key, enc := range p.state.all(bucketHeld) {
		site, name, _ := strings.Cut(key, "\x00")
		var w heldWire
		err := json.Unmarshal(enc, &w)
		var doc providers.Document
		if err == nil {
			doc, err = providers.DecodeDocument(w.Document)
		}
		if err != nil {
			p.log.Warn("read state", "error", err)
			continue
		}
		doc.MetaTime = w.Time
		p.held[key] = Held{site, name, w.Since, doc.Metadata}
	}
}

// applyHeld gives an image that has just appeared the metadata that waits for it. A
// failure leaves that waiting, to be tried again.
func (p *Pipeline) applyHeld(ctx context.Context, site, name string, e providers.Entry) providers.Entry {
	m, ok := p.HeldMeta(site, name)
	if !ok {
		return e
	}
	now, err := p.SetMeta(ctx, site, e, m)
	if err == nil {
		err = p.DropMeta(site, name)
	}
	if err != nil {
		p.log.Warn("set metadata that was written before its image", "site", site, "name", name, "error", err)
	}
	return now
}

// SettleMeta gives metadata that waits to the images that have appeared without a
// copy of ours, and gives up, and returns, what has waited for an hour.
func (p *Pipeline) SettleMeta(ctx context.Context) []Held {
	p.mu.Lock()
	waiting := slices.Collect(maps.Values(p.held))
	p.mu.Unlock()
	var expired []Held
	for _, h := range waiting {
		// By the wall clock: a laptop sleeps.
		late := time.Now().Round(0).Sub(h.Since.Round(0)) > heldTime
		l, err := p.List(ctx, h.Site, providers.Images)
		if err != nil && !late {
			continue
		}
		i := slices.IndexFunc(l.Entries, func(e providers.Entry) bool { return cmp.Or(e.Name, e.ID) == h.Name })
		if i >= 0 {
			p.applyHeld(ctx, h.Site, h.Name, l.Entries[i])
		}
		if _, still := p.HeldMeta(h.Site, h.Name); !still || !late {
			continue
		}
		expired = append(expired, h)
		if err := p.DropMeta(h.Site, h.Name); err != nil {
			p.log.Warn("write state", "error", err)
		}
	}
	return expired
}
