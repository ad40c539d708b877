package pipeline

import (
	"cmp"
	"slices"
)

// ranges is a set of bytes: runs [from, to) that ascend and do not touch.
type ranges []run

type run struct{ from, to int64 }

// add puts [from, to) into the set.
func (r *ranges) add(from, to int64) {
	if from >= to {
		return
	}
	// i is the first run that ends at or behind from, j the first that begins
	// behind to: those between are swallowed.
	i, _ := slices.BinarySearchFunc(*r, from, func(x run, v int64) int { return cmp.Compare(x.to, v) })
	j := i
	for j < len(*r) && (*r)[j].from <= to {
		from, to = min(from, (*r)[j].from), max(to, (*r)[j].to)
		j++
	}
	*r = slices.Replace(*r, i, j, run{from, to})
}

// remove takes [from, to) out of the set.
func (r *ranges) remove(from, to int64) {
	if from >= to {
		return
	}
	i, _ := slices.BinarySearchFunc(*r, from+1, func(x run, v int64) int { return cmp.Compare(x.to, v) })
	j := i
	var left []run
	for ; j < len(*r) && (*r)[j].from < to; j++ {
		x := (*r)[j]
		if x.from < from {
			left = append(left, run{x.from, from})
		}
		if x.to > to {
			left = append(left, run{to, x.to})
		}
	}
	*r = slices.Replace(*r, i, j, left...)
}

// at tells whether off is in the set, and how far from off that stays so, up to
// limit.
func (r ranges) at(off, limit int64) (in bool, end int64) {
	i, _ := slices.BinarySearchFunc(r, off+1, func(x run, v int64) int { return cmp.Compare(x.to, v) })
	switch {
	case i == len(r) || r[i].from >= limit:
		return false, limit
	case r[i].from > off:
		return false, r[i].from
	}
	return true, min(r[i].to, limit)
}
