package cleaner

import (
	"path"
)

// snapshots removes those of snapper(8), each a subvolume in a folder of its number, and
// Timeshift's. SUSE boots from one: the guest's root is among them then, and stays.
func snapshots(g *Guest) error {
	root, err := g.root.Lstat(".")
	if err != nil {
		return pathError("/", err)
	}
	inUse := func(p string) bool {
		n, ok, err := g.lookup(path.Join(p, "snapshot"), false)
		return err != nil || ok && sameFile(n.info, root) || path.Base(p) == "grub-snapshot.cfg"
	}
	if err := g.empty(inUse, "/.snapshots", "/home/.snapshots", "/var/.snapshots", "/srv/.snapshots", "/opt/.snapshots", "/root/.snapshots"); err != nil {
		return err
	}
	return g.remove("/timeshift/snapshots*", "/timeshift-btrfs/snapshots*", "/run/timeshift/*")
}
