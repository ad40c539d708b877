package fs

import (
	"context"
	"time"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/pipeline/jobs"
)

// A headStart is the copy of an image that a program seems to be making, begun while it
// still writes: programs that write in small pieces leave time enough for it. Nothing of
// it appears before the program has closed the file, and all of what it wrote equals the
// source. It is undone otherwise.
type headStart struct {
	g      *staged
	source *pipeline.View
	spec   pipeline.CopySpec
	wanted chan struct{} // closed when the program has written all
	cancel context.CancelCauseFunc

	done chan struct{} // closed when there is a result
	rec  *jobs.Record
	err  error
}

// headStep is after how many bytes it is looked whether a copy may begin, and headLeast
// how large an image must be: of a smaller one there is nothing to gain.
const (
	headStep  = 16 << 20
	headLeast = 64 << 20
)

// startHead begins the copy, if the write of n bytes at off has come to the next step and
// everything is as it mostly is: a new image, by its final name, of which nothing but its
// source is known.
func (g *staged) startHead(off int64, n int) {
	if off/headStep == (off+int64(n))/headStep || !g.public() || g.format.Name == JSONName || g.qemu || g.disk != 0 || g.folder.t.o.AllowReplace {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.head != nil || g.state != writing || g.image != nil || g.replaces != nil {
		return
	}
	v, ok := g.spool.Likely()
	if !ok {
		return
	}
	if v.Ref.Format != g.format.Name || v.Ref.Disk != 0 || v.Size() < headLeast {
		v.Close()
		return
	}
	h := &headStart{
		g: g, source: v, wanted: make(chan struct{}), done: make(chan struct{}),
		spec: pipeline.CopySpec{Site: g.folder.site, Name: g.name, Clean: g.folder.view.clean},
	}
	var ctx context.Context
	ctx, h.cancel = context.WithCancelCause(g.folder.t.ctx)
	g.head = h
	g.folder.t.jobs.Go(func() { h.run(ctx) })
}

func (h *headStart) run(ctx context.Context) {
	defer close(h.done)
	defer h.source.Close()
	defer h.cancel(nil)
	spec := h.spec
	spec.From = h.source
	spec.Wait = func(ctx context.Context) error {
		select {
		case <-h.wanted:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	h.rec, h.err = h.g.folder.t.p.Copy(ctx, spec)
}

// takeHead gives the copy that was begun, nil for none, to the one who ends it.
func (g *staged) takeHead() *headStart {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.head
	g.head = nil
	return h
}

// makes tells whether it is the copy of v that is asked for.
func (h *headStart) makes(v *pipeline.View, spec pipeline.CopySpec) bool {
	return h != nil && h.source.Same(v) && h.spec.Site == spec.Site && h.spec.Name == spec.Name && h.spec.Clean == spec.Clean &&
		spec.Disk == 0 && spec.Replaces == nil && !spec.Replace && spec.Origin == ""
}

// finish lets the copy appear, and gives it the time that its writer has set.
func (h *headStart) finish(ctx context.Context, mtime time.Time) (*jobs.Record, error) {
	close(h.wanted)
	select {
	case <-h.done:
	case <-ctx.Done():
		h.cancel(context.Cause(ctx))
		<-h.done
	}
	if h.err != nil || mtime.IsZero() || h.rec.Entry == nil {
		return h.rec, h.err
	}
	now, err := h.g.folder.t.p.SetMtime(context.WithoutCancel(ctx), h.g.ref(*h.rec.Entry), mtime)
	if err == nil {
		h.rec.Entry = &now
	}
	return h.rec, err
}

// errCalledOff is the end of a copy that nobody wants.
var errCalledOff = disk.Errorf(disk.Cancelled, "the program has not written all of the image")

// callOff ends the copy, unless it has ended, and returns when nothing is left of it. Of
// nil nothing is.
func (h *headStart) callOff() {
	if h != nil {
		h.cancel(errCalledOff)
		<-h.done
	}
}

// abandon is callOff without waiting.
func (h *headStart) abandon() {
	if h != nil {
		h.cancel(errCalledOff)
	}
}
