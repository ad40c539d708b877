package pipeline

import (
	"crypto/sha256"
	"encoding/json"
	"time"

	"chromogenic/providers"
)

// A keptListing is a listing in the state.
type keptListing struct {
	Place   string // that it is of, as providers.Locator has it
	At      time.Time
	Entries []providers.Entry
}

// keepListing keeps a listing that the next process may show while the provider does
// not answer; l.mu is held. One like that which is kept is not written again.
func (p *Pipeline) keepListing(s *site, l *list, kind providers.Kind) {
	place := placeOfSite(s)
	if place == "" || !p.Durable() {
		return
	}
	entries, err := json.Marshal(l.last.Entries)
	if err != nil {
		p.log.Warn("keep listing", "provider", s.provider.Name(), "error", err)
		return
	}
	sum := sha256.Sum256(append(entries, place...))
	if sum == l.kept {
		return
	}
	enc, err := json.Marshal(keptListing{place, l.last.At, l.last.Entries})
	if err != nil {
		p.log.Warn("keep listing", "provider", s.provider.Name(), "error", err)
		return
	}
	p.remember(bucketListings, pinKey(s, kind), enc)
	l.kept = sum
}

// restoreListings gives a site what an earlier process has heard of it.
func (p *Pipeline) restoreListings(s *site) {
	place := placeOfSite(s)
	if place == "" {
		return
	}
	for kind, l := range s.lists {
		var kept keptListing
		enc := p.state.get(bucketListings, pinKey(s, kind))
		if enc == nil || json.Unmarshal(enc, &kept) != nil || kept.Place != place || kept.At.After(time.Now()) {
			continue
		}
		l.last, l.inherited = Listing{Entries: kept.Entries, At: kept.At}, true
		l.valid.Store(true)
	}
}

// placeOfSite is the place of a site's images, empty where that cannot be told.
func placeOfSite(s *site) string {
	located, ok := s.provider.(providers.Locator)
	if !ok {
		return ""
	}
	return located.Location()
}
