package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"chromogenic/pipeline"
)

const (
	// lineEvery is how often a meter that is not on a terminal says something.
	lineEvery = 30 * time.Second
	// stallAfter is how long nothing may move before the bar says so.
	stallAfter = 10 * time.Second
)

// A meter shows how far a copy is, and what it waits for: a bar for each stage on a
// terminal, a line every 30 s elsewhere. It is safe for concurrent use.
type meter struct {
	mu    sync.Mutex
	w     io.Writer
	bars  *mpb.Progress // nil where there is no terminal
	bar   *mpb.Bar      // of the present stage, if that counts
	now   pipeline.Progress
	began time.Time // of the stage
	moved time.Time // when Done last grew
	said  time.Time // when the last line was written

	note atomic.Pointer[string] // what the present stage waits for
}

func newMeter(w io.Writer) *meter {
	m := &meter{w: w, said: time.Now()}
	if isTerminal(w) {
		m.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(64))
	}
	return m
}

// update takes the news of a copy.
func (m *meter) update(p pipeline.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := time.Now()
	if p.Stage != m.now.Stage {
		m.endBar()
		m.began, m.moved = t, t
		m.now = pipeline.Progress{Stage: p.Stage}
	}
	if p.Done > m.now.Done {
		m.moved = t
	}
	p.Done = max(p.Done, m.now.Done) // news may overtake each other
	m.now = p
	switch {
	case m.bars != nil && p.Total > 0:
		if m.bar == nil {
			m.bar = m.newBar(p)
		}
		m.bar.SetCurrent(p.Done)
	case m.bars != nil && p.Note != "":
		m.note.Store(&p.Note)
		if m.bar == nil {
			m.bar = m.newSpinner(p)
		}
	case m.bars == nil && t.Sub(m.said) >= lineEvery:
		m.said = t
		fmt.Fprintln(m.w, m.line(t))
	}
}

// line is the state of the copy in words.
func (m *meter) line(t time.Time) string {
	p := m.now
	note := ""
	if p.Note != "" {
		note = p.Note + ", "
	}
	if p.Total <= 0 {
		return fmt.Sprintf("%s: %sfor %s", p.Stage, note, t.Sub(m.began).Round(time.Second))
	}
	s := fmt.Sprintf("%s: %s%s of %s (%d %%)", p.Stage, note, size(p.Done), size(p.Total), p.Done*100/p.Total)
	if spent := t.Sub(m.began); p.Done > 0 && spent > time.Second {
		rate := float64(p.Done) / spent.Seconds()
		left := time.Duration(float64(p.Total-p.Done) / rate * float64(time.Second))
		s += fmt.Sprintf(", %s/s, %s left", size(int64(rate)), left.Round(time.Second))
	}
	if t.Sub(m.moved) >= stallAfter {
		s += ", stalled"
	}
	return s
}

func (m *meter) newBar(p pipeline.Progress) *mpb.Bar {
	return m.bars.AddBar(p.Total,
		mpb.PrependDecorators(
			decor.Name(p.Stage, decor.WC{W: 12, C: decor.DindentRight}),
			decor.CountersKibiByte("% .1f / % .1f"),
		),
		mpb.AppendDecorators(
			decor.NewPercentage("%d "),
			decor.AverageSpeed(decor.SizeB1024(0), "% .1f "),
			decor.AverageETA(decor.ET_STYLE_GO),
			decor.Any(func(decor.Statistics) string {
				if m.stalled() {
					return " stalled"
				}
				return ""
			}),
		),
	)
}

// newSpinner is for a stage that counts nothing, and waits for the provider.
func (m *meter) newSpinner(p pipeline.Progress) *mpb.Bar {
	return m.bars.New(0, mpb.SpinnerStyle().PositionLeft(),
		mpb.PrependDecorators(decor.Name(p.Stage, decor.WC{W: 12, C: decor.DindentRight})),
		mpb.AppendDecorators(
			decor.Any(func(decor.Statistics) string { return *m.note.Load() + " " }),
			decor.Elapsed(decor.ET_STYLE_GO),
		),
	)
}

// stalled tells whether nothing has moved for a while. The bar asks from its own
// goroutine.
func (m *meter) stalled() bool {
	if !m.mu.TryLock() {
		return false // it is moving right now
	}
	defer m.mu.Unlock()
	return time.Since(m.moved) >= stallAfter
}

// endBar leaves the bar of the stage behind as it is.
func (m *meter) endBar() {
	if m.bar == nil {
		return
	}
	if m.now.Done >= m.now.Total {
		m.bar.SetTotal(m.now.Total, true)
	} else {
		m.bar.Abort(false)
	}
	m.bar = nil
}

// close ends the last stage and waits until all is drawn.
func (m *meter) close() {
	m.mu.Lock()
	m.endBar()
	bars := m.bars
	m.mu.Unlock()
	if bars != nil {
		bars.Wait()
	}
}

// size is a number of bytes for people.
func size(n int64) string {
	if n < 0 {
		return "unknown"
	}
	return humanize.IBytes(uint64(n))
}
