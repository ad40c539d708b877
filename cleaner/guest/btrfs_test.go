package guest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The root of a btrfs may be one of its subvolumes, and fstab may mount others; a
// snapshot has files too.
func TestBtrfsSubvolumes(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "mounts need root")
	}
	need(t, "unshare", "mkfs.btrfs")
	path := makeDisk(t, "", partSpec{256, "", btrfs(files{})})
	fstab := "UUID=x / btrfs subvol=@ 0 0\n/dev/vda /home btrfs subvol=/@home 0 0\n"
	tree := linux(strings.ReplaceAll(fstab, "UUID=x", "/dev/vda"))
	tree["home/under"] = ""
	script := `export PATH=$PATH:/usr/sbin:/sbin; mount --make-rprivate / && mount -o loop "$1" "$2" && cd "$2" && btrfs -q subvolume create @ && btrfs -q subvolume create @home && cp -a "$3/." @ && cp -a "$4/." @home && btrfs -q subvolume snapshot @ @/snapshot && cd / && umount "$2"`
	home := files{"alice/shrunk": secret("home"), "alice/kept": "kept\n"}
	if out, err := exec.Command("unshare", "-m", "sh", "-c", script, "sh", path, t.TempDir(), folderOf(t, tree), folderOf(t, home)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, way := range []string{accessUML, accessLoop} {
		t.Run(way, func(t *testing.T) {
			wayWorks(t, way)
			d := openDisk(t, path)
			steps := append(cleaning(), step{Do: "remove", Path: "snapshot/root"}, step{Do: "remove", Path: "snapshot/var"}, step{Do: "remove", Path: "snapshot/home"},
				step{Do: "truncate", Path: "home/alice/shrunk", N: 50}, step{Do: "read", Path: "home/alice/kept"}, step{Do: "list", Path: "home"})
			// What cleaning removes below home is not there: another subvolume is.
			steps = append(steps[:4], steps[5:]...)
			facts, said := do(t, d, Options{Access: way}, steps...)
			if said["read home/alice/kept"] != "kept\n" || said["list home"] != "alice" {
				t.Errorf("the work says %q; %v", said, facts.Warnings)
			}
			if facts.Filesystems[0].Mountpoint != "/" {
				t.Errorf("%+v", facts)
			}
			expectClean(t, d, "SECRET-deleted", "SECRET-truncated", strings.Repeat("SECRET-shrunk-0123456789abcdef\n", 5), strings.Repeat("SECRET-home-0123456789abcdef\n", 5))
		})
	}
}
