package cleaner

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"chromogenic/disk"
)

// sshKeys removes the .ssh of every account, and keys that sshd_config says are
// elsewhere. A kept user keeps what lets that user in.
func sshKeys(g *Guest) error {
	var stay []string
	for _, a := range g.kept() {
		if n, ok, err := g.lookup(a.home, true); err != nil {
			return err
		} else if ok && g.protected(a.name) {
			stay = append(stay, path.Join(literally(n.path), ".ssh"))
		}
	}
	folders, err := g.inHomes(".ssh", ".ssh2", ".shosts", ".rhosts")
	if err != nil {
		return err
	}
	for _, folder := range folders {
		if slices.Contains(stay, folder) {
			err = g.empty(func(p string) bool { return strings.HasPrefix(path.Base(p), "authorized_keys") }, folder)
		} else {
			err = g.remove(folder)
		}
		if err != nil {
			return err
		}
	}
	if err := g.remove("/etc/ssh/authorized_keys", "/etc/ssh/authorized_keys.d/*", "/etc/ssh/keys/*", "/etc/dropbear/authorized_keys", "/etc/hosts.equiv", "/etc/ssh/shosts.equiv", "/etc/ssh/ssh_known_hosts"); err != nil {
		return err
	}
	return authorizedKeysFiles(g)
}

// authorizedKeysFiles removes what AuthorizedKeysFile of sshd_config(5) leads to outside
// of homes. %u in it is any user.
func authorizedKeysFiles(g *Guest) error {
	configs, err := g.glob("/etc/ssh/sshd_config.d/*.conf")
	if err != nil {
		return err
	}
	for _, config := range append(configs, "/etc/ssh/sshd_config") {
		text, _, err := g.read(config)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(text) {
			f := strings.Fields(strings.Replace(string(line), "=", " ", 1))
			if len(f) < 2 || !strings.EqualFold(f[0], "AuthorizedKeysFile") {
				continue
			}
			for _, p := range f[1:] {
				p = strings.Trim(p, `"`)
				// A path that begins with a user's home is below it, and one in a folder of
				// the system has a name of its own: a file such as /etc/%u is all of /etc.
				if !strings.HasPrefix(p, "/") || !strings.Contains(strings.ToLower(path.Clean(p)), "key") {
					continue
				}
				if err := g.remove(strings.NewReplacer("%u", "*", "%U", "*", "%%", "%").Replace(p)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// hostKeyMakers make SSH host keys that are missing at the start of the service: by a
// unit of Fedora's and of SUSE's, by Alpine's and old Red Hat's init scripts.
var hostKeyMakers = []string{
	"/usr/lib/systemd/system/sshd-keygen@.service", "/usr/lib/systemd/system/sshd-keygen.service",
	"/usr/sbin/sshd-gen-keys-start", "/usr/lib/ssh/sshd-gen-keys-start", "/usr/libexec/openssh/sshd-keygen", "/usr/sbin/sshd-keygen",
}

// sshHostkeys removes the keys by which the machine is known. Debian's service does not
// make new ones and would not start: where cloud-init does not either, a unit does.
func sshHostkeys(g *Guest) error {
	before := len(g.outcome.Paths)
	if err := g.remove("/etc/ssh/ssh_host_*", "/etc/ssh/*_host_*key", "/etc/ssh/*_host_*key.pub", "/etc/dropbear/dropbear_*_host_key", "/etc/dropbear-initramfs/dropbear_*_host_key", "/etc/dropbear/initramfs/dropbear_*_host_key"); err != nil {
		return err
	}
	if len(g.outcome.Paths) == before || !g.exists("/usr/sbin/sshd") || g.report.Provisioner == "cloud-init" || slices.ContainsFunc(hostKeyMakers, g.exists) {
		return nil
	}
	for _, script := range []string{"/etc/init.d/sshd", "/etc/init.d/ssh"} {
		if text, ok, err := g.read(script); err != nil {
			return err
		} else if ok && bytes.Contains(text, []byte("keygen")) && !g.systemd() {
			return nil
		}
	}
	if !g.systemd() {
		return disk.Hint(pathError("/etc/ssh", disk.Errorf(disk.Unsupported, "nothing in the guest would make new host keys, and it has no systemd to ask")),
			"install cloud-init in the guest, or keep its host keys with --skip ssh-hostkeys")
	}
	return g.unit(unit{
		name:      "chromogenic-ssh-hostkeys",
		about:     "Make the SSH host keys of this machine",
		condition: "ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key",
		before:    "ssh.service sshd.service ssh.socket sshd.socket",
		command:   "/usr/bin/ssh-keygen -A",
	})
}
