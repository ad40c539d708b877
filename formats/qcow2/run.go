package qcow2

import "encoding/binary"

// A kind says where the bytes of a run come from.
type kind byte

const (
	absent kind = iota // from the backing image; zeros without one
	zeroed             // zeros, whatever the backing image holds
	plain              // the file, as they are
	packed             // a compressed cluster
	mixed              // of a whole L2 table: several of these
)

// A run is a part of the disk whose bytes come from one place.
type run struct {
	kind  kind
	n     int64   // bytes
	host  int64   // plain: where they are in the file
	entry l2Entry // packed: of the cluster
}

// run finds the run at off, which is within the disk, clipped to n. It looks no
// further than one slice of an L2 table, or than the empty L1 entries that
// follow each other. With oneRead a run can be had by one read: its clusters are
// neighbours in the file, or it is a part of one compressed cluster. Without it,
// packed clusters count as plain, only the kind matters, and an L2 table that is
// of one kind is not read.
func (d *image) run(off, n int64, oneRead bool) (run, error) {
	cluster := off >> d.clusterBits
	i := cluster >> d.l2Bits
	if d.l1[i].table() == 0 {
		end := off + n
		for i++; i < int64(len(d.l1)) && d.l1[i].table() == 0 && i<<(d.l2Bits+d.clusterBits) < end; i++ {
		}
		return run{n: min(end, i<<(d.l2Bits+d.clusterBits)) - off}, nil
	}
	if !oneRead && d.whole[i] != mixed {
		return run{kind: d.whole[i], n: min(n, (i+1)<<(d.l2Bits+d.clusterBits)-off)}, nil
	}
	entries, err := d.slice(d.l1[i].table(), cluster&(1<<d.l2Bits-1))
	if err != nil {
		return run{}, err
	}
	var r run
	for r.n < n && len(entries) > 0 {
		in := (off + r.n) & (d.clusterSize() - 1)
		p := d.piece(entries, in)
		if !oneRead && p.kind == packed {
			p.kind = plain
		}
		switch {
		case r.n == 0:
			r = p
		case p.kind != r.kind, oneRead && p.kind == packed, oneRead && p.kind == plain && p.host != r.host+r.n:
			return r, nil
		default:
			r.n += p.n
		}
		if in+p.n == d.clusterSize() {
			entries = entries[d.entrySize():]
		}
	}
	r.n = min(r.n, n)
	return r, nil
}

// slice returns the rest of the slice of an L2 table that begins with the given
// entry. A table is kept in slices of 64 KiB at most, as its own size is up to
// 2 MiB.
func (d *image) slice(table, entry int64) ([]byte, error) {
	size := min(d.clusterSize(), sliceLimit)
	in := entry * d.entrySize()
	off := table + in&^(size-1)
	p, err := d.slices.get(off, func() ([]byte, error) {
		p := make([]byte, size)
		return p, d.readHost(p, off)
	})
	if err != nil {
		return nil, err
	}
	return p[in&(size-1):], nil
}

// piece is the run at the offset in of the cluster whose entry begins p; it ends
// with the cluster at the latest.
func (d *image) piece(p []byte, in int64) run {
	e := l2Entry(binary.BigEndian.Uint64(p))
	r := run{entry: e, n: d.clusterSize() - in}
	switch {
	case e.compressed():
		r.kind = packed
	case d.extended:
		s := subclusters(binary.BigEndian.Uint64(p[8:]))
		first := in >> d.subclusterBits
		r.kind = s.kind(first)
		last := first + 1
		for last < subclustersPerCluster && s.kind(last) == r.kind {
			last++
		}
		r.n = last<<d.subclusterBits - in
	case e.zero():
		r.kind = zeroed
	case e.host() != 0:
		r.kind = plain
	}
	if r.kind == plain {
		r.host = e.host() + in
	}
	return r
}

// kind is where the bytes of subcluster i come from.
func (s subclusters) kind(i int64) kind {
	switch {
	case s.allocated(i):
		return plain
	case s.zero(i):
		return zeroed
	}
	return absent
}
