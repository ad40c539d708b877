package cleaner

import (
	iofs "io/fs"
	"slices"
)

// tmp empties the folders for what does not last. Of those that are covered by other
// filesystems in a running guest only what has been left below is removed: files.
func tmp(g *Guest) error {
	if err := g.empty(nil, "/tmp", "/var/tmp", "/lost+found"); err != nil {
		return err
	}
	// Where something is mounted the folder has to be there, and on another filesystem
	// of this disk it has content that is not ours to judge.
	mounts, err := g.mountpoints()
	if err != nil {
		return err
	}
	keep := func(p string) bool {
		return slices.ContainsFunc(mounts, func(m string) bool { return within(m, p) })
	}
	if err := g.empty(keep, "/mnt", "/media"); err != nil {
		return err
	}
	for _, folder := range []string{"/run", "/var/run", "/var/lock", "/dev", "/proc", "/sys"} {
		n, ok, err := g.lookup(folder, true)
		if err != nil {
			return err
		}
		if !ok || !n.folder() || n.path == "/" {
			continue
		}
		err = g.walk(n.path, func(e entry) error {
			m := e.info.Mode()
			if m.IsRegular() || n.path != "/dev" && m&(iofs.ModeSymlink|iofs.ModeSocket|iofs.ModeNamedPipe) != 0 {
				return g.removeEntry(e)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// mountpoints are those of fstab and of the disk's other filesystems.
func (g *Guest) mountpoints() ([]string, error) {
	text, _, err := g.read("/etc/fstab")
	if err != nil {
		return nil, err
	}
	var all []string
	for _, m := range parseFstab(text) {
		if m.folder != "/" {
			all = append(all, m.folder)
		}
	}
	for _, f := range g.facts.Filesystems {
		if f.Mountpoint != "" && f.Mountpoint != "/" {
			all = append(all, f.Mountpoint)
		}
	}
	return all, nil
}

// packageCache removes packages that were fetched; the folders stay, for their owners
// matter to the package managers.
func packageCache(g *Guest) error {
	return g.removeFiles("/var/cache/apt/archives", "/var/cache/dnf", "/var/cache/libdnf5", "/var/cache/yum", "/var/cache/zypp", "/var/cache/PackageKit", "/var/cache/pacman/pkg", "/var/cache/apk", "/etc/apk/cache")
}

// removeFiles removes what is no folder below some.
func (g *Guest) removeFiles(folders ...string) error {
	for _, folder := range folders {
		err := g.walk(folder, func(e entry) error {
			if e.folder() {
				return nil
			}
			return g.removeEntry(e)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// aptLists removes the lists of packages that apt has fetched.
func aptLists(g *Guest) error { return g.removeFiles("/var/lib/apt/lists") }
