package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
	"chromogenic/providers"
)

// A request is what a copy was asked for, as its record keeps it. One of Image,
// File and Spool is set: a source that is there after a crash, unchanged or known
// to have changed.
type request struct {
	Image  *imageSource `json:"image,omitempty"`
	File   *fileSource  `json:"file,omitempty"`
	Spool  string       `json:"spool,omitempty"` // a file's name in the spool folder
	Boot   string       `json:"boot,omitempty"`  // of the machine: what a spool holds is sure to be on disk only while that lasts
	Format string       `json:"format,omitempty"`
	Origin string       `json:"origin,omitempty"`

	Site  string `json:"site"`
	Name  string `json:"name"`
	Store string `json:"store,omitempty"`
	Clean string `json:"clean,omitempty"`

	Machine bool   `json:"machine,omitempty"`
	Number  int    `json:"number,omitempty"` // of a data disk
	Device  string `json:"device,omitempty"`

	Role providers.Role `json:"role,omitempty"`

	Note    string `json:"note,omitempty"`
	Replace bool   `json:"replace,omitempty"`
	Rate    Rate   `json:"rate,omitzero"`

	Mtime time.Time `json:"mtime,omitzero"`
}

// An imageSource is a view of an image of a site.
type imageSource struct {
	Site    string         `json:"site"`
	Kind    providers.Kind `json:"kind"`
	ID      string         `json:"id"`
	Version string         `json:"version"`
	Format  string         `json:"format"`
	Disk    int            `json:"disk"`
	Over    bool           `json:"over,omitempty"`
	Cleaned string         `json:"cleaned,omitempty"` // as Ref has it
}

// A fileSource is a plain file.
type fileSource struct {
	Path  string    `json:"path"`
	Size  int64     `json:"size"`
	Mtime time.Time `json:"mtime"`
}

// What jobs make, as jobs.Made says it.
const (
	madeUpload = "upload"
	madeSpool  = "spool"
)

// keepRequest writes into the record what is needed to take the job up again, if
// its source outlives the process: a live machine, and bytes that nobody has
// stored, do not.
func (j *job) keepRequest() {
	s := &j.spec
	if s.record != nil || s.Wait != nil {
		return // it has one, or may be called off yet
	}
	r := request{
		Format: s.Format, Origin: s.Origin, Site: s.Site, Name: s.Name, Store: s.Store, Clean: s.Clean,
		Machine: s.Machine, Number: s.Disk, Device: s.Device, Role: s.Role, Note: s.Note, Replace: s.Replace, Rate: s.Rate, Mtime: s.Mtime,
	}
	spool, spooled := s.Image.(spoolImage)
	switch {
	case s.From != nil && !s.From.Ref.Entry.Live():
		ref := s.From.Ref
		r.Image = &imageSource{ref.Site, ref.Entry.Kind, ref.Entry.ID, ref.Entry.Version, ref.Format, ref.Disk, ref.Over, ref.Cleaned}
	case s.File != "":
		info, err := os.Stat(s.File)
		if err != nil {
			return
		}
		r.File = &fileSource{s.File, info.Size(), info.ModTime()}
	case spooled && spool.keepAs(j.rec.ID):
		r.Spool, r.Boot = j.rec.ID, bootID()
		j.rec.Made = append(j.rec.Made, jobs.Made{What: madeSpool, Token: []byte(r.Spool)})
	default:
		return
	}
	enc, err := json.Marshal(r)
	if err != nil {
		return // never happens: the fields are text and numbers
	}
	j.rec.Resume = enc
	if r.Image != nil {
		j.rec.Key = r.key()
	}
}

// key is the same for all copies that make the same of the same image, however fast.
func (r request) key() string {
	image := *r.Image
	image.Over = false
	r.Image, r.Rate = &image, Rate{}
	enc, err := json.Marshal(r)
	if err != nil {
		return "" // never happens: the fields are text and numbers
	}
	sum := sha256.Sum256(enc)
	return hex.EncodeToString(sum[:16])
}

// takeUp makes the job that of an earlier run: the one that is resumed, or one
// that was cut off and was asked for the same.
func (j *job) takeUp() {
	old := j.spec.record
	for _, r := range j.p.jobs.List() {
		if old == nil && j.rec.Key != "" && r.Key == j.rec.Key && r.State == jobs.Interrupted {
			old = &r
		}
	}
	if old == nil {
		return
	}
	j.rec.ID, j.rec.Key, j.rec.Made, j.rec.Resume = old.ID, old.Key, old.Made, old.Resume
	j.rec.Started, j.rec.Stages, j.rec.Scratch = old.Started, old.Stages, max(old.Scratch, j.rec.Scratch)
}

// Resume takes up a job that was interrupted, or has failed. A source that has
// changed since is Stale, one that is gone NotFound.
func (p *Pipeline) Resume(ctx context.Context, id, until string, progress func(Progress)) (*jobs.Record, error) {
	rec, err := p.jobs.Get(id)
	if err != nil {
		return nil, err
	}
	switch {
	case rec.State == jobs.Done || rec.State == jobs.Planned:
		return &rec, disk.Errorf(disk.Invalid, "resume job %s: it is %s", rec.ID, rec.State)
	case rec.Resume == nil:
		return &rec, fmt.Errorf("resume job %s: %w", rec.ID, unresumable(&rec))
	}
	spec, closeSource, err := p.respec(ctx, &rec)
	if err != nil {
		return &rec, fmt.Errorf("resume job %s: %w", rec.ID, err)
	}
	defer closeSource()
	spec.record, spec.Until, spec.Progress = &rec, until, progress
	return p.Copy(ctx, spec)
}

// respec makes the spec of a record, and opens its source.
func (p *Pipeline) respec(ctx context.Context, rec *jobs.Record) (CopySpec, func(), error) {
	var r request
	if err := json.Unmarshal(rec.Resume, &r); err != nil {
		return CopySpec{}, nil, fmt.Errorf("decode request: %w", err)
	}
	spec := CopySpec{
		Format: r.Format, Origin: r.Origin, Site: r.Site, Name: r.Name, Store: r.Store, Clean: r.Clean,
		Machine: r.Machine, Disk: r.Number, Device: r.Device, Role: r.Role, Note: r.Note, Replace: r.Replace, Rate: r.Rate, Mtime: r.Mtime,
	}
	if r.Image != nil {
		v, err := p.review(ctx, *r.Image)
		if err != nil {
			return spec, nil, err
		}
		spec.From = v
		return spec, func() { v.Close() }, nil
	}
	if r.Spool != "" && r.Boot != bootID() {
		err := disk.Errorf(disk.Stale, "open source: the machine was started anew, and what was written need not be whole")
		return spec, nil, disk.Hint(err, "copy it again")
	}
	path := p.state.spoolPath(r.Spool)
	if r.File != nil {
		path, spec.File = r.File.Path, r.File.Path
	}
	f, err := os.Open(path)
	if err != nil {
		return spec, nil, fmt.Errorf("open source: %w", err)
	}
	info, err := f.Stat()
	if err == nil && r.File != nil && (info.Size() != r.File.Size || !info.ModTime().Equal(r.File.Mtime)) {
		err = disk.Errorf(disk.Stale, "open source: %q has changed since the job began", path)
	}
	if err != nil {
		f.Close()
		return spec, nil, err
	}
	img, err := disk.OpenFile(f)
	if err != nil {
		return spec, nil, err
	}
	spec.Image = img
	return spec, func() { img.Close() }, nil
}

// review opens the view that a job was copying, if the image still has the same
// version.
func (p *Pipeline) review(ctx context.Context, s imageSource) (*View, error) {
	l, err := p.ListNow(ctx, s.Site, s.Kind)
	if err != nil {
		return nil, err
	}
	for _, e := range l.Entries {
		if e.ID != s.ID {
			continue
		}
		if e.Version != s.Version {
			return nil, disk.Errorf(disk.Stale, "open source: image %q of %s has changed since the job began", e.Name, s.Site)
		}
		return p.View(ctx, Ref{Site: s.Site, Entry: e, Format: s.Format, Disk: s.Disk, Over: s.Over, Cleaned: s.Cleaned})
	}
	return nil, disk.Errorf(disk.NotFound, "open source: image %q of %s is gone", s.ID, s.Site)
}

// bootID tells one run of the machine's kernel from another; empty where it
// cannot be told.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// Recover deals with the jobs that an earlier process has left unfinished: each
// is taken up again, or what it has made is removed where that cannot be. A job
// whose provider is out of reach, or that waits for its owner, stays as it is.
func (p *Pipeline) Recover(ctx context.Context) {
	for _, rec := range p.jobs.List() {
		if rec.State != jobs.Interrupted || rec.Until != "" {
			continue
		}
		log := p.log.With("job", rec.ID, "source", rec.Source, "destination", rec.Destination)
		_, err := p.Resume(ctx, rec.ID, "", nil)
		switch kind := disk.KindOf(err); {
		case err == nil:
			log.Info("finished a job that was cut off")
		case ctx.Err() != nil:
			return
		case kind == disk.Unreachable || kind == disk.Busy || kind == disk.Timeout:
			log.Warn("a job that was cut off waits for its provider", "error", err)
		default:
			log.Warn("gave up a job that was cut off", "error", err)
			if err := p.GiveUp(ctx, rec.ID, err); err != nil {
				log.Warn("undo job", "error", err)
			}
		}
	}
}

// GiveUp removes what an interrupted job has made, and ends it. Of a job that has
// ended it changes nothing.
func (p *Pipeline) GiveUp(ctx context.Context, id string, why error) error {
	rec, err := p.jobs.Get(id)
	if err != nil {
		return err
	}
	if rec.State != jobs.Interrupted {
		return nil
	}
	var errs error
	for _, m := range rec.Made {
		if err := p.unmake(ctx, m); err != nil {
			errs = errors.Join(errs, fmt.Errorf("undo job %s: remove %s: %w", rec.ID, m.What, err))
		}
	}
	if errs != nil {
		return errs
	}
	return p.jobs.Change(rec.ID, func(r *jobs.Record) {
		r.Finish(why)
		r.Made, r.Resume = nil, nil
	})
}

// unmake removes one thing that a job has made. One that is gone is removed.
func (p *Pipeline) unmake(ctx context.Context, m jobs.Made) error {
	if m.What == madeSpool {
		p.dropSpool(string(m.Token))
		return nil
	}
	s, err := p.site(m.Site)
	if err != nil {
		return err
	}
	up, ok := s.provider.(providers.Uploader)
	if !ok {
		return disk.Errorf(disk.Unsupported, "provider %q takes no images", m.Site)
	}
	u, err := up.Resume(ctx, providers.Spec{}, m.Token)
	if disk.KindOf(err) == disk.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return u.Abort(ctx)
}
