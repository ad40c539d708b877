package disk

import "iter"

// Changes are the runs of bytes that the overlay has in place of the base's, in
// order: what was written, and, as Zero, what was discarded. Whatever is written
// meanwhile may be among them, or not.
func (o *Overlay) Changes() iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		for page := int64(0); page < o.table.pages; {
			o.mu.RLock()
			kind, end := o.table.run(page)
			o.mu.RUnlock()
			from, to := o.start(page), o.start(end)
			page = end
			if kind != kindBase && from < to && !yield(Extent{Off: from, Len: to - from, Zero: kind == kindZero}) {
				return
			}
		}
	}
}
