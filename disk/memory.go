package disk

import "sync/atomic"

// Bytes returns an image of p, all of it data. P must not change afterwards.
func Bytes(p []byte) Image { return &memory{p: p} }

type memory struct {
	p      []byte
	closed atomic.Bool
}

func (m *memory) Size() int64 { return int64(len(m.p)) }

func (m *memory) Close() error {
	m.closed.Store(true)
	return nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if m.closed.Load() {
		return 0, ErrClosed
	}
	q, err := ClipRead(p, off, m.Size())
	if len(q) == 0 {
		return 0, err
	}
	return copy(q, m.p[off:]), err
}

func (m *memory) Extent(off, n int64) (Extent, error) {
	n, err := CheckRange(off, n, m.Size())
	return Extent{Off: off, Len: n}, err
}
