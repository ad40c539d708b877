package cleaner

import "io/fs"

// machineIDs leaves the machine without an id, machine-id(5), so that each has its own
// from its first boot on. An empty file is that of an image, and read-only as systemd
// makes it; without systemd no file is, for others would take an empty one as it is.
func machineIDs(g *Guest) error { return g.clearMachineID("") }

// firstBoot has systemd take the next boot for the first of all, with presets and
// ConditionFirstBoot=.
func firstBoot(g *Guest) error { return g.clearMachineID("uninitialized\n") }

func (g *Guest) clearMachineID(id string) error {
	if !g.systemd() {
		return g.remove("/etc/machine-id", "/var/lib/dbus/machine-id")
	}
	if err := g.remove("/run/machine-id"); err != nil {
		return err
	}
	n, ok, err := g.lookup("/etc/machine-id", true)
	if err == nil && id != "" {
		err = g.write("/etc/machine-id", []byte(id), owner{mode: 0o444})
	} else if err == nil && ok && n.regular() {
		err = g.truncateNode(n)
	}
	if err != nil {
		return err
	}
	// systemd takes an id of D-Bus where it finds one. A link says the same for both.
	n, ok, err = g.lookup("/var/lib/dbus/machine-id", false)
	if err != nil || !ok || n.info.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	if n.folder() {
		return g.removePath(n.path)
	}
	return g.link("/etc/machine-id", "/var/lib/dbus/machine-id")
}
