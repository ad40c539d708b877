package disk

// A pageState tells where the bytes of an overlay's page are: in the base,
// nowhere because they were discarded, or in a slot of the page store.
type pageState uint32

const (
	pageBase  pageState = 0
	pageZero  pageState = 1
	firstSlot pageState = 2 // slot s of the store is pageState(s) + firstSlot
)

// A pageKind is a pageState without the number of the slot.
type pageKind int

const (
	kindBase pageKind = iota
	kindZero
	kindStored
)

func (s pageState) kind() pageKind { return pageKind(min(s, firstSlot)) }

func (s pageState) slot() uint32 { return uint32(s - firstSlot) }

// A pageTable maps page numbers to states. It is a radix tree, as a page table
// of a processor is, in which whatever lies wholly in the base is a nil pointer
// and whatever is wholly discarded is one flagged node: a disk of any size
// costs nothing until it is written, and a discard of all of it one flag.
type pageTable struct {
	root   *pageNode
	height int   // levels of the tree; a leaf alone is 1
	pages  int64 // of the disk
}

// fanout is the number of entries of a node. A leaf of 1024 pages spans 4 MiB
// and takes 4 KiB.
const (
	fanoutBits = 10
	fanout     = 1 << fanoutBits
)

// A pageNode is a leaf, an inner node or, when flagged, a whole discarded span.
// A flagged node may be shared and is never changed.
type pageNode struct {
	zero  bool
	pages []pageState // of a leaf
	nodes []*pageNode // of an inner node
}

func newPageTable(pages int64) pageTable {
	t := pageTable{height: 1, pages: pages}
	for t.height < 6 && pages > span(t.height) {
		t.height++
	}
	return t
}

// span is the number of pages under a node of the given height. Six levels
// span 2^60 pages, which is more than an int64 of bytes.
func span(height int) int64 { return 1 << (fanoutBits * height) }

// get is the state of a page.
func (t *pageTable) get(page int64) pageState {
	n := t.root
	for h := t.height; n != nil && !n.zero; h-- {
		if h == 1 {
			return n.pages[page]
		}
		child := span(h - 1)
		n, page = n.nodes[page/child], page%child
	}
	if n != nil {
		return pageZero
	}
	return pageBase
}

// run is the kind of a page and the first page behind it that may be of
// another kind. It looks no further than to the end of the node that tells.
func (t *pageTable) run(page int64) (kind pageKind, end int64) {
	n, start := t.root, int64(0)
	for h := t.height; ; h-- {
		switch {
		case n == nil:
			return kindBase, min(start+span(h), t.pages)
		case n.zero:
			return kindZero, min(start+span(h), t.pages)
		case h == 1:
			kind = n.pages[page-start].kind()
			for end = page + 1; end < start+fanout && n.pages[end-start].kind() == kind; {
				end++
			}
			return kind, min(end, t.pages)
		}
		child := span(h - 1)
		i := (page - start) / child
		n, start = n.nodes[i], start+i*child
	}
}

// set changes the state of one page.
func (t *pageTable) set(page int64, s pageState) {
	at := &t.root
	for h := t.height; ; h-- {
		*at = (*at).opened(h)
		if h == 1 {
			(*at).pages[page] = s
			return
		}
		child := span(h - 1)
		at, page = &(*at).nodes[page/child], page%child
	}
}

// discard makes the pages [from, to) zero; free gets the slots they had.
func (t *pageTable) discard(from, to int64, free func(slot uint32)) {
	if to == t.pages {
		to = span(t.height) // what lies behind the end keeps no node open
	}
	t.root = t.root.discard(t.height, from, to, &pageNode{zero: true}, free)
}

// discard makes the pages [from, to) of n zero and returns what n is then.
func (n *pageNode) discard(height int, from, to int64, zero *pageNode, free func(slot uint32)) *pageNode {
	if n != nil && n.zero {
		return n
	}
	if from == 0 && to == span(height) {
		n.release(free)
		return zero
	}
	n = n.opened(height)
	if height == 1 {
		for i := from; i < to; i++ {
			if s := n.pages[i]; s >= firstSlot {
				free(s.slot())
			}
			n.pages[i] = pageZero
		}
		return n
	}
	child := span(height - 1)
	for i := from / child; i*child < to; i++ {
		lo, hi := max(from-i*child, 0), min(to-i*child, child)
		n.nodes[i] = n.nodes[i].discard(height-1, lo, hi, zero, free)
	}
	return n
}

// release gives all slots under n to free.
func (n *pageNode) release(free func(slot uint32)) {
	if n == nil {
		return
	}
	for _, s := range n.pages {
		if s >= firstSlot {
			free(s.slot())
		}
	}
	for _, c := range n.nodes {
		c.release(free)
	}
}

// opened returns n as a node with entries, made from what n says as a whole.
func (n *pageNode) opened(height int) *pageNode {
	switch {
	case n != nil && !n.zero:
		return n
	case height == 1:
		leaf := &pageNode{pages: make([]pageState, fanout)}
		if n != nil {
			for i := range leaf.pages {
				leaf.pages[i] = pageZero
			}
		}
		return leaf
	}
	inner := &pageNode{nodes: make([]*pageNode, fanout)}
	for i := range inner.nodes {
		inner.nodes[i] = n
	}
	return inner
}
