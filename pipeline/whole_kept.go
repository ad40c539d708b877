package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/providers"
)

// keptTime is how long a whole image is kept that nobody reads: a day, so that what is
// done with it every night finds it.
const keptTime = 25 * time.Hour

// A keptRecord is what is known of a whole that is kept.
type keptRecord struct {
	File string    `json:"file"` // in the folder of wholes
	Size int64     `json:"size"` // bytes of the image
	Used time.Time `json:"used"` // when it was opened last
}

// keptKey is the key of a whole in the state: that of its version and disk, whoever
// fetched it.
func keptKey(key string) string { return strings.TrimSuffix(key, "\x00over") }

// keepWhole makes a whole durable, and known to later processes.
func (p *Pipeline) keepWhole(key string, w *whole) error {
	s := w.spool
	if p.state.db == nil {
		return nil
	}
	name := sha256.Sum256([]byte(keptKey(key)))
	rec := keptRecord{File: hex.EncodeToString(name[:16]), Size: w.size, Used: time.Now()}
	if kept, err := s.moveTo(p.state.wholePath(rec.File)); err != nil || !kept {
		return err
	}
	enc, err := json.Marshal(rec)
	if err == nil {
		err = p.state.put(bucketWholes, keptKey(key), enc)
	}
	if err != nil {
		return err
	}
	w.kept = true
	s.leave()
	return nil
}

// moveTo gives the file of a spool another place, when all that was written is on disk.
// An image of nothing but zeros has none.
func (s *Spool) moveTo(path string) (moved bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return false, nil
	}
	if err := s.file.Truncate(s.size.Load()); err != nil {
		return false, fmt.Errorf("keep whole image: %w", err)
	}
	if err := s.file.Sync(); err != nil {
		return false, fmt.Errorf("keep whole image: %w", err)
	}
	if err := os.Rename(s.path, path); err != nil {
		return false, fmt.Errorf("keep whole image: %w", err)
	}
	s.path = path
	return true, nil
}

// keptWhole is the whole of an image that was kept, or nil; p.mu is held.
func (p *Pipeline) keptWhole(key string, img disk.Image) *whole {
	if _, ok := fillerOf(img); !ok {
		return nil
	}
	var rec keptRecord
	if json.Unmarshal(p.state.get(bucketWholes, keptKey(key)), &rec) != nil || rec.Size != img.Size() {
		return nil
	}
	path := p.state.wholePath(rec.File)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	if info, err := f.Stat(); err != nil || info.Size() != rec.Size {
		f.Close()
		return nil
	}
	s := &Spool{p: p, plain: true, file: f, path: path, left: true}
	s.size.Store(rec.Size)
	delete(p.kept, rec.File)
	p.spools[f] = held(f)
	w := &whole{spool: s, size: rec.Size, kept: true, ready: make(chan struct{}), stop: func() {}}
	close(w.ready)
	p.wholes[key] = w
	rec.Used = time.Now()
	if enc, err := json.Marshal(rec); err == nil {
		go p.remember(bucketWholes, keptKey(key), enc)
	}
	return w
}

// keptWholes are those that are kept and that no process has open.
func (p *Pipeline) keptWholes() map[string]keptRecord {
	all := map[string]keptRecord{}
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, enc := range p.state.all(bucketWholes) {
		var rec keptRecord
		if json.Unmarshal(enc, &rec) == nil && p.wholes[key] == nil && p.wholes[key+"\x00over"] == nil {
			all[key] = rec
		}
	}
	return all
}

// dropKept removes the kept whole that was used the longest ago, and tells whether there
// was one.
func (p *Pipeline) dropKept() bool {
	var oldest string
	all := p.keptWholes()
	for key, rec := range all {
		if oldest == "" || rec.Used.Before(all[oldest].Used) {
			oldest = key
		}
	}
	return oldest != "" && p.forgetWhole(oldest, all[oldest]) == nil
}

// forgetWhole removes one that nobody has open.
func (p *Pipeline) forgetWhole(key string, rec keptRecord) error {
	p.mu.Lock()
	if p.wholes[key] != nil || p.wholes[key+"\x00over"] != nil {
		p.mu.Unlock()
		return nil
	}
	err := removeFile(p.state.wholePath(rec.File))
	if err == nil {
		delete(p.kept, rec.File)
	}
	p.mu.Unlock()
	if err = errors.Join(err, p.state.drop(bucketWholes, key)); err != nil {
		p.log.Warn("remove whole image", "error", err)
	}
	return err
}

// pruneWholes removes the kept wholes of a site and kind that are of no image any longer,
// going by a complete listing, and those that nobody has used for long.
func (p *Pipeline) pruneWholes(site string, kind providers.Kind, entries []providers.Entry, now time.Time) {
	kept := p.keptWholes()
	if len(kept) == 0 {
		return
	}
	listed := map[string]bool{}
	for _, e := range entries {
		listed[imageKey(site, e)] = true
	}
	for key, rec := range kept {
		parts := strings.Split(key, "\x00") // an imageKey, and maybe a disk
		if len(parts) < 4 || parts[0] != site || parts[1] != string(kind) {
			continue
		}
		if !listed[strings.Join(parts[:4], "\x00")] || now.Sub(rec.Used) > keptTime {
			_ = p.forgetWhole(key, rec) // it has logged why
		}
	}
}

// sweepWholes counts what is kept, and removes what nothing is known of, or that is too
// old.
func (p *Pipeline) sweepWholes(now time.Time) error {
	if p.state.db == nil {
		return nil
	}
	known := map[string]bool{}
	for key, rec := range p.keptWholes() {
		if now.Sub(rec.Used) > keptTime {
			_ = p.forgetWhole(key, rec)
			continue
		}
		known[rec.File] = true
		p.mu.Lock()
		p.kept[rec.File] = allocated(p.state.wholePath(rec.File))
		p.mu.Unlock()
	}
	files, err := os.ReadDir(p.state.whole)
	if err != nil {
		return fmt.Errorf("read folder of whole images: %w", err)
	}
	for _, f := range files {
		if wholeName.MatchString(f.Name()) && !known[f.Name()] {
			if err := removeFile(p.state.wholePath(f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
