package pipeline

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"chromogenic/providers"
)

// A data disk that comes before the boot disk of its machine, or a kernel before its
// image, is at the provider, and
// durable; what is kept here is only since when it waits, to tell of it once.

// An Overdue is a data disk, or a companion, that has waited for its image for an hour. It goes on
// waiting.
type Overdue struct {
	Site, Place string // the provider, and the disk for people
	Entry       providers.Entry
	Since       time.Time
}

func waitingKey(site string, e providers.Entry) string {
	return strings.Join([]string{site, e.Name, cmp.Or(string(e.Role), strconv.Itoa(e.Waiting.Number))}, "\x00")
}

// noteWaiting remembers that a data disk waits from now on.
func (p *Pipeline) noteWaiting(site string, e providers.Entry) {
	key, now := waitingKey(site, e), time.Now()
	p.mu.Lock()
	p.disks[key] = now
	p.mu.Unlock()
	p.remember(bucketWaiting, key, []byte(now.UTC().Format(time.RFC3339)))
}

// restoreWaiting finds what an earlier process has noted.
func (p *Pipeline) restoreWaiting() {
	p.disks = map[string]time.Time{}
	for key, val := range p.state.all(bucketWaiting) {
		since, err := time.Parse(time.RFC3339, string(val))
		if err != nil {
			p.log.Warn("read state", "error", err)
			continue
		}
		p.disks[key] = since
	}
}

// OverdueDisks gives the data disks that have waited for an hour, each once. No
// provider is asked before that.
func (p *Pipeline) OverdueDisks(ctx context.Context) []Overdue {
	late := map[string]time.Time{}
	p.mu.Lock()
	for key, since := range p.disks {
		if time.Now().Round(0).Sub(since.Round(0)) > heldTime { // by the wall clock: a laptop sleeps
			late[key] = since
		}
	}
	p.mu.Unlock()
	var overdue []Overdue
	for key, since := range late {
		site, _, _ := strings.Cut(key, "\x00")
		l, err := p.List(ctx, site, providers.Disks)
		if err != nil {
			continue // until it can be told
		}
		for _, e := range l.Entries {
			if waitingKey(site, e) == key {
				place := placeOf(site, e)
				overdue = append(overdue, Overdue{site, place, e, since})
			}
		}
		p.mu.Lock()
		delete(p.disks, key)
		p.mu.Unlock()
		if err := p.state.drop(bucketWaiting, key); err != nil {
			p.log.Warn("write state", "error", err)
		}
	}
	slices.SortFunc(overdue, func(a, b Overdue) int { return strings.Compare(a.Place, b.Place) })
	return overdue
}
