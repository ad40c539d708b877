package vmdk

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk"
	"chromogenic/disk/disktest"
)

// TestVariants reads what products other than qemu-img write, built byte by byte
// from the specifications. Source says where the variant is described; rows that
// qemu reads too are compared with what it reads.
func TestVariants(t *testing.T) {
	first := func(n int64) func(int64) bool { return func(g int64) bool { return g < n } }
	for _, tc := range []struct {
		name   string
		source string
		spec   spec
		qemu   bool
	}{
		{"hosted sparse", "VDF, Hosted Sparse Extents", spec{redundant: true, allTables: true}, true},
		{"no redundant directory", "VDF, flags bit 1 clear", spec{}, true},
		{"redundant directory only", "VDF, rgdOffset", spec{redundant: true, edit: func(h *header) { h.gdSector = 0 }}, false},
		{"empty directory entries", "libvmdk, Grain directory: 0 is sparse", spec{size: 100 * mib, data: func(g int64) bool { return g/4 == 130 || g == 1599 }}, true},
		{"all tables, most empty", "qemu vmdk_init_extent; open-vmdk prefillGD", spec{size: 100 * mib, allTables: true, data: first(2)}, true},
		{"no data", "VDF", spec{allTables: true, data: first(0)}, true},
		{"zeroed grains", "VDF, zeroed-grain table entry, version 2", spec{zeroed: func(g int64) bool { return g%4 == 0 }, edit: func(h *header) { h.version, h.flags = 2, h.flags|flagZeroGrain }}, true},
		{"zeroed table", "libvmdk, Grain directory: 1 is sparse", spec{size: 70 * mib, data: first(3), patch: func(p []byte, at places) []byte {
			binary.LittleEndian.PutUint32(p[at.directory*sector+4:], 1)
			return p
		}, edit: func(h *header) { h.version, h.flags = 2, h.flags|flagZeroGrain }}, false},
		{"version 3", "VMware KB 2064959: changed block tracking", spec{
			edit: func(h *header) { h.version = 3 },
			text: text("monolithicSparse", "RW 10240 SPARSE \"x.vmdk\"", "", "# Change Tracking File", "changeTrackPath=\"x-ctk.vmdk\""),
		}, true},
		{"4 KiB grains", "VDF, grainSize: a power of 2, at least 4 KiB", spec{grain: 8}, true},
		{"512 B grains", "qemu: any granularity", spec{grain: 1, size: 600 * kib}, true},
		{"1 MiB grains", "qemu: up to 1 GiB", spec{grain: 2048, size: 20 * mib}, true},
		{"128 entries", "VirtualBox vmdkReadMetaExtent: at least 128", spec{data: func(g int64) bool { return g%50 == 0 }, entries: 128, size: 40 * mib}, true},
		{"500 entries", "VDF, numGTEsPerGT is a field", spec{data: func(g int64) bool { return g%50 == 0 }, entries: 500, size: 70 * mib}, true},
		{"4096 entries", "open-vmdk getGDGT: any power of 2 from 128", spec{data: func(g int64) bool { return g%50 == 0 }, entries: 4096, size: 40 * mib}, false},
		{"descriptor behind the grains", "VDF, descriptorOffset; qemu looks for the CID at sector 1 alone", spec{textSector: -2, textLen: 1}, false},
		{"long descriptor", "VirtualBox VMDK_SPARSE_DESCRIPTOR_SIZE_MAX", spec{textLen: 1000, text: text("monolithicSparse", "RW 10240 SPARSE \"x.vmdk\"") + strings.Repeat("# comment\n", 40000)}, true},
		{"descriptor at sector 7", "VDF, descriptorOffset; qemu looks for the CID at sector 1 alone", spec{textSector: 7}, false},
		{"not shut down cleanly", "VDF, uncleanShutdown", spec{patch: func(p []byte, _ places) []byte { p[72] = 1; return p }}, true},
		{"no newline bytes", "VDF, flags bit 0 clear", spec{edit: func(h *header) { h.flags = 0 }, patch: func(p []byte, _ places) []byte { clear(p[73:77]); return p }}, true},
		{"grains backwards", "VDF: grains in the order they were written", spec{backwards: true}, true},
		{"no whole number of grains", "libvmdk, File header: capacity is not always a multiple", spec{size: 3*mib + 1536}, true},
		{"last grain clipped", "VDF: only what is of the disk", spec{size: 3*mib + 1536, clipLast: true, data: first(99)}, true},
		{"nominal size", "VirtualBox cNominalSectors, cSectors", spec{size: 3*mib + 1536, edit: func(h *header) { h.capacitySectors = (h.capacitySectors + 127) &^ 127 }}, false},
		{"entries behind the end", "libvmdk, Corruption scenarios", spec{patch: func(p []byte, at places) []byte {
			binary.LittleEndian.PutUint32(p[at.tables[0]*sector+4*500:], 0xfffffff0)
			return p
		}}, true},

		{"CR LF", "libvmdk, The descriptor file", spec{text: strings.ReplaceAll(text("monolithicSparse", "RW 10240 SPARSE \"x.vmdk\""), "\n", "\r\n")}, true},
		{"odd case and spacing", "VirtualBox vmdkDescParse: spaces around =", spec{text: "#disk descriptorfile\n VERSION = 1\ncid = 1a2B3c4d\nParentCID = \"FFFFFFFF\"\nCREATETYPE=monolithicSparse\n\trw\t10240   Sparse x.vmdk  \n"}, false},
		{"no disk database", "qemu needs CID, createType", spec{text: "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 10240 SPARSE \"x.vmdk\"\n"}, true},
		{"no extent line", "open-vmdk Sparse_Open reads the header alone", spec{text: "version=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n"}, true},
		{"read-only extent", "VDF, access RDONLY", spec{text: text("monolithicSparse", "RDONLY 10240 SPARSE \"x.vmdk\"")}, true},
		{"windows-1252", "libvmdk, Encodings", spec{text: "encoding=\"windows-1252\"\n" + text("monolithicSparse", "RW 10240 SPARSE \"\xfcber.vmdk\"")}, true},
		{"long content id", "open-vmdk makeDiskDescriptorFile", spec{text: text("monolithicSparse", "RW 10240 SPARSE \"x.vmdk\"") + "ddb.longContentID = \"0123456789abcdef0123456789abcdef\"\nddb.uuid = \"60 00 C2 9b\"\nddb.thinProvisioned = \"1\"\nisNativeSnapshot=\"no\"\n"}, true},
		{"VirtualBox descriptor", "VirtualBox vmdkCreateDescriptor", spec{text: text("monolithicSparse", "RW 10240 SPARSE \"x.vmdk\"") + "ddb.uuid.image=\"5b1d\"\nddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\nddb.geometry.biosCylinders=\"10\"\nddb.comment=\"\"\n"}, true},

		{"stream of ESXi", "VDF, Stream-Optimized Compressed; GD_AT_END, markers of type 4", spec{data: func(g int64) bool { return g%50 == 0 }, kind: marked, atEnd: true, size: 70 * mib}, true},
		{"stream of VirtualBox", "VirtualBox vmdkWriteMetaSparseExtent: rgdOffset is GD_AT_END too, version 1", spec{kind: marked, atEnd: true, edit: func(h *header) { h.version, h.redundantGDSector = 1, gdAtEnd }}, true},
		{"stream of open-vmdk", "open-vmdk StreamOptimizedClose: tables in front, the last grain short", spec{kind: marked, allTables: true, clipLast: true, size: 70*mib + 512, data: func(g int64) bool { return g%5 == 0 }}, true},
		{"stream without end mark", "qemu vmdk_co_pwritev_compressed", spec{kind: marked, patch: func(p []byte, _ places) []byte { return p[:len(p)-sector] }}, true},
		{"stream without descriptor", "VDF: a stream is one extent", spec{kind: marked, atEnd: true, textSector: -1}, false},
		{"stream, grains backwards", "VDF: LBAs in any order", spec{kind: marked, atEnd: true, backwards: true}, true},
		{"stream of 4 KiB grains", "VDF, grainSize", spec{kind: marked, atEnd: true, grain: 8}, true},
		{"compressed, lengths", "open-vmdk SparsePread: 4 bytes of length", spec{kind: counted}, false},
		{"compressed, bare", "qemu vmdk_read_extent without has_marker", spec{kind: bare}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := tc.spec.build()
			if !Probe(p[:min(len(p), 2048)]) {
				t.Error("not recognised")
			}
			want := tc.spec.want()
			disktest.Suite(t, openDisk(t, disk.Bytes(p), nil), want)
			if tc.qemu {
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "disk.vmdk"), p, 0o600); err != nil {
					t.Fatal(err)
				}
				run(t, dir, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", "disk.vmdk", "disk.raw")
				disktest.Compare(t, openFile(t, filepath.Join(dir, "disk.raw")), want)
			}
		})
	}
}

// cowd is an ESX sparse extent (VDF, ESXi Host Sparse Extents) of 512-byte
// grains, each of which holds its pattern of a disk at offset off.
func cowd(sectors int64, off int64, data func(grain int64) bool) []byte {
	le := binary.LittleEndian
	tables := (sectors + 4095) / 4096
	p := make([]byte, (4+1+tables*32)*sector)
	copy(p, "COWD")
	for i, v := range []uint32{1, 3, uint32(sectors), 1, 4, uint32(tables), 0} {
		le.PutUint32(p[4+4*i:], v)
	}
	for t := range tables {
		le.PutUint32(p[4*sector+4*t:], uint32(5+32*t))
	}
	for g := range sectors {
		if data(g) {
			le.PutUint32(p[5*sector+4*g:], uint32(len(p)/sector))
			q := make([]byte, sector)
			disktest.Fill(q, off+g*sector)
			p = append(p, q...)
		}
	}
	return p
}

// TestMultiExtent reads disks of several files, of every kind of extent.
func TestMultiExtent(t *testing.T) {
	pattern := func(off, n int64) []byte {
		p := make([]byte, n)
		disktest.Fill(p, off)
		return p
	}
	odd := func(g int64) bool { return g%2 == 1 }
	sparse := spec{size: mib, textSector: -1, data: func(g int64) bool { return g < 4 }}.build()
	flat := append(pattern(0, 4*kib), pattern(mib, 64*kib)...)
	files := map[string][]byte{
		"a-s001.vmdk":  sparse,
		"a b.vmdk":     flat,
		"ünï.vmdk":     flat,
		"a-delta.vmdk": cowd(8192, 0, odd),
	}
	var odds []disk.Extent
	for g := int64(1); g < 8192; g += 2 {
		odds = append(odds, disk.Extent{Off: g * sector, Len: sector})
	}
	for _, tc := range []struct {
		name, text string
		want       disk.Image
	}{
		{"sparse", text("twoGbMaxExtentSparse", `RW 2048 SPARSE "a-s001.vmdk"`), disktest.Runs(mib, disk.Extent{Len: 256 * kib})},
		{"ESX sparse", text("vmfsSparse", `RW 8192 VMFSSPARSE "a-delta.vmdk"`), disktest.Runs(4*mib, odds...)},
		{"flat with an offset", text("monolithicFlat", `RW 8 FLAT "a b.vmdk"`), disktest.Pattern(4*kib, nil)},
		{
			"mixed", text("custom", `RW 2048 SPARSE "a-s001.vmdk"`, `RDONLY 128 FLAT "ünï.vmdk" 8`, `RW 4096 ZERO`),
			disktest.Runs(mib+64*kib+2*mib, disk.Extent{Len: 256 * kib}, disk.Extent{Off: mib, Len: 64 * kib}),
		},
		{
			"parts of one file", text("vmfs", `RW 8 VMFS "a b.vmdk"`, `RW 2040 ZERO`, `rw 128 flat "a b.vmdk" 8 partitionUUID x`),
			disktest.Runs(mib+64*kib, disk.Extent{Len: 4 * kib}, disk.Extent{Off: mib, Len: 64 * kib}),
		},
		{"zeros only", text("custom", "NOACCESS 100 ZERO"), disktest.Runs(51200)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, s := range []string{tc.text, "\xef\xbb\xbf" + strings.ReplaceAll(tc.text, "\n", "\r\n"), tc.text + "\x00\x00"} {
				d := openDisk(t, disk.Bytes([]byte(s)), memory(files))
				disktest.Suite(t, d, tc.want)
			}
		})
	}
}

// TestEmbeddedFlat reads the header-only file that old products put before a
// flat extent (qemu vmdk_open_vmdk4: capacity 0, a descriptor inside).
func TestEmbeddedFlat(t *testing.T) {
	p := spec{edit: func(h *header) { h.capacitySectors = 0 }, text: text("monolithicFlat", `RW 8 FLAT "flat.vmdk" 0`)}.build()
	flat := make([]byte, 4*kib)
	disktest.Fill(flat, 0)
	d := openDisk(t, disk.Bytes(p), memory(map[string][]byte{"flat.vmdk": flat}))
	disktest.Suite(t, d, disktest.Pattern(4*kib, nil))
}

// TestMultiExtentCloses checks that the files of a disk are closed with it, and
// when opening fails.
func TestMultiExtentCloses(t *testing.T) {
	var open []disk.Image
	resolve := func(name string) (disk.Image, error) {
		img := disk.Bytes(bytes.Repeat([]byte{7}, 8192))
		open = append(open, img)
		return img, nil
	}
	closed := func() (n int) {
		for _, img := range open {
			if _, err := img.ReadAt(make([]byte, 1), 0); err != nil {
				n++
			}
		}
		return n
	}
	m, err := Open(disk.Bytes([]byte(text("x", `RW 1 FLAT "a" 0`, `RW 1 FLAT "a" 3`, `RW 1 FLAT "b" 0`))), resolve)
	if err != nil || len(open) != 2 || closed() != 0 {
		t.Fatalf("%v, %d files open, %d closed", err, len(open), closed())
	}
	if err := m.Close(); err != nil || closed() != 2 {
		t.Errorf("close: %v, %d files closed", err, closed())
	}
	if _, err := Open(disk.Bytes([]byte(text("x", `RW 1 FLAT "a" 0`, `RW 99 FLAT "b" 0`))), resolve); err == nil || closed() != len(open) {
		t.Errorf("%v, %d files closed of %d", err, closed(), len(open))
	}
}
