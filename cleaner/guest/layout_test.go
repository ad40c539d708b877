package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chromogenic/disk"
)

const uuidRoot, uuidData = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002"

// A disk with everything that a cloud image has: what fstab says is in its place, and
// what was planted outside of files is gone.
func TestLayouts(t *testing.T) {
	fstab := "# a comment\nUUID=" + uuidRoot + " / ext4 defaults 0 1\nLABEL=data\t/srv/with\\040blank\text4\tnoatime 0 2\n" +
		"UUID=ABCD-1234 /boot/efi vfat umask=0077 0 1\nUUID=11111111-2222-3333-4444-555555555555 none swap sw 0 0\n" +
		"/dev/vdb1 /elsewhere ext4 defaults 0 0\n/swapfile none swap sw 0 0\n"
	tree := linux(fstab)
	tree["srv/with blank/x"], tree["boot/efi/x"] = "", ""
	tree["swapfile"] = strings.Repeat("\x00", 4086) + "SWAPSPACE2" + secret("swapfile")
	root := func(t testing.TB, path string, at span) {
		// A filesystem that is smaller than its partition.
		ext("ext4", tree, "-U", uuidRoot)(t, path, span{at.Off, at.Size - 4<<20})
		overwrite(t, path, at.end()-1<<20, secret("tail"))
	}
	data := ext("ext4", files{"inside": "data\n", "deleted": secret("data")}, "-U", uuidData, "-L", "data")
	for _, c := range []struct {
		name, label string
		kinds       [4]string
	}{
		{"gpt", "gpt", [4]string{"uefi", "swap", "linux", "linux"}},
		{"mbr", "dos", [4]string{"ef", "82", "83", "83"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			wayWorks(t, accessUML)
			path := makeDisk(t, c.label,
				partSpec{40, c.kinds[0], vfat(nil)}, partSpec{8, c.kinds[1], swap(secret("swap"))},
				partSpec{64, c.kinds[2], root}, partSpec{32, c.kinds[3], data})
			for i, at := range []int64{41<<20 + 4096, 50<<20 + 512<<10, 115 << 20, 149<<20 - 3<<10} { // gaps: in MiB 41, 50, 115, 148
				overwrite(t, path, at, secret("gap" + string(rune('0'+i)))[:2<<10])
			}
			d := openDisk(t, path)
			facts, said := do(t, d, Options{Access: accessUML}, append(cleaning(),
				step{Do: "read", Path: "srv/with blank/inside"}, step{Do: "remove", Path: "srv/with blank/deleted"},
				step{Do: "write", Path: "boot/efi/written", Text: "by us"}, step{Do: "list", Path: "boot/efi"})...)
			var got []string
			for _, f := range facts.Filesystems {
				got = append(got, f.Type+" "+f.Mountpoint+" "+f.Reason)
			}
			want := "vfat /boot/efi |swap  |ext4 / |ext4 /srv/with blank "
			if s := strings.Join(got, "|"); s != want || facts.Table != map[string]string{"gpt": "gpt", "dos": "mbr"}[c.label] {
				t.Errorf("%s %q instead of %q; %v", facts.Table, s, want, facts.Warnings)
			}
			if said["read srv/with blank/inside"] != "data\n" || said["list boot/efi"] != "written" {
				t.Errorf("the work says %q", said)
			}
			if len(facts.Warnings) > 0 {
				t.Errorf("warnings: %q", facts.Warnings)
			}
			expectClean(t, d, append(traces(), "SECRET-data", "SECRET-swap-", "SECRET-swapfile", "SECRET-tail", "SECRET-gap0", "SECRET-gap1", "SECRET-gap2", "SECRET-gap3")...)
			// Tables and swap are what they were.
			out := exported(t, d)
			if text := runProgram(t, "sfdisk", "--verify", out); !strings.Contains(text, "No errors detected") {
				t.Error(text)
			}
			if after, err := Look(d); err != nil || after.Filesystems[1].Type != "swap" || after.Filesystems[1].UUID == "" {
				t.Errorf("afterwards it is %+v, %v", after, err)
			}
		})
	}
}

// exported writes a disk to a file.
func exported(t testing.TB, d Disk) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < d.Size(); off += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), d.Size()-off)]
		if err := readFull(d, p, off); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// A disk without a table, and what is no guest.
func TestWhatIsThere(t *testing.T) {
	wayWorks(t, accessUML)
	text := func(at int64, s string) func(testing.TB, string, span) {
		return func(t testing.TB, path string, s0 span) { overwrite(t, path, s0.Off+at, s) }
	}
	root := ext("ext4", linux("# none\n"))
	for _, c := range []struct {
		name, label string
		parts       []partSpec
		wrong       string
	}{
		{"whole", "", []partSpec{{32, "", root}}, ""},
		{"whole xfs", "", []partSpec{{320, "", xfs(linux("\n"))}}, ""},
		{"no fstab", "", []partSpec{{32, "", ext("ext4", files{"etc/os-release": "ID=x"})}}, ""},
		{"two", "gpt", []partSpec{{32, "linux", root}, {32, "linux", root}}, "partition 1 and partition 2 each have an fstab"},
		{"luks", "gpt", []partSpec{{32, "linux", text(0, "LUKS\xba\xbe\x00\x02")}}, "encrypted (LUKS)"},
		{"lvm", "gpt", []partSpec{{32, "linux", text(512, "LABELONE\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001")}}, "physical volume of LVM"},
		{"windows", "dos", []partSpec{{32, "07", text(3, "NTFS    ")}}, "Windows is not cleaned"},
		{"data", "gpt", []partSpec{{32, "linux", ext("ext4", files{"photo": "x"})}}, "no filesystem has an etc/fstab"},
		{"empty", "gpt", []partSpec{{32, "linux", nil}}, "holds nothing that is known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := openDisk(t, makeDisk(t, c.label, c.parts...))
			order := []byte(`[{"Do":"read","Path":"etc/os-release"}]`)
			r, err := Run(t.Context(), d, Options{Executable: worker(t)}, order)
			switch {
			case c.wrong == "" && err != nil:
				t.Error(err)
			case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong) || disk.KindOf(err) != disk.Unsupported):
				t.Errorf("got %v (%v)", err, disk.KindOf(err))
			case c.label == "" && r.Facts.Table != "none":
				t.Errorf("the table is %q", r.Facts.Table)
			}
		})
	}
}

// A guest that is only looked at is not written to, and the work finds a tree that it
// cannot write to.
func TestReadOnly(t *testing.T) {
	for _, way := range []string{accessUML, accessFuse2fs, accessLoop} {
		t.Run(way, func(t *testing.T) {
			wayWorks(t, way)
			d := openDisk(t, makeDisk(t, "gpt", partSpec{64, "linux", ext("ext4", linux("# none\n"))}))
			_, said := do(t, d, Options{Access: way, ReadOnly: true}, step{Do: "try", Path: "etc/hostname"}, step{Do: "read", Path: "etc/hostname"})
			if !strings.Contains(said["try etc/hostname"], "read-only file system") || said["read etc/hostname"] != "keep-this-name\n" {
				t.Errorf("the work says %q", said)
			}
			if d.Stored() != 0 {
				t.Errorf("%d bytes were written", d.Stored())
			}
		})
	}
}

// What the work fails with is what the caller gets.
func TestWorkFails(t *testing.T) {
	for _, way := range []string{accessUML, accessFuse2fs} {
		t.Run(way, func(t *testing.T) {
			wayWorks(t, way)
			path := makeDisk(t, "", partSpec{16, "", ext("ext4", linux("# none\n"))})
			for name, c := range map[string]struct {
				order, want string
				kind        disk.Kind
			}{
				"error": {`[{"Do":"fail","Text":"no such user"}]`, `no such user`, disk.Policy},
				"panic": {`[{"Do":"panic","Text":"oh no"}]`, `work on guest: oh no`, disk.Other},
				"reply": {`[{"Do":"reply","N":17000000}]`, `is more than`, disk.TooLarge},
				"exit":  {`[{"Do":"exit"}]`, `work in`, disk.Other},
			} {
				t.Run(name, func(t *testing.T) {
					_, err := Run(t.Context(), openDisk(t, path), Options{Executable: worker(t), Access: way}, []byte(c.order))
					if err == nil || !strings.Contains(err.Error(), c.want) || disk.KindOf(err) != c.kind {
						t.Fatalf("got %v (%v)", err, disk.KindOf(err))
					}
					if name == "error" && disk.AsError(err).Hint != "ask nicely" {
						t.Errorf("the hint is %q", disk.AsError(err).Hint)
					}
				})
			}
		})
	}
}

// Orders and replies of some size pass unharmed.
func TestLargeReply(t *testing.T) {
	wayWorks(t, accessUML)
	d := openDisk(t, makeDisk(t, "", partSpec{16, "", ext("ext4", linux("# none\n"))}))
	long := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
	_, said := do(t, d, Options{Access: accessUML}, step{Do: "write", Path: "root/long", Text: long}, step{Do: "read", Path: "root/long"}, step{Do: "reply", N: 4 << 20})
	if said["read root/long"] != long || len(said["reply "]) != 4<<20 {
		t.Error("the reply is not what was sent")
	}
}
