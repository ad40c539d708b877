package cleaner

import (
	"path"
	"slices"
	"strings"
)

// accountFiles are the databases of accounts. Tools keep copies of them: shadow(8) with
// "-", editors with "~", Debian's cron with ".bak" in /var/backups.
var accountFiles = []string{"passwd", "shadow", "group", "gshadow", "subuid", "subgid", "nshadow", "npasswd", "opasswd", "sudoers", "fstab", "crypttab"}

// backups removes copies of files that were changed: what was taken out of a file is
// in the copy still. With them goes the history of /etc, if it was kept in one.
func backups(g *Guest) error {
	if err := g.remove("/etc/.git", "/etc/.hg", "/etc/.bzr", "/etc/_darcs", "/etc/.svn", "/etc/security/opasswd.old", "/var/backups/etc*", "/var/lib/etckeeper", "/var/backups/*shadow*", "/var/backups/passwd*", "/var/backups/group*", "/var/backups/subuid*", "/var/backups/subgid*", "/var/lib/aide/*", "/var/lib/tripwire/*", "/var/lib/authselect/backups/*", "/var/cache/private/fwupdmgr", "/var/lib/rkhunter/tmp/*"); err != nil {
		return err
	}
	if err := g.truncate("/etc/security/opasswd"); err != nil { // passwords of before, pam_pwhistory(8)
		return err
	}
	return g.removeNamed(backupName, "/etc", "/root", "/srv", "/tmp", "/var", "/home", "/opt", "/usr/local/etc", "/boot/grub", "/boot/grub2")
}

// backupName tells whether a file is a copy of another: those of virt-sysprep (*.bak, *~),
// of editors, of augeas, and any of a database of accounts.
func backupName(p string) bool {
	name := path.Base(p)
	for _, end := range []string{".bak", "~", ".swp", ".swo", ".swn", ".augsave", ".augnew", ".save", ".save.1", ".orig~"} {
		if strings.HasSuffix(name, end) && len(name) > len(end) {
			return true
		}
	}
	if strings.HasPrefix(name, "#") && strings.HasSuffix(name, "#") && len(name) > 2 {
		return true
	}
	if path.Dir(p) != "/etc" {
		return false
	}
	return slices.ContainsFunc(accountFiles, func(file string) bool {
		rest, ok := strings.CutPrefix(name, file)
		return ok && rest != "" && strings.ContainsRune("-+~.", rune(rest[0])) && rest != ".d"
	})
}

// packageBackups removes what package managers keep of changed files.
func packageBackups(g *Guest) error {
	return g.removeNamed(func(p string) bool {
		for _, end := range []string{".dpkg-old", ".dpkg-dist", ".dpkg-new", ".dpkg-bak", ".ucf-old", ".ucf-dist", ".rpmsave", ".rpmorig", ".rpmnew", ".pacsave", ".pacnew", ".apk-new"} {
			if strings.HasSuffix(p, end) {
				return true
			}
		}
		return false
	}, "/etc", "/var/lib", "/usr/lib", "/boot")
}

// notBackups hold other people's files by any name, or databases of packages.
var notBackups = []string{"/var/lib/docker", "/var/lib/containers", "/var/lib/containerd", "/var/lib/dpkg", "/var/lib/rpm", "/var/lib/apt", "/var/log", "/var/lib/snapd", "/var/lib/flatpak"}

// removeNamed removes the regular files below folders whose path is chosen.
func (g *Guest) removeNamed(choose func(string) bool, folders ...string) error {
	var keep []string
	for _, a := range g.kept() {
		if n, ok, err := g.lookup(a.home, true); err == nil && ok && g.protected(a.name) && within(n.path, "/home") {
			keep = append(keep, n.path)
		}
	}
	for _, folder := range folders {
		err := g.walk(folder, func(e entry) error {
			if e.folder() && (slices.Contains(notBackups, e.path) || slices.Contains(keep, e.path)) {
				return errSkip
			}
			if e.regular() && choose(e.path) {
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

// locks removes what running services left to say that they run, and caches of
// devices that were there.
func lockFiles(g *Guest) error {
	return g.remove(
		"/var/run/*.pid", "/var/run/*/*.pid", "/var/lib/puppet/run/*.pid", "/var/lib/*/*.pid", "/var/lock/subsys/*",
		"/var/lib/rpm/__db.*", "/usr/lib/sysimage/rpm/__db.*", "/var/lib/rpm/.rpm.lock", "/var/run/yum.pid",
		"/etc/blkid.tab", "/etc/blkid.tab.old", "/etc/blkid/blkid.tab*", "/var/run/blkid/blkid.tab*", "/dev/.blkid.tab*",
		"/etc/lvm/cache/.cache", "/etc/lvm/cache/*", "/etc/lvm/.cache", "/etc/lvm/devices/system.devices", "/etc/lvm/devices/backup/*", "/etc/lvm/archive/*", "/etc/lvm/backup/*", "/etc/multipath/wwids", "/etc/multipath/bindings",
	)
}
