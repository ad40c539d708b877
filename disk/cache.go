package disk

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
)

// CacheOptions size a cache. A value of 0 is the default in brackets.
type CacheOptions struct {
	Budget    int64 // bytes of blocks that are kept (64 MiB)
	BlockSize int64 // bytes that are fetched at once (1 MiB)
	ReadAhead int64 // bytes fetched ahead of a sequential reader (4 MiB); negative for none, at most a quarter of Budget
	Parallel  int   // blocks of one image that are read ahead at the same time (4)
}

// A Cache keeps blocks of many images within one budget and fetches a block
// once, however many readers wait for it (but see Stream).
//
// It is bounded by design: Budget, and a block for each ReadAt that waits for
// its fetch, and at most Parallel blocks for each image that is read ahead.
// The Go heap may be larger than what lives in it, as GOGC says.
//
// Half of the budget keeps the blocks that were used last, which is what
// sequential readers and the read-ahead need. Those that fall out of it compete
// by how often they are used for the other half, so that a stream through a
// large image does not drive out the tables that all readers need.
type Cache struct {
	o       CacheOptions
	recent  *recentBlocks
	often   *otter.Cache[blockKey, []byte]
	flights singleflight.Group
	closed  atomic.Bool
	done    chan struct{}
}

// A blockKey names a block by the content it is of and its number.
type blockKey struct {
	image string
	block int64
}

// NewCache makes an empty cache.
func NewCache(o CacheOptions) *Cache {
	o.Budget = orDefault(o.Budget, 64<<20)
	o.BlockSize = orDefault(o.BlockSize, 1<<20)
	o.ReadAhead = max(0, min(orDefault(o.ReadAhead, 4<<20), o.Budget/4))
	o.Parallel = orDefault(o.Parallel, 4)
	c := &Cache{
		o:    o,
		done: make(chan struct{}),
		often: otter.Must(&otter.Options[blockKey, []byte]{
			MaximumWeight: uint64(o.Budget / 2),
			Weigher:       func(_ blockKey, p []byte) uint32 { return uint32(len(p)) },
			// Evicting where a block is added keeps the bound at every moment.
			Executor: func(fn func()) { fn() },
		}),
	}
	c.recent = newRecentBlocks(o.Budget-o.Budget/2, func(k blockKey, p []byte) { c.often.Set(k, p) })
	return c
}

func orDefault[T int | int64](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// Close drops all blocks and makes all reads through the cache fail with
// ErrClosed. The images stay open, to be closed one by one.
func (c *Cache) Close() error {
	if !c.closed.Swap(true) {
		close(c.done)
		c.drop()
	}
	return nil
}

func (c *Cache) drop() {
	c.recent.clear()
	c.often.InvalidateAll()
}

// forget drops the blocks of one content.
func (c *Cache) forget(image string) {
	c.recent.forget(image)
	for k := range c.often.Keys() {
		if k.image == image {
			c.often.Invalidate(k)
		}
	}
}

// Image returns img with its reads cached. The key identifies the immutable
// content: images of one key share their blocks, also after one of them is
// closed. Holes are not fetched, errors are not kept. Close closes img; a fetch
// that a reader has given up by that still serves the others.
func (c *Cache) Image(key string, img Image) Image { return c.image(key, img) }

func (c *Cache) image(key string, img Image) *cachedImage {
	return &cachedImage{
		Image: img, c: c, key: key,
		done:  make(chan struct{}),
		ahead: newReadAhead(c.o),
	}
}

// get is the block if it is there.
func (c *Cache) get(k blockKey) ([]byte, bool) {
	if p, ok := c.recent.get(k); ok {
		return p, true
	}
	p, ok := c.often.GetIfPresent(k)
	return p, ok
}

// A fetchError tells through which image a flight has failed.
type fetchError struct {
	by *cachedImage
	error
}

func (e fetchError) Unwrap() error { return e.error }

// fetch reads a block through img, in one flight with all who ask for it now.
func (c *Cache) fetch(k blockKey, img *cachedImage) <-chan singleflight.Result {
	return c.flights.DoChan(fmt.Sprint(k.block, " ", k.image), func() (any, error) {
		if p, ok := c.get(k); ok { // another flight has just landed
			return p, nil
		}
		p, err := readBlock(img.Image, k.block*c.o.BlockSize, c.o.BlockSize)
		if err != nil {
			if KindOf(err) == Malformed { // and so may be what was fetched before, and looked right
				c.forget(k.image)
			}
			return nil, fetchError{img, err}
		}
		c.recent.add(k, p)
		if c.closed.Load() {
			c.drop()
		}
		return p, nil
	})
}

// readBlock reads the block at off, without its holes.
func readBlock(img Image, off, size int64) ([]byte, error) {
	p := make([]byte, min(size, img.Size()-off))
	for at := int64(0); at < int64(len(p)); {
		e, err := img.Extent(off+at, int64(len(p))-at)
		if err != nil {
			return nil, fmt.Errorf("find extent at offset %d: %w", off+at, err)
		}
		if !e.Zero {
			if err := ReadFull(img, p[at:at+e.Len], e.Off); err != nil {
				return nil, err
			}
		}
		at += e.Len
	}
	return p, nil
}

// A cachedImage is an image seen through a cache.
type cachedImage struct {
	Image
	c      *Cache
	key    string
	once   sync.Once
	err    error // of the Close
	done   chan struct{}
	closed atomic.Bool
	ahead  *readAhead
	runs   *runs // nil for one that does not stream
}

var (
	_ Allocator = (*cachedImage)(nil)
	_ Verifier  = (*cachedImage)(nil)
)

// Allocated is that of the image; where it cannot tell, its size.
func (m *cachedImage) Allocated() int64 {
	n, err := Allocated(m.Image)
	if err != nil {
		return m.Size()
	}
	return n
}

// Verify is that of the image; it reads past the cache.
func (m *cachedImage) Verify(ctx context.Context) error { return Verify(ctx, m.Image) }

func (m *cachedImage) Close() error {
	m.once.Do(func() {
		m.closed.Store(true)
		close(m.done)
		m.err = m.Image.Close()
	})
	return m.err
}

func (m *cachedImage) isClosed() bool { return m.closed.Load() || m.c.closed.Load() }
