package disk

import (
	"context"
	"fmt"
	"sort"
	"sync/atomic"
)

// Concat returns the images one behind the other, as the extents of a
// multi-extent disk lie. It owns them: Close closes all.
func Concat(imgs ...Image) Image {
	c := &concat{all: imgs}
	for _, img := range imgs {
		if n := img.Size(); n > 0 {
			c.parts = append(c.parts, part{img, c.size})
			c.size += n
		}
	}
	return c
}

type concat struct {
	all    []Image
	parts  []part // those that are not empty
	size   int64
	closed atomic.Bool
}

// A part is one image of a concat and the offset at which it begins there.
type part struct {
	Image
	off int64
}

func (c *concat) Size() int64 { return c.size }

// Close closes every image, and reports the first error.
func (c *concat) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	var first error
	for _, img := range c.all {
		if err := img.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Verify verifies every image.
func (c *concat) Verify(ctx context.Context) error {
	for i, img := range c.all {
		if err := Verify(ctx, img); err != nil {
			return fmt.Errorf("verify part %d: %w", i, err)
		}
	}
	return nil
}

// find is the index of the part that holds off, which is within the image.
func (c *concat) find(off int64) int {
	return sort.Search(len(c.parts), func(i int) bool { return c.parts[i].off > off }) - 1
}

func (c *concat) ReadAt(p []byte, off int64) (int, error) {
	if c.closed.Load() {
		return 0, ErrClosed
	}
	q, eof := ClipRead(p, off, c.size)
	if len(q) == 0 {
		return 0, eof
	}
	done := 0
	for i := c.find(off); done < len(q); i++ {
		in := off + int64(done) - c.parts[i].off
		n := min(int64(len(q)-done), c.parts[i].Size()-in)
		if err := ReadFull(c.parts[i], q[done:done+int(n)], in); err != nil {
			return done, fmt.Errorf("read part %d: %w", i, err)
		}
		done += int(n)
	}
	return done, eof
}

func (c *concat) Extent(off, n int64) (Extent, error) {
	n, err := CheckRange(off, n, c.size)
	if err != nil {
		return Extent{}, err
	}
	run := Extent{Off: off}
	for i := c.find(off); run.Len < n; i++ {
		e, err := c.parts[i].Extent(run.End()-c.parts[i].off, n-run.Len)
		if err != nil {
			return Extent{}, fmt.Errorf("find extent of part %d: %w", i, err)
		}
		if run.Len > 0 && e.Zero != run.Zero {
			break
		}
		run.Zero = e.Zero
		run.Len += e.Len
		if run.End() < c.parts[i].off+c.parts[i].Size() {
			break
		}
	}
	return run, nil
}
