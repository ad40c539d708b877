package vmdk

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// TestRefused opens a crafted file for each refusal. Text is a part of the
// error, hint of the advice.
func TestRefused(t *testing.T) {
	line := func(lines ...string) []byte { return []byte(text("custom", lines...)) }
	head := func(f func(h *header)) []byte { return spec{edit: f}.build() }
	note := func(extra string) []byte {
		return spec{text: text("monolithicSparse", `RW 10240 SPARSE "x.vmdk"`) + extra + "\n"}.build()
	}
	cut := func(s spec, n int) []byte { p := s.build(); return p[:len(p)-n] }
	stream := spec{kind: marked, atEnd: true}
	files := map[string][]byte{
		"short": make([]byte, 1000), "text": line(`RW 1 FLAT "a" 0`), "sparse": spec{size: mib}.build(), "cut": cut(spec{size: mib}, 70000),
		"delta": spec{size: mib, text: text("x", `RW 2048 SPARSE "x"`) + "parentFileNameHint=\"base.vmdk\"\n"}.build(),
		"cowd9": append([]byte("COWD\x09"), make([]byte, 4000)...), "cowd": cowd(100, 0, func(int64) bool { return false })[:2100],
	}
	self := line(`RW 1 FLAT "self" 0`)
	self = append(self, make([]byte, 600)...)
	files["self"] = self

	for _, tc := range []struct {
		name string
		file []byte
		kind disk.Kind
		text string
		hint string
	}{
		{"nothing", nil, disk.Malformed, "neither", ""},
		{"something else", []byte("QFI\xfb, not a vmdk at all"), disk.Malformed, "neither", ""},
		{"seSparse", append([]byte(magicSE), make([]byte, 600)...), disk.Unsupported, "seSparse", "vmkfstools"},

		{"text-mode transfer", spec{patch: func(p []byte, _ places) []byte { copy(p[73:], "\r\n \r\n"); return p }}.build(), disk.Malformed, "damaged by a text-mode transfer", "binary mode"},
		{"version 0", head(func(h *header) { h.version = 0 }), disk.Unsupported, "version 0", ""},
		{"version 4", head(func(h *header) { h.version = 4 }), disk.Unsupported, "version 4", ""},
		{"unknown flags", head(func(h *header) { h.flags |= 1 << 20 }), disk.Unsupported, "unknown flags 0x100001", ""},
		{"unknown compression", head(func(h *header) { h.compression = 2 }), disk.Unsupported, "compression algorithm 2", ""},
		{"compression without its flag", head(func(h *header) { h.compression = 1 }), disk.Unsupported, "disagree", ""},
		{"markers without compression", head(func(h *header) { h.flags |= flagMarkers }), disk.Unsupported, "markers without compression", ""},

		{"capacity 2^63", head(func(h *header) { h.capacitySectors = 1 << 63 }), disk.Malformed, "capacity of 9223372036854775808", ""},
		{"capacity 65 TiB", head(func(h *header) { h.capacitySectors = 65 << 31 }), disk.Malformed, "capacity of", ""},
		{"directory larger than the file", spec{text: text("x", "RW 137438953472 SPARSE \"x\""), edit: func(h *header) { h.capacitySectors = maxVirtual / sector }}.build(), disk.Malformed, "truncated: grain directory of 2097152 entries", "cut off"},
		{"too many tables", spec{text: "CID=1", edit: func(h *header) { h.capacitySectors, h.tableEntries, h.grainSectors = maxVirtual/sector, 1, 8 }}.build(), disk.Malformed, "directory of 17179869184 grain tables", ""},
		{"grain size 0", head(func(h *header) { h.grainSectors = 0 }), disk.Malformed, "grain size of 0", ""},
		{"grain size 100", head(func(h *header) { h.grainSectors = 100 }), disk.Malformed, "grain size of 100", ""},
		{"grain size 2^63", head(func(h *header) { h.grainSectors = 1 << 63 }), disk.Malformed, "grain size of", ""},
		{"tables of 0 entries", head(func(h *header) { h.tableEntries = 0 }), disk.Malformed, "tables of 0 entries", ""},
		{"tables of 2^32-1 entries", head(func(h *header) { h.tableEntries = 1<<32 - 1 }), disk.Malformed, "tables of 4294967295 entries", ""},
		{"no directory", head(func(h *header) { h.gdSector = 0 }), disk.Malformed, "no grain directory", ""},
		{"directory far out", head(func(h *header) { h.gdSector = 1 << 60 }), disk.Malformed, "truncated: grain directory", ""},
		{"overhead far out", head(func(h *header) { h.overheadSectors = 1 << 60 }), disk.Malformed, "truncated: tables", ""},
		{"descriptor far out", head(func(h *header) { h.descriptorSector = 1 << 60 }), disk.Malformed, "truncated: descriptor", ""},
		{"descriptor says more", spec{text: text("x", `RW 10241 SPARSE "x"`)}.build(), disk.Malformed, "says 10241 sectors, the header 10240", ""},
		{"descriptor says a grain less", spec{text: text("x", `RW 10112 SPARSE "x"`)}.build(), disk.Malformed, "says 10112 sectors, the header 10240", ""},
		{"embedded descriptor of two", spec{text: text("x", `RW 5120 SPARSE "x"`, `RW 5120 SPARSE "y"`)}.build(), disk.Unsupported, "lists 2 extents", ""},
		{"embedded descriptor of a flat one", spec{text: text("x", `RW 10240 FLAT "x" 0`)}.build(), disk.Malformed, `says "FLAT"`, ""},
		{"embedded descriptor of noise", spec{text: strings.Repeat("\x8f\x01noise", 99)}.build(), disk.Malformed, "no createType", ""},
		{"descriptor without end", spec{textLen: 2100, text: strings.Repeat("# a\n", 2100*128)}.build(), disk.Malformed, "more than 1048576 bytes", ""},

		{"header cut", spec{}.build()[:300], disk.Malformed, "truncated: header", "cut off"},
		{"directory cut", spec{}.build()[:21*sector+1], disk.Malformed, "truncated", "cut off"},
		{"grain cut", cut(spec{data: func(g int64) bool { return g == 79 }}, 1), disk.Malformed, "truncated: grain of disk offset 5177344", "cut off"},
		{"table cut", cut(spec{size: 70 * mib, atEnd: true, data: func(g int64) bool { return g == 0 }, patch: func(p []byte, at places) []byte {
			p = append([]byte(nil), p...)
			binary.LittleEndian.PutUint32(p[at.directory*sector:], uint32(len(p)/sector-1))
			return p
		}}, 0), disk.Malformed, "truncated: grain table 0", "cut off"},
		{"stream without its last sector", cut(stream, sector), disk.Malformed, "truncated: no footer", "cut off"},
		{"stream cut in the grains", cut(stream, 70000), disk.Malformed, "truncated: no footer", "cut off"},
		{"stream cut in a sector", cut(stream, 5), disk.Malformed, "truncated: no footer", "cut off"},
		{"footer that defers", spec{kind: marked, atEnd: true, patch: func(p []byte, _ places) []byte {
			copy(p[len(p)-2*sector:len(p)-sector], p[:sector])
			return p
		}}.build(), disk.Malformed, "footer does not say", ""},
		{"footer of version 9", spec{kind: marked, atEnd: true, patch: func(p []byte, _ places) []byte { p[len(p)-2*sector+4] = 9; return p }}.build(), disk.Unsupported, "version 9", ""},
		{"compressed grain cut", cut(spec{kind: marked, size: 64 * kib}, 2*sector), disk.Malformed, "truncated: grain of disk offset 0", "cut off"},

		{"table is the descriptor", tableAt(0, func(places) int64 { return 1 }), disk.Malformed, "overlaps the descriptor", ""},
		{"table is the directory", tableAt(0, func(p places) int64 { return p.directory }), disk.Malformed, "overlaps the grain directory", ""},
		{"table shared", tableAt(1, func(p places) int64 { return p.tables[0] }), disk.Malformed, "overlap", ""},
		{"tables overlap", tableAt(1, func(p places) int64 { return p.tables[0] + 3 }), disk.Malformed, "overlap", ""},
		{"table behind the end", tableAt(1, func(places) int64 { return 1 << 31 }), disk.Malformed, "truncated: grain table 1", ""},
		{"directory is the header", head(func(h *header) { h.gdSector = 1 }), disk.Malformed, "the descriptor overlaps the grain directory", ""},
		{"grain is a table", grainAt(func(p places) int64 { return p.tables[0] }), disk.Malformed, "overlaps tables", ""},
		{"grain before a table", grainAt(func(p places) int64 { return p.tables[0] - 1 }), disk.Malformed, "overlaps tables", ""},
		{"grain is the header", grainAt(func(places) int64 { return 1 }), disk.Malformed, "overlaps tables", ""},
		{"grain behind the end", grainAt(func(places) int64 { return 1<<32 - 1 }), disk.Malformed, "truncated: grain", ""},
		{"stream's last marker is another's", spec{kind: marked, atEnd: true, size: 64 * kib, patch: func(p []byte, at places) []byte { p[at.grains[0]*sector] = 7; return p }}.build(), disk.Malformed, "marker says disk sector 7", ""},
		{"stream's last length", spec{kind: marked, size: 64 * kib, patch: func(p []byte, at places) []byte { return put32(at.grains[0]*sector+8, 1<<30)(p, at) }}.build(), disk.Malformed, "compressed length 1073741824", ""},

		{"extent alone", spec{text: "\x00"}.build(), disk.Unsupported, "without a descriptor", "beside it"},
		{"extent alone, no room for one", spec{textSector: -1}.build(), disk.Unsupported, "without a descriptor", "beside it"},
		{"ESX extent alone", cowd(100, 0, func(int64) bool { return true }), disk.Unsupported, "without its descriptor", "beside it"},

		{"parent", note("parentFileNameHint=\"/vms/base.vmdk\""), disk.Unsupported, "needs a backing disk", "consolidate"},
		{"parent's CID", spec{text: strings.Replace(text("x", `RW 10240 SPARSE "x"`), "parentCID=ffffffff", "parentCID=12345678", 1)}.build(), disk.Unsupported, "needs a backing disk", "consolidate"},
		{"parent of an extent", line(`RW 2048 SPARSE "delta"`), disk.Unsupported, "needs a backing disk", "consolidate"},
		{"encrypted", note(`encryptionKeys = "vmware:key/list/(pair/(null/abc,HMAC-SHA-1))"`), disk.Unsupported, "encrypted", "decrypt"},
		{"encrypted, key safe", []byte("# Disk DescriptorFile\nversion=2\nencryption.keySafe=\"vmware:key/list\"\nencryption.data=\"Zm9v\"\n"), disk.Unsupported, "encrypted", "decrypt"},
		{"encrypted by vSphere", note(`ddb.iofilters = "vmwarevmcrypt"`), disk.Unsupported, "encrypted", "decrypt"},

		{"no extents", line(), disk.Malformed, "lists no extents", ""},
		{"extent name is absolute", line(`RW 1 FLAT "/etc/shadow" 0`), disk.Unsupported, `"/etc/shadow" is not a plain file name`, "beside the descriptor"},
		{"extent name is a device", line(`RW 1 FLAT "\\.\PhysicalDrive0" 0`), disk.Unsupported, "is not a plain file name", ""},
		{"extent name leads up", line(`RW 1 FLAT "../short" 0`), disk.Unsupported, "is not a plain file name", ""},
		{"extent name is dots", line(`RW 1 FLAT ".." 0`), disk.Unsupported, "is not a plain file name", ""},
		{"extent in a folder", line(`RW 1 SPARSE "d/sparse"`), disk.Unsupported, "is not a plain file name", ""},
		{"extent without a name", line(`RW 1 FLAT`), disk.Unsupported, "is not a plain file name", ""},
		{"extent is the descriptor", self, disk.Malformed, `"self" is the descriptor itself`, ""},
		{"extent is another descriptor", line(`RW 1 SPARSE "text"`), disk.Malformed, "not a sparse extent", ""},
		{"extent missing", line(`RW 1 FLAT "gone" 0`), disk.Unsupported, `"gone"`, "beside the descriptor"},
		{"extent short", line(`RW 2 FLAT "short" 0`), disk.Malformed, `truncated: flat extent "short"`, "cut off"},
		{"extent short behind its offset", line(`RW 1 FLAT "short" 1`), disk.Malformed, "truncated", "cut off"},
		{"sparse extent cut", line(`RW 2048 SPARSE "cut"`), disk.Malformed, "truncated: grain", "cut off"},
		{"sparse extent of another size", line(`RW 4096 SPARSE "sparse"`), disk.Malformed, "says 4096 sectors, the header 2048", ""},
		{"sparse extent twice", line(`RW 2048 SPARSE "sparse"`, `RW 2048 SPARSE "sparse"`), disk.Malformed, "listed twice", ""},
		{"ESX extent of version 9", line(`RW 100 VMFSSPARSE "cowd9"`), disk.Unsupported, "version 9", ""},
		{"ESX extent cut", line(`RW 100 VMFSSPARSE "cowd"`), disk.Malformed, "truncated: grain table 0", "cut off"},
		{"seSparse extent", line(`RW 100 SESPARSE "x"`), disk.Unsupported, "seSparse", "vmkfstools"},
		{"raw device mapping", line(`RW 100 VMFSRDM "x"`), disk.Unsupported, `kind "VMFSRDM"`, ""},
		{"no access", line(`NOACCESS 100 FLAT "x" 0`), disk.Unsupported, "no access", ""},
		{"sectors of an extent", line(`RW 99999999999999999999 FLAT "x" 0`), disk.Malformed, "number of sectors", ""},
		{"negative sectors", line(`RW -1 ZERO`), disk.Malformed, "number of sectors", ""},
		{"offset of an extent", line(`RW 1 FLAT "x" -5`), disk.Malformed, "the offset", ""},
		{"quote", line(`RW 1 FLAT "x`), disk.Malformed, "a quote is not closed", ""},
		{"sum of extents", line(`RW 137438953472 ZERO`, `RW 1 ZERO`), disk.TooLarge, "in all", ""},
		{"many extents", line(strings.Repeat("RW 1 ZERO\n", maxExtents+1)), disk.Malformed, "more than 4096 extents", ""},
		{"endless descriptor", append(line("RW 1 ZERO"), make([]byte, 1<<20)...), disk.Malformed, "more than 1048576 bytes", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := Open(disk.Bytes(tc.file), memory(files))
			if err == nil {
				m.Close()
				t.Fatal("opened")
			}
			e := disk.AsError(err)
			if e.Kind != tc.kind || !strings.Contains(err.Error(), tc.text) || !strings.Contains(e.Hint, tc.hint) {
				t.Errorf("%v\nkind %v, hint %q", err, e.Kind, e.Hint)
			}
		})
	}
	_, err := Open(disk.Bytes(line(`RW 1 FLAT "short" 0`)), nil)
	if e := disk.AsError(err); e.Kind != disk.Unsupported || !strings.Contains(e.Hint, "beside its descriptor") {
		t.Errorf("no resolver: %v, hint %q", err, e.Hint)
	}
	denied := func(string) (disk.Image, error) { return nil, disk.Errorf(disk.Denied, "denied") }
	if _, err := Open(disk.Bytes(line(`RW 1 FLAT "short" 0`)), denied); disk.KindOf(err) != disk.Denied {
		t.Errorf("a denied extent: %v", err)
	}
}

// tableAt is a disk of two tables whose directory says that the t-th is at
// another sector.
func tableAt(t int64, at func(places) int64) []byte {
	return spec{size: 40 * mib, data: func(g int64) bool { return g%500 == 0 }, patch: func(p []byte, where places) []byte {
		return put32(where.directory*sector+4*t, uint32(at(where)))(p, where)
	}}.build()
}

// grainAt is a disk whose first grain is said to be at another sector.
func grainAt(at func(places) int64) []byte {
	return spec{patch: func(p []byte, where places) []byte {
		return put32(where.tables[0]*sector, uint32(at(where)))(p, where)
	}}.build()
}

// TestDamagedGrains reads streams of which one grain is damaged: the others read
// right, that one is an error, always.
func TestDamagedGrains(t *testing.T) {
	data := func(g int64) bool { return g < 4 }
	for name, tc := range map[string]struct {
		spec spec
		text string
	}{
		"marker of another":   {spec{patch: func(p []byte, at places) []byte { p[at.grains[1]*sector] ^= 1; return p }}, "marker says disk sector 129"},
		"length 0":            {spec{patch: func(p []byte, at places) []byte { return put32(at.grains[1]*sector+8, 0)(p, at) }}, "compressed length 0"},
		"length too large":    {spec{patch: func(p []byte, at places) []byte { return put32(at.grains[1]*sector+8, 1<<31)(p, at) }}, "compressed length"},
		"length too small":    {spec{patch: func(p []byte, at places) []byte { return put32(at.grains[1]*sector+8, 300)(p, at) }}, "cut off"},
		"no zlib header":      {spec{patch: func(p []byte, at places) []byte { p[at.grains[1]*sector+12] = 0; return p }}, "invalid header"},
		"a flipped bit":       {spec{patch: func(p []byte, at places) []byte { p[at.grains[1]*sector+600] ^= 4; return p }}, "inflate grain"},
		"inflates short":      {spec{patch: regrain(64*kib - 1)}, "65535 of 65536 bytes"},
		"inflates to nothing": {spec{patch: regrain(0)}, "0 of 65536 bytes"},
		"inflates long":       {spec{patch: regrain(64*kib + 1)}, "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := tc.spec
			s.kind, s.data, s.size = marked, data, 256*kib
			d := openDisk(t, disk.Bytes(s.build()), nil)
			p := make([]byte, 64*kib)
			for range 2 {
				if n, err := d.ReadAt(p, 64*kib); n != 0 || err == nil || disk.KindOf(err) != disk.Malformed || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("read %d, %v", n, err)
				}
				if n, err := d.ReadAt(make([]byte, 256*kib), 0); n != 64*kib || err == nil {
					t.Errorf("read %d of all, %v", n, err)
				}
			}
			for _, off := range []int64{0, 128 * kib, 192 * kib} {
				if _, err := d.ReadAt(p, off); err != nil {
					t.Errorf("grain at %d: %v", off, err)
				}
			}
		})
	}
}

// regrain returns a patch that puts a grain of n bytes behind the file, in the
// place of the second.
func regrain(n int) func([]byte, places) []byte {
	return func(p []byte, at places) []byte {
		q := spec{kind: marked, grain: 128}.wrap(make([]byte, n), 1)
		p = put32(at.tables[0]*sector+4, uint32(len(p)/sector))(p, at)
		b := builder{p}
		b.add(q)
		return b.p
	}
}

// TestEveryTruncation cuts files at many lengths: none opens.
func TestEveryTruncation(t *testing.T) {
	for name, s := range map[string]spec{
		"sparse":            {size: 300 * kib, redundant: true},
		"stream":            {size: 300 * kib, kind: marked, atEnd: true},
		"tables in front":   {size: 300 * kib, kind: marked, patch: func(p []byte, _ places) []byte { return p[:len(p)-sector] }},
		"written by Layout": {},
	} {
		p := s.build()
		last := 1 // what of the file's end is padding
		if name == "written by Layout" {
			var err error
			if p, err = disktest.Read(layOut(t, disktest.Pattern(300*kib, nil), "")); err != nil {
				t.Fatal(err)
			}
		}
		if s.kind == marked && !s.atEnd {
			last = sector // a compressed grain is padded
		}
		for n := 0; n <= len(p)-last; n += 1 + n%601 {
			if m, err := Open(disk.Bytes(p[:n]), nil); err == nil {
				m.Close()
				t.Fatalf("%s: %d of %d bytes open", name, n, len(p))
			}
		}
		openDisk(t, disk.Bytes(p), nil)
	}
}

// TestFailingFile checks that errors of the file are errors of the disk, and are
// gone when the file is well again.
func TestFailingFile(t *testing.T) {
	p := spec{kind: marked, size: mib}.build()
	broken := errors.New("cable out")
	for nth := int64(1); ; nth++ {
		img := disktest.Faulty(disk.Bytes(p), disktest.Faults{Nth: nth, Err: broken})
		m, err := Open(img, nil)
		if err == nil {
			_, err = m.Disks[0].ReadAt(make([]byte, mib), 0)
			if err != nil {
				if _, again := m.Disks[0].ReadAt(make([]byte, mib), 0); again != nil {
					t.Fatalf("read again: %v", again)
				}
			}
		}
		if err == nil {
			if img.Reads() >= nth {
				t.Fatalf("read %d failed in vain", nth)
			}
			return
		}
		if !errors.Is(err, broken) {
			t.Fatalf("read %d: %v", nth, err)
		}
	}
}
