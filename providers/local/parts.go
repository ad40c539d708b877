package local

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// An image may lie in several files: a descriptor, whose name is the id, and the
// files that it leads to. Which they are is for its format to say: the reader
// that SetReader gives opens the image, and what it asks for are the parts, be
// they there or not. As long as the descriptor and all of them are as they were
// then, it would ask for the same again. So a listing looks at their states only.

// maxParts bounds the files that one image may lie in.
const maxParts = 8192

// young is how long what was found in files that are being written holds: the
// clock of their times may be too coarse to show the next write.
const young = 3 * time.Second

// A part is a file that an image needs besides its descriptor.
type part struct {
	name  string
	state state // without an inode: the file is not there
}

// assembly is what the descriptor led to when it was in that state.
type assembly struct {
	descriptor state
	parts      []part    // by name
	whole      bool      // it could be opened, and has asked for all that it needs
	expires    time.Time // zero is never
}

// assemblies remembers those of a folder, by the descriptor's name. It is safe
// for concurrent use.
type assemblies struct {
	mu   sync.Mutex
	last map[string]assembly
}

func (a *assemblies) get(file string) assembly {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last[file]
}

func (a *assemblies) put(file string, x assembly) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		a.last = map[string]assembly{}
	}
	a.last[file] = x
}

// prune forgets the files that are not among entries, which are in order.
func (a *assemblies) prune(entries []providers.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.last, func(file string, _ assembly) bool {
		_, ok := slices.BinarySearchFunc(entries, file, func(e providers.Entry, id string) int { return strings.Compare(e.ID, id) })
		return !ok
	})
}

// SetReader tells how to find out which files an image lies in.
func (p *Provider) SetReader(limits map[string]int64, read func(providers.Source) (whole bool, err error)) {
	p.limits, p.read = limits, read
}

// leads tells whether a file of that state may lead to others.
func (p *Provider) leads(format string, st state) bool {
	limit, ok := p.limits[format]
	return ok && st.size <= limit
}

// parts gives the parts of the image whose descriptor is the file, in the state
// own. They are looked for anew when one of these files has changed.
func (p *Provider) parts(d *dir, file, format string, own state) ([]part, error) {
	x, err := p.assembly(d, file, format, own)
	return x.parts, err
}

// assembly is parts, with whether these are all.
func (p *Provider) assembly(d *dir, file, format string, own state) (assembly, error) {
	if !p.leads(format, own) {
		return assembly{}, nil
	}
	last := d.folder.parts.get(file)
	if !last.descriptor.same(own) || !last.expires.IsZero() && time.Now().After(last.expires) {
		return p.gather(d, file, format, own), nil
	}
	for _, was := range last.parts {
		now, err := d.part(was.name)
		if err != nil {
			return assembly{}, err
		}
		if !now.state.same(was.state) {
			return p.gather(d, file, format, own), nil
		}
	}
	return last, nil
}

// gather opens an image for its parts. They are remembered, unless something
// that may be otherwise at the next look has kept it from asking for all.
func (p *Provider) gather(d *dir, file, format string, own state) assembly {
	img, err := d.openPinned(file)
	if err != nil {
		return assembly{}
	}
	defer img.Close()
	if !img.state.same(own) {
		return assembly{} // what was listed is Stale already
	}
	sure := true
	asked := map[string]state{}
	resolve := func(name string) (disk.Image, error) {
		if len(asked) >= maxParts {
			return nil, errManyParts(file)
		}
		beside, err := d.openBeside(name)
		switch {
		case err == nil:
			asked[name] = beside.state
			return beside, nil
		case !plainName(name): // never opened
		case disk.KindOf(err) == disk.NotFound:
			asked[name] = state{}
		default:
			asked[name], sure = state{}, false
		}
		return nil, err
	}
	whole, err := p.read(providers.Source{Image: img, Format: format, Name: file, Resolve: resolve})
	x := assembly{descriptor: own, whole: whole && err == nil}
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		x.parts = append(x.parts, part{name, asked[name]})
	}
	if !sure || err != nil {
		return x
	}
	if now := time.Now(); now.Sub(newest(own, x.parts)) < young {
		x.expires = now.Add(young)
	}
	d.folder.parts.put(file, x)
	return x
}

func errManyParts(file string) error {
	return disk.Errorf(disk.Unsupported, "open files beside %q: more than %d", file, maxParts)
}

// part describes a file that an image needs, as it is now.
func (d *dir) part(name string) (part, error) {
	st, err := d.target(name)
	if err == nil {
		return part{name, st}, nil
	}
	if linkReason(err) != "" {
		return part{name: name}, nil
	}
	return part{}, err
}

// openBeside opens a file that an image needs.
func (d *dir) openBeside(name string) (*pinned, error) {
	if !plainName(name) {
		return nil, disk.Errorf(disk.Malformed, "open file beside image: %q is not a plain name", name)
	}
	return d.openPinned(name)
}

// resolver opens the files beside an image that is open. Those that its version
// covers must be as they were; others are refused, for a change of them would go
// unseen. Without a reader none is known, and all are given.
func (p *Provider) resolver(d *dir, file, format string, own state, parts []part) disk.Resolver {
	return func(name string) (disk.Image, error) {
		i, listed := slices.BinarySearchFunc(parts, name, func(x part, name string) int { return strings.Compare(x.name, name) })
		switch {
		case !plainName(name) || p.read == nil:
		case !p.leads(format, own):
			return nil, disk.Errorf(disk.Unsupported, "open file beside image: %q has %d bytes, too many for a descriptor", file, own.size)
		case !listed && len(parts) >= maxParts:
			return nil, errManyParts(file)
		case !listed:
			return nil, errPartChanged(name)
		}
		img, err := d.openBeside(name)
		if err != nil {
			return nil, err // not a nil *pinned
		}
		if listed && !d.folder.times.same(parts[i].state.version(), img.state.version()) {
			img.Close()
			return nil, errPartChanged(name)
		}
		return img, nil
	}
}

func errPartChanged(name string) error {
	return disk.Errorf(disk.Stale, "open file beside image: %q has changed since the image was listed", name)
}

// versionOf is the version of an image: that of its file, and of its parts where
// it has any.
func versionOf(own state, parts []part) string {
	if len(parts) == 0 {
		return own.version()
	}
	h := sha256.New()
	for _, x := range parts {
		fmt.Fprintf(h, "%q %s\n", x.name, x.state.version())
	}
	return own.version() + "+" + hex.EncodeToString(h.Sum(nil)[:16])
}

// newest is the time of the file that was written last.
func newest(own state, parts []part) time.Time {
	t := own.mtime()
	for _, x := range parts {
		if m := x.state.mtime(); x.state.inode != 0 && m.After(t) {
			t = m
		}
	}
	return t
}
