package qcow2

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"chromogenic/disk"
)

func TestCraftedImageIsProper(t *testing.T) {
	file := craft()
	m, err := Open(disk.Bytes(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4*craftCluster)
	if err := disk.ReadFull(m.Disks[0], got, 0); err != nil {
		t.Fatal(err)
	}
	if want := append(bytes.Clone(file[craftData:]), make([]byte, 2*craftCluster)...); !bytes.Equal(got, want) {
		t.Error("the crafted image reads as other bytes than it holds")
	}
}

// Every image that must be refused at Open, by the structure that is wrong.
func TestRefusals(t *testing.T) {
	const (
		malformed   = disk.Malformed
		unsupported = disk.Unsupported
	)
	backing := func(p []byte) {
		put64(p, 8, 200)
		put32(p, 16, 11)
		copy(p[200:], "/etc/passwd")
	}
	featureName := func(p []byte) {
		put64(p, 72, 1<<40)
		put32(p, 112, extensionFeatureNames)
		put32(p, 116, 2*featureNameSize)
		p[120+1] = 40 // of type 0 in bit 40
		copy(p[122:], "time travel")
	}
	badNames := func(p []byte) {
		featureName(p)
		put32(p, 116, 0xffff_fff8)
	}
	tests := []struct {
		name string
		file []byte
		kind disk.Kind
		want string
	}{
		{"empty file", nil, malformed, "no qcow2 magic"},
		{"other magic", []byte(strings.Repeat("x", 200)), malformed, "no qcow2 magic"},
		{"header cut", craft()[:100], malformed, "looks truncated: header"},
		{"version 1", craft(set32(4, 1)), unsupported, "old qcow format"},
		{"version 4", craft(set32(4, 4)), unsupported, "version 4"},
		{"clusters of 256 bytes", craft(set32(20, 8)), malformed, "cluster size of 2^8"},
		{"clusters of 4 MiB", craft(set32(20, 22)), malformed, "cluster size of 2^22"},
		{"clusters of 2^32 bits", craft(set32(20, 0xffffffff)), malformed, "cluster size"},
		{"header length 96", craft(set32(100, 96)), malformed, "header length 96"},
		{"header length 1024", craft(set32(100, 1024)), malformed, "header length 1024"},
		{"size 2^63", craft(set64(24, 1<<63)), malformed, "virtual size"},
		{"size 2^64-1", craft(set64(24, 1<<64-1)), malformed, "virtual size"},
		{"size over 64 TiB", craft(set64(24, MaxSize+512)), malformed, "virtual size"},
		{"refcounts of 128 bits", craft(set32(96, 7)), malformed, "refcounts"},
		{"AES", craft(set32(32, 1)), unsupported, "AES"},
		{"LUKS", craft(set32(32, 2)), unsupported, "LUKS"},
		{"other encryption", craft(set32(32, 3)), unsupported, "encrypted with unknown method 3"},
		{"backing file", craft(backing), malformed, `backing file "/etc/passwd"`},
		{"backing name of 1 GiB", craft(backing, set32(16, 1<<30)), malformed, "too long"},
		{"backing name behind the first cluster", craft(backing, set64(8, 513)), malformed, "outside the first cluster"},
		{"backing name at 2^63", craft(backing, set64(8, 1<<63)), malformed, "outside the first cluster"},
		{"external data file", craft(set64(72, 1<<2)), malformed, "external data file"},
		{"unknown feature", craft(set64(72, 1<<63)), unsupported, "feature in bit 63"},
		{"unknown feature with a name", craft(featureName), unsupported, `feature "time travel" (bit 40)`},
		{"unknown feature, name table too long", craft(badNames), unsupported, "feature in bit 40"},
		{"zstd without its bit", craft(func(p []byte) { p[104] = 1 }), malformed, "feature bit is not set"},
		{"compression bit with zlib", craft(set64(72, 1<<3)), malformed, "type is zlib"},
		{"unknown compression", craft(set64(72, 1<<3), func(p []byte) { p[104] = 2 }), unsupported, "compression type 2"},
		{"extended L2 with small clusters", craft(set64(72, 1<<4)), malformed, "extended L2"},

		{"L1 table of 4 Gi entries", craft(set32(36, 0xffffffff)), malformed, "L1 table"},
		{"L1 table larger than the file", craft(set32(36, 1<<20)), malformed, "looks truncated: L1 table"},
		{"L1 table too small", craft(set64(24, 64<<10)), malformed, "too small"},
		{"L1 table not aligned", craft(set64(40, craftL1+8)), malformed, "not aligned"},
		{"L1 table behind the file", craft(set64(40, 1<<40)), malformed, "looks truncated: L1 table"},
		{"L1 table at 2^63", craft(set64(40, 1<<63)), malformed, "looks truncated: L1 table"},
		{"L1 table in the header", craft(set64(40, 0)), malformed, "overlaps the header"},
		{"L1 table in the refcount table", craft(set64(40, craftRefs)), malformed, "two tables overlap"},
		{"no refcount table", craft(set32(56, 0)), malformed, "no refcount table"},
		{"refcount table of 2 TiB", craft(set32(56, 0xffffffff)), malformed, "refcount table"},
		{"refcount table behind the file", craft(set64(48, craftEnd)), malformed, "looks truncated: refcount table"},
		{"refcount table not aligned", craft(set64(48, 513)), malformed, "not aligned"},
		{"4 Gi snapshots", craft(set32(60, 0xffffffff)), malformed, "snapshots"},
		{"snapshots behind the file", craft(set32(60, 100), set64(64, craftData)), malformed, "looks truncated: snapshot table"},
		{"snapshots not aligned", craft(set32(60, 1), set64(64, craftData+1)), malformed, "not aligned"},

		{"L2 table not aligned", craft(set32(20, 10), set64(40, 0x400), set64(48, 0x800), set64(0x400, 0x200)), malformed, "not aligned"},
		{"L2 table behind the file", craft(set64(craftL1, craftEnd)), malformed, "looks truncated: L2 table"},
		{"L2 table cut", craft(set64(craftL1, craftEnd-craftCluster))[:craftEnd-1], malformed, "looks truncated: L2 table"},
		{"L2 table far away", craft(set64(craftL1, offsetMask)), malformed, "looks truncated: L2 table"},
		{"L2 table is the L1 table", craft(set64(craftL1, craftL1)), malformed, "overlaps the header or another table"},
		{"L2 table is the refcount table", craft(set64(craftL1, craftRefs)), malformed, "overlaps the header or another table"},
		{"L2 table twice", craft(set64(24, 64<<10), set32(36, 2), set64(craftL1+8, craftL2)), malformed, "share the L2 table"},
		{"L2 table is data", craft(set64(craftL2, craftL2)), malformed, "overlaps the header or a table"},
		{"L1 table is data", craft(set64(craftL2, craftL1)), malformed, "overlaps the header or a table"},
		{"L2 table is compressed data", craft(set64(craftL2, packedEntry(craftL2+20, 1))), malformed, "overlaps the header or a table"},
		{"header is compressed data", craft(set64(craftL2, packedEntry(20, 1))), malformed, "overlaps the header or a table"},

		{"cluster behind the file", craft(set64(craftL2, craftEnd)), malformed, "looks truncated: cluster"},
		{"cluster far away", craft(set64(craftL2, offsetMask)), malformed, "looks truncated: cluster"},
		{"cluster cut", craft()[:craftEnd-1], malformed, "looks truncated: cluster"},
		{"compressed cluster behind the file", craft(set64(craftL2, packedEntry(craftEnd, 1))), malformed, "looks truncated: compressed"},
		{"compressed cluster far away", craft(set64(craftL2, packedEntry(1<<61-1, 2))), malformed, "looks truncated: compressed"},
		{"compressed cluster ends behind the file", craft(set64(craftL2, packedEntry(craftEnd-1, 2))), malformed, "looks truncated: compressed"},
		{"compressed cluster cut", craft(pack(512))[:craftData+5], malformed, "looks truncated"},
		{"zero flag in version 2", craft(set32(4, 2), set64(craftL2, 1)), malformed, "zero flag"},

		{"subclusters without a cluster", craftExtended(0, 1), malformed, "have no cluster"},
		{"subclusters zero and not", craftExtended(4<<14, 1|1<<32), malformed, "allocated and zero"},
		{"subclusters cut", craftExtended(4<<14, 1<<31)[:5<<14-1], malformed, "looks truncated: cluster"},
		{"subclusters not aligned", craftExtended(4<<14+512, 1), malformed, "not aligned"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Open(disk.Bytes(test.file), nil)
			if err == nil {
				t.Fatal("opened")
			}
			if kind := disk.KindOf(err); kind != test.kind {
				t.Errorf("%v is of kind %v, want %v", err, kind, test.kind)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q does not say %q", err, test.want)
			}
			if !strings.HasPrefix(err.Error(), "open qcow2: ") {
				t.Errorf("%q does not begin with what was done", err)
			}
		})
	}
}

// What looks strange and is proper.
func TestAccepted(t *testing.T) {
	tests := []struct {
		name string
		file []byte
	}{
		{"dirty", craft(set64(72, 1))},
		{"corrupt", craft(set64(72, 2))},
		{"unknown compatible feature", craft(set64(80, 1<<63))},
		{"unknown autoclear feature", craft(set64(88, 1<<63))},
		{"header extensions without an end", craft(set32(112, 0x12345678), set32(116, 0xffffffff))},
		{"version 2", craft(set32(4, 2))},
		{"reserved bits", craft(set64(craftL1, craftL2|1<<60|5), set64(craftL2, craftData|1<<58|6))},
		{"one cluster twice", craft(set64(craftL2+8, craftData))},
		{"file ends with the disk", craft(set64(24, craftCluster+100))[:craftEnd-412]},
		{"entries behind the disk", craft(set64(24, 2*craftCluster), set64(craftL2+16, 12345))},
		{"zero flag and a lost cluster", craft(set64(craftL2, 1<<40|bitZero))},
		{"size 0", craft(set64(24, 0), set32(36, 0), set64(40, 0))},
		{"last sector cut", craft(pack(512), set64(craftL2+8, 0))[:craftData+50]},
		{"subclusters cut where none is", craftExtended(4<<14, 1)[:4<<14+512]},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, err := Open(disk.Bytes(test.file), nil)
			if err != nil {
				t.Fatal(err)
			}
			p := make([]byte, m.Disks[0].Size())
			if err := disk.ReadFull(m.Disks[0], p, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// Compressed data can be told to be wrong only when it is read.
func TestBadCompressedClusters(t *testing.T) {
	zstd := func(p []byte) { put64(p, 72, 1<<3); p[104] = 1 }
	frame := func(data string) func([]byte) {
		return func(p []byte) {
			pack(512)(p)
			clear(p[craftData:])
			copy(p[craftData:], data)
		}
	}
	tests := []struct {
		name string
		file []byte
		want string
	}{
		{"short", craft(pack(511)), "got 511 of 512 bytes"},
		{"long", craft(pack(513)), "longer than a cluster"},
		{"no deflate", craft(pack(512), func(p []byte) { p[craftData] = 0xff }), "decompress cluster at offset 2048"},
		{"no zstd", craft(pack(512), zstd), "decompress cluster"},
		{"zstd that claims 2 GiB", craft(frame("\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x80\x03\x00\x00"), zstd), "window size exceeded"},
		{"zstd of 4 KiB", craft(frame("\x28\xb5\x2f\xfd\x00\x58\x03\x80\x00x"), zstd), "longer than a cluster"},
		{"zstd of 64 bytes", craft(frame("\x28\xb5\x2f\xfd\x00\x58\x03\x02\x00x"), zstd), "got 64 of 512 bytes"},
		{"zstd cut", craft(frame("\x28\xb5\x2f\xfd\x00\x58\xff\xff\xff"), zstd), "unexpected EOF"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, err := Open(disk.Bytes(test.file), nil)
			if err != nil {
				t.Fatal(err)
			}
			n, err := m.Disks[0].ReadAt(make([]byte, 10), 0)
			if err == nil || err == io.EOF {
				t.Fatalf("read %d bytes: %v", n, err)
			}
			if disk.KindOf(err) != disk.Malformed || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q (kind %v) does not say %q", err, disk.KindOf(err), test.want)
			}
		})
	}
}
