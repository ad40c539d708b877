package cleaner

import (
	"bytes"
	"path"

	"chromogenic/disk"
)

// lockout refuses a run after which nobody could log in to the guest: where nothing
// brings a key at the first boot, somebody who is there has to stay.
func (g *Guest) lockout() error {
	if g.report.Provisioner != "" || len(g.opt.SSHKeys) > 0 || g.opt.RootPassword != "" {
		return nil
	}
	passwords, err := g.passwords()
	if err != nil {
		return err
	}
	before := len(g.removed) > 0
	for _, a := range g.accounts {
		key := g.exists(path.Join("/", a.home, ".ssh/authorized_keys"))
		before = before || key || passwords[a.name]
		if g.removed[a.name] {
			continue
		}
		key = key && !g.asked("ssh-keys") && (a.name != "root" || !g.asked("homes"))
		if g.protected(a.name) || key || passwords[a.name] && !g.asked("root-password") {
			return nil
		}
	}
	if !before {
		return nil // nobody could, and nothing is taken
	}
	err = disk.Errorf(disk.Policy, "nobody could log in afterwards: all users are removed or lose their keys and passwords, root is locked, and nothing in the guest (cloud-init, ignition, afterburn) would bring a login at its first boot")
	return disk.Hint(err, "keep a user with --keep-user NAME, give a key with --ssh-key, or install cloud-init in the guest, to which a NoCloud seed can give a user")
}

// passwords tells which accounts can log in with one, or with none.
func (g *Guest) passwords() (map[string]bool, error) {
	text, _, err := g.read("/etc/shadow")
	if err != nil {
		return nil, err
	}
	can := map[string]bool{}
	for line := range bytes.Lines(text) {
		if f := bytes.Split(line, []byte(":")); len(f) > 1 {
			can[string(f[0])] = len(f[1]) == 0 || hashed.Match(f[1]) && f[1][0] != '!' && f[1][0] != '*'
		}
	}
	return can, nil
}

// sshLogin gives the keys of the options to their users.
func sshLogin(g *Guest) error {
	for _, key := range g.opt.SSHKeys {
		name, line := splitKey(key)
		if err := g.authorize(name, line); err != nil {
			return err
		}
	}
	return nil
}

// authorize adds a key to a user's, or the default user's: the first of the kept ones
// that is there, or root.
func (g *Guest) authorize(name, line string) error {
	if name == "" {
		name = "root"
		for _, kept := range g.opt.KeepUsers {
			if _, there := g.named(kept); there {
				name = kept
				break
			}
		}
	}
	a, there := g.named(name)
	if !there {
		return disk.Hint(pathError("/etc/passwd", disk.Errorf(disk.Invalid, "give an SSH key to %s: the guest has no such user, or not any more", name)), "keep the user with --keep-user %s", name)
	}
	if !path.IsAbs(a.home) || path.Clean(a.home) == "/" {
		return pathError(a.home, disk.Errorf(disk.Unsupported, "give an SSH key to %s: this is no home", name))
	}
	// sshd(8) takes no file that others may write to.
	if err := g.mkdir(a.home, owner{a.uid, a.gid, 0o700}); err != nil {
		return err
	}
	folder := path.Join(a.home, ".ssh")
	if err := g.mkdir(folder, owner{a.uid, a.gid, 0o700}); err != nil {
		return err
	}
	file := path.Join(folder, "authorized_keys")
	old, _, err := g.read(file)
	if err != nil {
		return err
	}
	return g.write(file, appendLine(line)(bytes.Clone(old)), owner{a.uid, a.gid, 0o600})
}

// relabelled has the guest label its files anew at its next boot where some may have
// the label of their folder, and not the one that its policy has for them.
func relabelled(g *Guest) error {
	if !g.selinux || !g.relabel {
		return nil
	}
	return g.write("/.autorelabel", nil, owner{mode: 0o644})
}

// selinuxDisable keeps SELinux from being enabled.
func selinuxDisable(g *Guest) error {
	return g.editAll(func(text []byte) []byte {
		return eachLine(text, func(line []byte) []byte {
			if bytes.HasPrefix(line, []byte("SELINUX=")) {
				return []byte("SELINUX=disabled\n")
			}
			return line
		})
	}, "/etc/selinux/config", "/etc/sysconfig/selinux")
}
