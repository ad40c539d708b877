package vmdk

import (
	"encoding/binary"
	"fmt"
	"slices"

	"chromogenic/disk"
)

// loadChunk is how many bytes of tables are read at a time.
const loadChunk = 1 << 20

// load reads the directory and walks every table, so that a file that is cut
// off, or whose tables lie on top of something else, is refused before any of
// its content is shown. It keeps the directory alone.
func (s *sparse) load(g geometry, textLen int) error {
	if err := s.readDirectory(g); err != nil {
		return err
	}
	m, err := s.mapTables(g, textLen)
	if err != nil {
		return err
	}
	w := walk{s: s, meta: m, fileSize: s.img.Size()}
	if err := w.tables(); err != nil {
		return err
	}
	if s.compressed && w.last != 0 {
		// The grain that begins last is the only one that can be cut off.
		if _, _, err := s.compressedData(w.lastGrain, int64(w.last)); err != nil {
			return fmt.Errorf("open vmdk: %w", err)
		}
	}
	return nil
}

// readDirectory reads the grain directory.
func (s *sparse) readDirectory(g geometry) error {
	// Tables behind the descriptor's end of the disk are not looked at.
	n := (s.size + s.tableSpan - 1) / s.tableSpan
	if n > maxTables {
		return disk.Errorf(disk.Malformed, "open vmdk: a directory of %d grain tables", n)
	}
	if g.gdEntries != 0 && g.gdEntries < uint64(n) {
		return disk.Errorf(disk.Malformed, "open vmdk: a directory of %d entries for %d grain tables", g.gdEntries, n)
	}
	if g.gdSector == 0 {
		return disk.Errorf(disk.Malformed, "open vmdk: no grain directory")
	}
	size := s.img.Size()
	if g.gdSector > uint64(size)/sector || int64(g.gdSector)*sector+4*n > size {
		return errHintTruncated(disk.Errorf(disk.Malformed, "open vmdk: truncated: grain directory of %d entries at sector %d in a file of %d bytes", n, g.gdSector, size))
	}
	s.directory = make([]uint32, n)
	p := make([]byte, min(4*n, loadChunk))
	for i := int64(0); i < n; {
		p = p[:min(int64(len(p)), 4*(n-i))]
		if err := disk.ReadFull(s.img, p, int64(g.gdSector)*sector+4*i); err != nil {
			return fmt.Errorf("read grain directory: %w", err)
		}
		for q := p; len(q) > 0; q = q[4:] {
			v := binary.LittleEndian.Uint32(q)
			if v == 1 && s.zeroGrain { // libvmdk: a table of zeros, as for grains
				v = 0
			}
			s.directory[i] = v
			i++
		}
	}
	return nil
}

// metadata is where in the file no grain may lie, in sectors.
type metadata struct {
	fixed        []span   // header, descriptor, directory, footer
	tables       []uint32 // where grain tables begin, ascending
	tableSectors int64
	last         uint32 // the table that may be shorter
	lastSectors  int64
}

type span struct {
	what     string
	from, to int64 // sectors
}

// mapTables collects what is not grains, and refuses tables that are not in the
// file or not alone where they are.
func (s *sparse) mapTables(g geometry, textLen int) (*metadata, error) {
	gd := int64(g.gdSector)
	fileSize := s.img.Size()
	m := &metadata{
		fixed: []span{
			{"the header", 0, g.headerSectors},
			{"the grain directory", gd, gd + sectors(4*int64(len(s.directory)))},
		},
		tableSectors: sectors(4 * s.entries),
	}
	if textLen > 0 {
		m.fixed = append(m.fixed, span{"the descriptor", int64(g.descriptor), int64(g.descriptor) + sectors(int64(textLen))})
	}
	if g.footer {
		m.fixed = append(m.fixed, span{"the footer", (fileSize - footerSize) / sector, fileSize / sector})
	}
	for i, a := range m.fixed {
		for _, b := range m.fixed[:i] {
			if a.from < b.to && b.from < a.to {
				return nil, disk.Errorf(disk.Malformed, "open vmdk: %s overlaps %s", a.what, b.what)
			}
		}
	}
	for t, at := range s.directory {
		if at == 0 {
			continue
		}
		n := s.tableLen(int64(t))
		if int64(at)*sector+n > fileSize {
			return nil, errTruncated(fmt.Sprintf("grain table %d", t), int64(at)*sector, n, fileSize)
		}
		m.tables = append(m.tables, at)
		if t == len(s.directory)-1 {
			m.last, m.lastSectors = at, sectors(n)
		}
	}
	slices.Sort(m.tables)
	for i, at := range m.tables {
		if i > 0 && int64(at) < m.end(m.tables[i-1]) {
			return nil, disk.Errorf(disk.Malformed, "open vmdk: grain tables at sectors %d and %d overlap", m.tables[i-1], at)
		}
		for _, f := range m.fixed {
			if int64(at) < f.to && f.from < m.end(at) {
				return nil, disk.Errorf(disk.Malformed, "open vmdk: grain table at sector %d overlaps %s", at, f.what)
			}
		}
	}
	return m, nil
}

// sectors is how many sectors n bytes take.
func sectors(n int64) int64 { return (n + sector - 1) / sector }

// end is the sector behind the table that begins at sector at.
func (m *metadata) end(at uint32) int64 {
	if at == m.last {
		return int64(at) + m.lastSectors
	}
	return int64(at) + m.tableSectors
}

// gap is the space without metadata around a sector; it is empty where the
// sector is metadata itself.
func (m *metadata) gap(at int64) span {
	g := span{to: 1 << 62}
	i, _ := slices.BinarySearchFunc(m.tables, at, func(t uint32, at int64) int {
		if int64(t) <= at {
			return -1
		}
		return 1
	})
	if i > 0 {
		g.from = m.end(m.tables[i-1])
	}
	if i < len(m.tables) {
		g.to = int64(m.tables[i])
	}
	for _, f := range m.fixed {
		if f.from <= at {
			g.from = max(g.from, f.to)
		} else {
			g.to = min(g.to, f.from)
		}
	}
	return g
}

// walk is one pass over all tables.
type walk struct {
	s        *sparse
	meta     *metadata
	fileSize int64
	free     span // the gap in which the last grain was found

	last      uint32 // the highest sector of a grain
	lastGrain int64
}

// tables checks every table, reading neighbours together and holes not at all.
// It forgets the tables that have no grain.
func (w *walk) tables() error {
	s := w.s
	one := w.meta.tableSectors * sector
	buf := make([]byte, 0, max(one, min(loadChunk, one*int64(len(w.meta.tables)))))
	for t := int64(0); t < int64(len(s.directory)); {
		if s.directory[t] == 0 {
			t++
			continue
		}
		from, until := s.directory[t], t+1
		for until < int64(len(s.directory)) && (until-t+1)*one <= int64(cap(buf)) &&
			int64(s.directory[until]) == int64(from)+(until-t)*w.meta.tableSectors {
			until++
		}
		off := int64(from) * sector
		n := (until-t-1)*one + s.tableLen(until-1)
		hole, err := s.img.Extent(off, n)
		if err != nil {
			return fmt.Errorf("find extent of grain table %d: %w", t, err)
		}
		if hole.Zero && hole.Len >= n {
			clear(s.directory[t:until])
			t = until
			continue
		}
		buf = buf[:n]
		if err := disk.ReadFull(s.img, buf, off); err != nil {
			return fmt.Errorf("read grain table %d: %w", t, err)
		}
		for rest := buf; t < until; t++ {
			used, err := w.table(t, rest[:s.tableLen(t)])
			if err != nil {
				return err
			}
			if !used {
				s.directory[t] = 0
			}
			rest = rest[min(one, int64(len(rest))):]
		}
	}
	return nil
}

// table checks the entries of one table, and tells whether it has a grain.
func (w *walk) table(t int64, p []byte) (used bool, err error) {
	s := w.s
	for i := range int64(len(p)) / 4 {
		at := s.entry(p, i)
		if at == 0 {
			continue
		}
		used = true
		grain := t*s.entries + i
		need := s.need(grain)
		s.allocated += need
		if s.compressed {
			need = 1 // no more is known without reading it
		}
		from, to := int64(at), int64(at)+sectors(need)
		if from*sector+need > w.fileSize {
			return false, errTruncated(fmt.Sprintf("grain of disk offset %d", grain*s.grainSize), from*sector, need, w.fileSize)
		}
		if from < w.free.from || to > w.free.to {
			if w.free = w.meta.gap(from); from < w.free.from || to > w.free.to {
				return false, disk.Errorf(disk.Malformed, "open vmdk: grain of disk offset %d at sector %d overlaps tables", grain*s.grainSize, at)
			}
		}
		if at > w.last {
			w.last, w.lastGrain = at, grain
		}
	}
	return used, nil
}
