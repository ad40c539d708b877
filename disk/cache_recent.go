package disk

import (
	"container/list"
	"sync"
)

// recentBlocks keep the blocks that were used last, up to a number of bytes,
// and hand on those that fall out. One that is larger than all falls out at
// once.
type recentBlocks struct {
	budget int64
	fell   func(blockKey, []byte)

	mu    sync.Mutex
	size  int64
	order *list.List // of recentBlock, the last used in front
	at    map[blockKey]*list.Element
}

type recentBlock struct {
	key blockKey
	p   []byte
}

func newRecentBlocks(budget int64, fell func(blockKey, []byte)) *recentBlocks {
	return &recentBlocks{budget: budget, fell: fell, order: list.New(), at: map[blockKey]*list.Element{}}
}

func (r *recentBlocks) get(k blockKey) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	el, ok := r.at[k]
	if !ok {
		return nil, false
	}
	r.order.MoveToFront(el)
	return el.Value.(recentBlock).p, true
}

func (r *recentBlocks) add(k blockKey, p []byte) {
	for _, b := range r.insert(k, p) {
		r.fell(b.key, b.p)
	}
}

// insert adds a block and returns those that fall out for it.
func (r *recentBlocks) insert(k blockKey, p []byte) (out []recentBlock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.at[k]; ok {
		return nil
	}
	r.at[k] = r.order.PushFront(recentBlock{k, p})
	r.size += int64(len(p))
	for r.size > r.budget {
		out = append(out, r.remove(r.order.Back()))
	}
	return out
}

func (r *recentBlocks) remove(el *list.Element) recentBlock {
	b := r.order.Remove(el).(recentBlock)
	delete(r.at, b.key)
	r.size -= int64(len(b.p))
	return b
}

// forget drops the blocks of one content.
func (r *recentBlocks) forget(image string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, el := range r.at {
		if k.image == image {
			r.remove(el)
		}
	}
}

func (r *recentBlocks) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order.Init()
	clear(r.at)
	r.size = 0
}
