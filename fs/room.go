package fs

import (
	"context"
	"sync"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// roomTime is how long what a provider has said of its room is believed: a cloud is
// asked over the network, and qemu writes thousands of times.
const roomTime = 10 * time.Second

// room is what a provider has room for.
type room struct {
	mu    sync.Mutex // held while it is asked
	at    time.Time
	free  int64 // bytes
	known bool
}

// ask asks, unless it was asked a moment ago.
func (r *room) ask(ctx context.Context, from providers.Roomer) (free int64, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || time.Since(r.at) >= roomTime {
		r.free, r.known = from.Room(ctx)
		r.at = time.Now()
	}
	return r.free, r.known
}

// roomLeft tells qemu that what it writes will not fit, while it listens: it
// ignores what its last close says. It skips zeros and writes nothing twice, so
// its bytes are those that are stored.
func (g *staged) roomLeft(ctx context.Context, n int) error {
	if !g.qemu {
		return nil
	}
	p, _ := g.folder.t.p.Provider(g.folder.site)
	r, ok := p.(providers.Roomer)
	if !ok {
		return nil
	}
	written := g.written.Add(int64(n))
	if room, known := g.room.ask(ctx, r); known && written > room {
		return disk.Errorf(disk.NoSpace, "write image: %d bytes are written, and provider %q has room for %d", written, g.folder.site, room)
	}
	return nil
}
