package disktest

import (
	"sync"
	"sync/atomic"
	"time"

	"chromogenic/disk"
)

// Faults say what goes wrong and when. The zero value changes nothing. Nth and
// Range together must both hold.
type Faults struct {
	Nth   int64       // only this read, counted from 1; 0 is every read
	Range disk.Extent // only reads that touch this range; of Len 0 it is everywhere

	Delay   time.Duration // the read waits first
	Hang    bool          // the read waits until Close
	Err     error         // the read fails with this
	Short   int           // the read ends so many bytes too early, with Err or, without one, nil
	Flipped bool          // the bytes are all wrong, and nothing tells
}

// A FaultyImage is an image with faults. It counts what is read.
type FaultyImage struct {
	disk.Image
	faults Faults
	once   sync.Once
	done   chan struct{}
	reads  atomic.Int64
	bytes  atomic.Int64
}

// Faulty returns img with faults; Faulty(img, Faults{}) counts reads only.
func Faulty(img disk.Image, f Faults) *FaultyImage {
	return &FaultyImage{Image: img, faults: f, done: make(chan struct{})}
}

// Reads is the number of calls of ReadAt so far.
func (f *FaultyImage) Reads() int64 { return f.reads.Load() }

// Bytes is the number of bytes that were asked for so far.
func (f *FaultyImage) Bytes() int64 { return f.bytes.Load() }

// Close ends what hangs, and closes the image.
func (f *FaultyImage) Close() error {
	f.once.Do(func() { close(f.done) })
	return f.Image.Close()
}

// ReadAt reads the image, or not.
func (f *FaultyImage) ReadAt(p []byte, off int64) (int, error) {
	nth := f.reads.Add(1)
	f.bytes.Add(int64(len(p)))
	o := f.faults
	if o.Nth != 0 && o.Nth != nth {
		return f.Image.ReadAt(p, off)
	}
	if o.Range.Len > 0 && (off >= o.Range.End() || off+int64(len(p)) <= o.Range.Off) {
		return f.Image.ReadAt(p, off)
	}
	switch {
	case o.Hang:
		<-f.done
		return 0, disk.ErrClosed
	case o.Delay > 0:
		select {
		case <-time.After(o.Delay):
		case <-f.done:
			return 0, disk.ErrClosed
		}
	}
	if o.Short > 0 {
		n, err := f.Image.ReadAt(p[:max(0, len(p)-o.Short)], off)
		if err == nil {
			err = o.Err
		}
		return n, err
	}
	if o.Err != nil {
		return 0, o.Err
	}
	n, err := f.Image.ReadAt(p, off)
	if o.Flipped {
		for i := range p[:n] {
			p[i] ^= 0xff
		}
	}
	return n, err
}
