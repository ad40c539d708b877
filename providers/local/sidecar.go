package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/providers"
)

// The metadata of an image lies beside it, in a sidecar: <stem>.json, the document
// that a mount shows under the image's name. So a folder into which somebody has
// copied both needs nothing else. It belongs to all images of its stem. One that
// cannot be read hides no image: its reason is that of the metadata alone.
//
// A file of that name that does not say of itself that it is such a document is
// somebody's own. It says nothing about the image, and is never written over, moved
// or removed.
const sidecarExt = ".json"

// A sidecar is what was found in one; the zero value is none.
type sidecar struct {
	providers.Metadata
	reason  string // why it cannot be read
	foreign bool   // it is a file of somebody's own
	sum     string // of what it says
}

// sidecars remembers those of a folder, by their names, each for one state of its
// file. It is safe for concurrent use.
type sidecars struct {
	mu   sync.Mutex
	last map[string]readSidecar
}

type readSidecar struct {
	state   state
	expires time.Time // zero is never
	sidecar
}

func (s *sidecars) get(name string, st state) (sidecar, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.last[name]
	return r.sidecar, ok && r.state.same(st) && (r.expires.IsZero() || time.Now().Before(r.expires))
}

func (s *sidecars) put(name string, r readSidecar) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string]readSidecar{}
	}
	s.last[name] = r
}

func (s *sidecars) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.last, name)
}

// prune forgets those that are not among the names of the folder's files.
func (s *sidecars) prune(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.last) == 0 {
		return
	}
	slices.Sort(names)
	maps.DeleteFunc(s.last, func(name string, _ readSidecar) bool {
		_, ok := slices.BinarySearch(names, name)
		return !ok
	})
}

// sidecarName is the name of the sidecar of an image's file.
func (p *Provider) sidecarName(file string) string {
	stem, _, _, _ := p.split(file)
	return stem + sidecarExt
}

// sidecar is the one of an image's file. It is read once for each state of it.
func (p *Provider) sidecar(d *dir, file string) sidecar {
	if d.folder.kind != providers.Images {
		return sidecar{}
	}
	name := p.sidecarName(file)
	st, err := d.target(name)
	if err != nil {
		d.folder.sidecars.forget(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG) {
			return sidecar{}
		}
		return sidecar{foreign: true, reason: openError(err).Error()}
	}
	if known, ok := d.folder.sidecars.get(name, st); ok {
		return known
	}
	r := readSidecar{state: st}
	text, err := d.readSidecar(name)
	var doc providers.Document
	if err == nil {
		r.foreign = !providers.IsDocument(text)
		doc, err = providers.DecodeDocument(text)
	} else {
		r.foreign = true
	}
	switch {
	case err != nil:
		r.reason = err.Error()
	case !r.foreign:
		m := doc.Metadata
		sum := sha256.Sum256(providers.Document{Metadata: m}.Encode())
		m.MetaTime = st.mtime()
		r.Metadata, r.sum = m, hex.EncodeToString(sum[:16])
	}
	if now := time.Now(); now.Sub(st.mtime()) < young || disk.KindOf(err) == disk.Other {
		r.expires = now.Add(young)
	}
	d.folder.sidecars.put(name, r)
	return r.sidecar
}

func (d *dir) readSidecar(name string) ([]byte, error) {
	f, err := d.openRegular(name)
	if err != nil {
		return nil, openError(err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, providers.MaxDocument+1))
}

// ownSidecar is the sidecar of an image that is to be changed: it fails with Exists
// where a file of somebody's own has its name.
func (p *Provider) ownSidecar(d *dir, file string) (sidecar, error) {
	s := p.sidecar(d, file)
	if !s.foreign {
		return s, nil
	}
	err := disk.Errorf(disk.Exists, "keep metadata in %q: a file of that name is there, and is no metadata of an image (key \"schema\")", p.sidecarName(file))
	return s, disk.Hint(err, "move that file away, or give it the key \"schema\": 1 if it is meant to be metadata")
}

// sidecarMark parts the version of an image's bytes from that of its metadata.
const sidecarMark = "*"

// version is that of an image with these bytes and this sidecar.
func (s sidecar) version(ofBytes string) string {
	if s.sum == "" {
		return ofBytes
	}
	return ofBytes + sidecarMark + s.sum
}

// bytesOf is the version of the bytes alone: what decides whether an image is still
// the one that was listed.
func bytesOf(version string) string {
	ofBytes, _, _ := strings.Cut(version, sidecarMark)
	return ofBytes
}

// KeepsProp is true: a folder has no properties of its own, so none is mistaken for
// another.
func (p *Provider) KeepsProp(string) bool { return true }

// SetMeta writes the sidecar of an image, or removes it. What it says already
// changes nothing but its time.
func (p *Provider) SetMeta(ctx context.Context, e providers.Entry, m providers.Metadata) (providers.Entry, error) {
	now, err := p.setMeta(ctx, e, m)
	if err != nil {
		return e, fmt.Errorf("set metadata of %q: %w", e.ID, explain(err))
	}
	return now, nil
}

func (p *Provider) setMeta(ctx context.Context, e providers.Entry, m providers.Metadata) (providers.Entry, error) {
	d, err := p.openImage(ctx, e)
	if err != nil {
		return e, err
	}
	defer d.close()
	p.change.Lock()
	defer p.change.Unlock()
	name := p.sidecarName(e.ID)
	old, err := p.ownSidecar(d, e.ID)
	if err != nil {
		return e, err
	}
	switch {
	case m.MetaTime.IsZero() && m.Empty():
		err = p.dropSidecar(d, e.ID)
	case old.sum != "" && old.Same(m):
		if !m.MetaTime.IsZero() {
			err = d.root.Chtimes(name, time.Time{}, m.MetaTime)
		}
	default:
		err = p.writeSidecar(d, name, e.Name, m)
	}
	if err != nil {
		return e, err
	}
	return p.entry(d, e.ID)
}

// writeSidecar puts a sidecar in the place of the one that may be there, all at
// once.
func (p *Provider) writeSidecar(d *dir, file, name string, m providers.Metadata) error {
	own, err := openDir(d.folder) // the temporary closes it
	if err != nil {
		return err
	}
	t, err := createTemp(own, "metadata", 0o644)
	if err != nil {
		return err
	}
	_, err = t.file.Write(providers.Document{Name: name, Metadata: m}.Encode())
	if err == nil && !m.MetaTime.IsZero() {
		err = own.root.Chtimes(t.name, time.Time{}, m.MetaTime)
	}
	if err == nil {
		err = t.file.Sync()
	}
	if err == nil {
		err = own.root.Rename(t.name, file)
	}
	if err != nil {
		return errors.Join(err, t.remove())
	}
	t.close()
	return d.sync()
}

// dropSidecar removes the sidecar of an image, if it has one.
func (p *Provider) dropSidecar(d *dir, file string) error {
	if p.sidecar(d, file).foreign {
		return nil
	}
	name := p.sidecarName(file)
	d.folder.sidecars.forget(name)
	err := d.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// alone tells whether no image but those in own has the stem of a file, so that the
// sidecar is theirs.
func (p *Provider) alone(d *dir, file string, own ...string) (bool, error) {
	stem, _, _, _ := p.split(file)
	err := p.refuseTaken(d, decodeName(stem), own...)
	if disk.KindOf(err) == disk.Exists {
		return false, nil
	}
	return err == nil, err
}

// newSidecar writes the sidecar of an image that is about to appear as a file, for
// publish. It gives back what was there when the image does not appear after all.
func (p *Provider) newSidecar(d *dir, file, name string, m providers.Metadata) (undo func() error, err error) {
	none := func() error { return nil }
	if m.Empty() && m.MetaTime.IsZero() {
		return none, nil
	}
	side := p.sidecarName(file)
	old, err := p.ownSidecar(d, file)
	if err != nil {
		return none, err
	}
	if err := p.writeSidecar(d, side, name, m); err != nil {
		return none, err
	}
	return func() error {
		if old.sum == "" {
			return p.dropSidecar(d, file)
		}
		return p.writeSidecar(d, side, name, old.Metadata)
	}, nil
}

// moveSidecar takes the sidecar of an image along to its new name; where others
// have the same, they keep it.
func (p *Provider) moveSidecar(d *dir, from, file, name string) (undo func() error, err error) {
	none := func() error { return nil }
	old, side := p.sidecarName(from), p.sidecarName(file)
	s := p.sidecar(d, from)
	if old == side || s.sum == "" {
		return none, nil
	}
	alone, err := p.alone(d, from, from)
	if err != nil {
		return none, err
	}
	if !alone {
		return p.newSidecar(d, file, name, s.Metadata)
	}
	if _, err := p.ownSidecar(d, file); err != nil {
		return none, err
	}
	if err := d.root.Rename(old, side); err != nil {
		return none, err
	}
	return func() error { return d.move(side, old) }, nil
}
