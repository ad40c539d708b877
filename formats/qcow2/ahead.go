package qcow2

import (
	"sync"

	"chromogenic/disk"
)

// tablesAhead is how many L2 tables are read at the same time while all are walked: in
// a cloud each of them takes a round trip.
const tablesAhead = 8

// A tablePart is the beginning of an L2 table, or why it cannot be read. It holds until
// the next one is asked for.
type tablePart struct {
	p   []byte
	err error
}

// tablesReader reads the beginnings of all L2 tables, in their order.
type tablesReader struct {
	parts chan chan tablePart // in order
	free  chan []byte
	last  []byte // lent to the caller
	ended chan struct{}
	work  sync.WaitGroup
}

// readTables begins to read; whoever calls it stops it.
func (d *image) readTables() *tablesReader {
	r := &tablesReader{
		parts: make(chan chan tablePart, tablesAhead), free: make(chan []byte, tablesAhead), ended: make(chan struct{}),
	}
	for range tablesAhead {
		r.free <- nil // made when they are needed: most images have few tables
	}
	r.work.Go(func() {
		for i, e := range d.l1 {
			if e.table() != 0 && !r.begin(d, i) {
				return
			}
		}
	})
	return r
}

// begin reads the beginning of table i when there is a buffer for it.
func (r *tablesReader) begin(d *image, i int) bool {
	var buf []byte
	select {
	case buf = <-r.free:
	case <-r.ended:
		return false
	}
	if buf == nil {
		buf = make([]byte, min(d.clusterSize(), 4*sliceLimit))
	}
	part := make(chan tablePart, 1)
	r.parts <- part // there is room, for there was a buffer
	r.work.Go(func() {
		p := buf[:min(int64(len(buf)), d.tableSize(i))]
		part <- tablePart{p, disk.ReadFull(d.src, p, d.l1[i].table())}
	})
	return true
}

// next is the next table's.
func (r *tablesReader) next() tablePart {
	if r.last != nil {
		r.free <- r.last
	}
	part := <-<-r.parts
	r.last = part.p[:cap(part.p)]
	return part
}

// stop ends the reading, and returns when the file is not read any longer.
func (r *tablesReader) stop() {
	close(r.ended)
	r.work.Wait()
}
