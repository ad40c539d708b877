package qcow2

import (
	"container/list"
	"sync"
)

// An lru keeps the results of loads that were used last, at most max of them.
// Of several that want the same key one loads and the others wait for it. It is
// safe for concurrent use.
type lru struct {
	max int

	mu    sync.Mutex
	byKey map[int64]*list.Element // of *loaded
	order *list.List              // the one used last is in front
}

// loaded is a result, there once ready is closed.
type loaded struct {
	key   int64
	ready chan struct{}
	data  []byte
	err   error
}

// newLRU makes room for as many items of size bytes as fit in budget bytes, for
// a few at least.
func newLRU(budget, size int64) *lru {
	return &lru{max: int(max(budget/size, 4)), byKey: map[int64]*list.Element{}, order: list.New()}
}

// get returns what load returned for key, now or earlier. The bytes are shared
// and must not be changed. An error is not kept.
func (c *lru) get(key int64, load func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	if e, ok := c.byKey[key]; ok {
		c.order.MoveToFront(e)
		c.mu.Unlock()
		l := e.Value.(*loaded)
		<-l.ready
		return l.data, l.err
	}
	l := &loaded{key: key, ready: make(chan struct{})}
	e := c.order.PushFront(l)
	c.byKey[key] = e
	if c.order.Len() > c.max {
		c.remove(c.order.Back())
	}
	c.mu.Unlock()

	l.data, l.err = load()
	close(l.ready)
	if l.err != nil {
		c.mu.Lock()
		c.remove(e)
		c.mu.Unlock()
	}
	return l.data, l.err
}

// remove forgets e, which another may have done already.
func (c *lru) remove(e *list.Element) {
	if l := e.Value.(*loaded); c.byKey[l.key] == e {
		delete(c.byKey, l.key)
		c.order.Remove(e)
	}
}
