package vmdk

import (
	"container/list"
	"sync"
)

// A key names what is cached: a table or an inflated grain, by its number. (Not
// by where it lies: then a grain that is mapped twice would be checked once.)
type key int64

func tableKey(t int64) key     { return key(^t) }
func grainKey(grain int64) key { return key(grain) }

// entryCost is what an entry takes besides its bytes: the struct, the channel, the
// element of the list and the slot of the map, in bytes. The smallest table has 4.
const entryCost = 256

// cache keeps what was read last, and reads what several ask for at a time only
// once. It holds budget bytes, or one entry if that is larger.
type cache struct {
	mu      sync.Mutex
	budget  int
	used    int
	entries map[key]*cached
	recent  list.List // of *cached that are there, the latest first
}

type cached struct {
	key   key
	ready chan struct{} // closed when data or err is there
	data  []byte
	err   error
	elem  *list.Element // nil until it is there
}

func (e *cached) cost() int { return len(e.data) + entryCost }

func newCache(budget int) *cache {
	return &cache{budget: budget, entries: map[key]*cached{}}
}

// get returns what k names, by load if need be. The bytes must not be
// changed. An error goes to all who wait for it and is not kept.
func (c *cache) get(k key, load func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	if e, ok := c.entries[k]; ok {
		if e.elem != nil {
			c.recent.MoveToFront(e.elem)
		}
		c.mu.Unlock()
		<-e.ready
		return e.data, e.err
	}
	e := &cached{key: k, ready: make(chan struct{})}
	c.entries[k] = e
	c.mu.Unlock()

	e.data, e.err = load()

	c.mu.Lock()
	if e.err != nil {
		delete(c.entries, k)
	} else {
		e.elem = c.recent.PushFront(e)
		c.used += e.cost()
		c.evict()
	}
	c.mu.Unlock()
	close(e.ready)
	return e.data, e.err
}

// evict drops the oldest entries until the budget holds.
func (c *cache) evict() {
	for c.used > c.budget && c.recent.Len() > 1 {
		e := c.recent.Remove(c.recent.Back()).(*cached)
		delete(c.entries, e.key)
		c.used -= e.cost()
	}
}
