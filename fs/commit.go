package fs

import (
	"context"
	"fmt"
	"time"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
)

// flush is a close of a writable handle. It makes an image of a file with a
// public name, unless
//   - the caller was killed: what it wrote is cut off, now and for ever;
//   - the file is empty: dd and shells close it once before they write;
//   - qemu closes a disk of zeros for the first time: it goes on later;
//   - a process closes what it has inherited and not written to, while the one
//     that opened the file still has it: whoever starts another program has his
//     files closed there;
//   - nothing was written since the last commit: its result stands.
//
// What came after an unfinished file was published under its final name is lost,
// and the close says so.
func (g *staged) flush(ctx context.Context) error {
	cut := killed(ctx)
	g.mu.Lock()
	if cut && g.state == writing {
		g.state = spoiled
		g.err = disk.Errorf(disk.Interrupted, "write image: the program was killed, so nothing is published")
	}
	g.unflushed = false
	state, err, dirty := g.state, g.err, g.dirty
	g.mu.Unlock()
	switch {
	case state == dropped:
		return nil
	case state == spoiled:
		return err
	case !g.public() && state == published && dirty:
		return disk.Errorf(disk.Stale, "write file: it was written to after it was published")
	case !g.public():
		return nil
	case !dirty:
		return err
	case cut:
		return disk.Errorf(disk.Interrupted, "write image: the program was killed, so what it wrote last is not published")
	case g.spool.Size() == 0:
		return nil
	case g.unfinishedDisk(), g.inherited(ctx):
		return nil
	}
	return g.commit(ctx, g.goal())
}

// A goal is what a file becomes when it is published: an image, or a data disk of
// one, or metadata.
type goal struct {
	name   string // of the image, the true one
	disk   int    // 0 is the image itself
	device string // of a data disk
	format formats.Format
	path   string
}

// goal is that of a public name.
func (g *staged) goal() goal { return goal{g.name, g.disk, g.device, *g.format, g.path} }

// unfinishedDisk tells whether qemu has only prepared the disk. An all-zero disk
// is a disk too: the second time it is taken for one.
func (g *staged) unfinishedDisk() bool {
	g.mu.Lock()
	again := g.blank
	g.mu.Unlock()
	if again || !g.qemu || !g.spool.Blank(g.format.Name) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.blank = true
	return true
}

// inherited tells whether the caller closes a file that it has not written to and
// that the one who opened it still holds. Whoever has written, a cat that a shell
// started, is told how it went.
func (g *staged) inherited(ctx context.Context) bool {
	by := callerProcess(ctx)
	g.mu.Lock()
	wrote := g.writers[by]
	g.mu.Unlock()
	return !wrote && by != process{} && !by.is(g.owner) && g.owner.holds("/"+g.path)
}

// commit makes an image of the file, once at a time, and keeps the result for
// whoever closes it again. A caller that must die is let go: the copy is
// cancelled then, and what it made is removed behind it.
func (g *staged) commit(ctx context.Context, to goal) error {
	token := make(chan struct{})
	go func() { <-g.commits; close(token) }()
	if err := g.folder.t.wait(ctx, token); err != nil {
		go func() { <-token; g.commits <- struct{}{} }()
		return errLeft(err)
	}
	job, cancel := context.WithCancel(g.folder.t.ctx)
	done := make(chan struct{})
	var err error
	g.folder.t.jobs.Go(func() {
		defer close(done)
		defer func() { g.commits <- struct{}{} }()
		defer cancel()
		err = g.run(job, to)
	})
	if left := g.folder.t.wait(ctx, done); left != nil {
		cancel()
		return errLeft(left)
	}
	return err
}

func errLeft(why error) error {
	return fmt.Errorf("write image: %w, so nothing is published", why)
}

// run is the commit itself. The content stands still meanwhile.
func (g *staged) run(ctx context.Context, to goal) error {
	g.content.Lock()
	defer g.content.Unlock()
	g.mu.Lock()
	if g.public() && !g.dirty || g.state == spoiled || g.state == dropped {
		defer g.mu.Unlock()
		return g.err // another close was faster
	}
	if err := g.ready(); err != nil {
		defer g.mu.Unlock()
		return err
	}
	spec := pipeline.CopySpec{
		Site: g.folder.site, Name: to.name, Disk: to.disk, Device: to.device,
		Clean: g.folder.view.clean, Replaces: g.replaces, Replace: g.folder.t.o.AllowReplace,
	}
	if g.timed {
		spec.Mtime = g.mtime
	}
	g.mu.Unlock()

	rec, err := &jobs.Record{}, error(nil)
	switch role := roleOf(to.format); {
	case to.format.Name == JSONName:
		err = g.setMeta(ctx, to.name, spec.Mtime)
	case role != "":
		spec.Scratch, spec.Role, spec.Replaces = g.spool.Scratch(), role, nil
		spec.Image, spec.Format, spec.Origin = g.spool.Image(), "raw", "what was written to "+to.path
		rec, err = g.folder.t.p.Copy(ctx, spec)
	default:
		rec, err = g.copy(ctx, spec, to)
	}

	g.mu.Lock()
	g.dirty, g.err = false, err
	if err != nil {
		g.state = failed
		g.mu.Unlock()
		return err
	}
	g.state, g.closed, g.image = published, time.Now(), rec.Entry
	if !g.public() {
		g.disk = to.disk
	}
	// What was there before is not this writer's to replace.
	g.replaces = nil
	if !rec.Unchanged {
		g.replaces = rec.Entry
	}
	g.mu.Unlock()
	g.folder.t.solve(to.path)
	g.folder.active(to, g.owner)
	return nil
}

// copy hands the content to the pipeline: as the view that all of it equals,
// where there is one, or as bytes in the format that the extension states.
func (g *staged) copy(ctx context.Context, spec pipeline.CopySpec, to goal) (*jobs.Record, error) {
	spec.Scratch = g.spool.Scratch()
	origin := "what was written to " + to.path
	h := g.takeHead()
	if v, ok := g.spool.Source(); ok {
		defer v.Close()
		if h.makes(v, spec) {
			return h.finish(ctx, spec.Mtime)
		}
		h.callOff()
		if v.Ref.Format == to.format.Name {
			spec.From = v
		}
		if g.spool.Expected(v) {
			spec.Origin = origin // only its bytes are those of the image that is there
		}
	} else {
		h.callOff()
	}
	if spec.From == nil {
		spec.Image, spec.Format, spec.Origin = g.spool.Image(), to.format.Name, origin
	}
	return g.folder.t.p.Copy(ctx, spec)
}

// release counts a handle out. With the last one the content goes, unless the
// writer may come back for it.
func (g *staged) release() {
	g.mu.Lock()
	g.size = g.spool.Size()
	g.opens--
	if g.opens == 0 {
		g.closed = time.Now()
		g.end()
	}
	gone := g.opens == 0 && g.state == dropped
	var h *headStart
	if g.opens == 0 {
		h, g.head = g.head, nil
	}
	g.mu.Unlock()
	h.abandon()
	if gone {
		g.folder.remove(g)
	}
}

// end decides, under mu, what becomes of the content that nobody has open.
func (g *staged) end() {
	if g.state == writing && g.image != nil && g.replaces == nil && !g.dirty {
		g.state = dropped // it is still the image that it began as
	}
	switch {
	case g.state == writing && g.public():
		g.folder.t.jobs.Go(g.settle)
	case g.state == dropped, g.state == published, g.state == spoiled, g.public():
		g.spool.Close()
	}
}

// settlePoll is how soon settle first looks whether the writer has ended, and
// settlePause how long it waits at most from one look to the next.
const (
	settlePoll  = 20 * time.Millisecond
	settlePause = time.Second
)

// settle waits for the end of the process that has left a file unfinished, then
// makes an image of the empty disk that qemu-img create has left, and drops anything
// else: a conversion that is killed at the right moment leaves an empty disk too. Its errors are
// in the journal alone.
func (g *staged) settle() {
	pause := settlePoll
	for began := time.Now(); ; pause = min(2*pause, settlePause) {
		select {
		case <-g.folder.t.ctx.Done():
		case <-time.After(pause):
		}
		if g.resumed() {
			return
		}
		unknown := g.owner == process{} && time.Since(began) < claimTime
		if g.folder.t.ctx.Err() != nil || !g.owner.alive() && !unknown {
			break
		}
	}
	ctx := g.folder.t.ctx
	var err error
	g.mu.Lock()
	blank, dirty := g.blank && g.empty, g.dirty
	g.mu.Unlock()
	if blank && dirty && g.spool.Size() > 0 {
		err = g.commit(ctx, g.goal())
	} else if dirty || g.spool.Size() == 0 {
		err = disk.Errorf(disk.Invalid, "write image: the file was left empty or unfinished, so nothing is published")
	}
	if err != nil {
		g.fail("release", err)
	}
	g.folder.remove(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == writing {
		g.state = dropped
	}
	if g.opens == 0 {
		g.spool.Close()
	}
}

// resumed tells whether settle has nothing more to do: the file is open again, or
// a commit that nobody waited for has ended it.
func (g *staged) resumed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opens == 0 && g.state != writing {
		g.spool.Close()
	}
	return g.opens > 0 || g.state != writing
}
