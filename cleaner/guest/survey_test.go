package guest

import (
	"fmt"
	"strings"
	"testing"

	"chromogenic/disk"
)

// What is on a partition is what blkid(8) says that it is.
func TestIdentify(t *testing.T) {
	need(t, "blkid")
	for _, c := range []struct {
		name, want string
		size       int64 // MiB
		fill       func(testing.TB, string, span)
	}{
		{"ext2", "ext2", 8, ext("ext2", files{}, "-L", "a label")},
		{"ext3", "ext3", 8, ext("ext3", files{})},
		{"ext4", "ext4", 8, ext("ext4", files{}, "-L", "x")},
		{"xfs", "xfs", 320, xfs(files{}, "-L", "xlabel")},
		{"btrfs", "btrfs", 128, btrfs(files{}, "-L", "b label")},
		{"vfat", "vfat", 40, vfat(nil)},
		{"swap", "swap", 8, swap("")},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := makeDisk(t, "", partSpec{c.size, "", c.fill})
			facts, err := Look(plainDisk{openRaw(t, path), c.size << 20})
			if err != nil || facts.Table != "none" || len(facts.Filesystems) != 1 {
				t.Fatalf("%+v, %v", facts, err)
			}
			said := map[string]string{}
			for line := range strings.Lines(runProgram(t, "blkid", "-p", "-o", "export", path)) {
				tag, value, _ := strings.Cut(strings.TrimSpace(line), "=")
				said[tag] = strings.ReplaceAll(value, `\ `, " ")
			}
			f := facts.Filesystems[0]
			if f.Type != c.want || f.Type != said["TYPE"] || f.UUID != said["UUID"] || f.Label != said["LABEL"] || f.Reason != "" {
				t.Errorf("%+v, and blkid says %v", f, said)
			}
		})
	}
}

// A plainDisk is a raw file without an overlay.
type plainDisk struct {
	punchFile
	size int64
}

func (p plainDisk) Size() int64 { return p.size }

// Logical partitions are found, and what lies between them is known to be nobody's.
func TestLogicalPartitions(t *testing.T) {
	path := t.TempDir() + "/disk.raw"
	sparse(t, path, 64<<20)
	script := "label: dos\\nlabel-id: 0x12345678\\nstart=2048, size=8192, type=83\\nstart=12288, size=100000, type=5\\nstart=14336, size=8192, type=82\\nstart=30720, size=16384, type=83\\n"
	runProgram(t, "sh", "-c", fmt.Sprintf("PATH=$PATH:/usr/sbin:/sbin; printf '%s' | sfdisk --quiet %s", script, path))
	d := openDisk(t, path)
	tbl, err := readTable(d, d.Size())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range tbl.parts {
		got = append(got, fmt.Sprintf("%d %s %d+%d %s", p.Number, p.Kind, p.Off>>9, p.Size>>9, p.UUID))
	}
	want := "1 0x83 2048+8192 12345678-01|5 0x82 14336+8192 12345678-05|6 0x83 30720+16384 12345678-06"
	if s := strings.Join(got, "|"); s != want || tbl.kind != "mbr" {
		t.Errorf("%s %s", tbl.kind, s)
	}
	// All that is discarded leaves the table as it is.
	before := runProgram(t, "sfdisk", "--dump", path)
	if err := wipe(d, tbl, nil); err != nil {
		t.Fatal(err)
	}
	out := exported(t, d)
	if after := runProgram(t, "sfdisk", "--dump", out); strings.ReplaceAll(after, out, path) != before {
		t.Errorf("the table was %s, and is %s", before, after)
	}
}

// Tables that make no sense are errors, or no tables.
func TestHostileTables(t *testing.T) {
	entry := func(kind byte, start, n uint32) string {
		return "\x00\x00\x00\x00" + string([]byte{kind}) + "\x00\x00\x00" + word(start) + word(n)
	}
	mbr := func(entries ...string) memory {
		m := make(memory, 1<<20)
		copy(m[446:], strings.Join(entries, ""))
		copy(m[510:], "\x55\xaa")
		return m
	}
	loop := mbr(entry(5, 8, 1000))
	copy(loop[8*512+446:], entry(0x83, 1, 2)+entry(5, 0, 100)) // leads back to itself
	copy(loop[8*512+510:], "\x55\xaa")
	for name, c := range map[string]struct {
		disk memory
		want string
	}{
		"overlap": {mbr(entry(0x83, 8, 100), entry(0x83, 50, 100)), "partitions 1 and 2 overlap"},
		"outside": {mbr(entry(0x83, 8, 1<<31-1)), "lies outside of the disk"},
		"loop":    {loop, "leads back or out"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := readTable(c.disk, c.disk.Size()); err == nil || !strings.Contains(err.Error(), c.want) || disk.KindOf(err) != disk.Malformed {
				t.Errorf("got %v", err)
			}
		})
	}
}

func word(n uint32) string {
	return string([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
}

// An fstab says which partition it means in many ways.
func TestFstab(t *testing.T) {
	lines := parseFstab([]byte("# x\n/dev/sda3 /var/lib ext4\nUUID=\"AB-1\" /var\\040x xfs noauto 0 0\nPARTLABEL=data relative ext4\n" +
		"proc /proc proc\n/swap none swap sw\nLABEL=b / btrfs rw,subvol=/@root,compress 0 0\n"))
	var got []string
	for _, l := range lines {
		got = append(got, strings.Join([]string{l.Source, l.Path, l.Type, l.Subvol}, " "))
	}
	want := "/swap  swap |LABEL=b / btrfs @root|UUID=AB-1 /var x xfs |proc /proc proc |/dev/sda3 /var/lib ext4 "
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("got %s", s)
	}
	v := volumeOf{Filesystem: Filesystem{Number: 3, UUID: "ab-1", Label: "b"}, PartUUID: "12345678-03", PartLabel: "data"}
	for source, want := range map[string]bool{
		"UUID=AB-1": true, "UUID=": false, "LABEL=b": true, "LABEL=B": false, "PARTUUID=12345678-03": true, "PARTLABEL=data": true,
		"/dev/sda3": true, "/dev/vda3": true, "/dev/xvda3": true, "/dev/nvme0n1p3": true, "/dev/disk/by-uuid/ab-1": true, "/dev/disk/by-label/b": true,
		"/dev/sdb3": false, "/dev/sda": false, "/dev/sda03x": false, "/dev/vda1": false, "tmpfs": false,
	} {
		if v.named(source) != want {
			t.Errorf("%s: %v", source, !want)
		}
	}
}

// A sandbox that was taken over cannot move a partition.
func TestLearn(t *testing.T) {
	own := job{Volumes: []volumeOf{{Filesystem: Filesystem{Number: 1, Offset: 1 << 20, Size: 1 << 20, Type: "ext4"}, File: "p1", Used: 1}}}
	told := result{Warnings: []string{strings.Repeat("x", 1<<20)}, Volumes: []volumeOf{
		{Filesystem: Filesystem{Number: 9, Offset: 0, Size: 9 << 30, Type: "swap", Mountpoint: "/", Reason: "none"}, File: "../etc/passwd", Used: 9},
	}}
	if err := own.learn(told); err != nil {
		t.Fatal(err)
	}
	v := own.Volumes[0]
	if v.Offset != 1<<20 || v.Size != 1<<20 || v.Type != "ext4" || v.File != "p1" || v.Used != 1 || v.Mountpoint != "/" || v.Reason != "none" || len(own.Warnings[0]) > outputLimit {
		t.Errorf("%+v", v)
	}
	if err := own.learn(result{}); disk.KindOf(err) != disk.Malformed {
		t.Errorf("too few volumes give %v", err)
	}
}
