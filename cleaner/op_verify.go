package cleaner

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"chromogenic/disk"
)

// verify looks again for what must not be in an image, whichever operation should have
// seen to it. What a kept user has, and what was given by the options, is no finding.
func verify(g *Guest) error {
	if g.opt.Plan {
		return nil // a plan has changed nothing that could be looked at
	}
	for _, check := range []struct {
		op string
		of func(*Guest) error
	}{
		{"machine-id", verifyMachineID}, {"logs", verifyLogs}, {"users", verifyUsers}, {"ssh-hostkeys", verifyHostkeys}, {"ssh-keys", verifySSH}, {"private-keys", verifyKeys},
	} {
		if !g.asked(check.op) {
			continue
		}
		if err := check.of(g); err != nil {
			return err
		}
	}
	return verifyData(g)
}

func found(p, what string) error {
	return pathError(p, disk.Errorf(disk.Other, "%s is there still", what))
}

func verifyMachineID(g *Guest) error {
	for _, p := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		text, _, err := g.read(p)
		if err != nil {
			return err
		}
		if id := string(bytes.TrimSpace(text)); id != "" && id != "uninitialized" {
			return found(p, "an id of the machine")
		}
	}
	return nil
}

func verifyLogs(g *Guest) error {
	return g.walk("/var/log", func(e entry) error {
		if e.regular() && e.info.Size() > 0 {
			return found(e.path, "a log that is not empty")
		}
		return nil
	})
}

func verifyUsers(g *Guest) error {
	now, err := g.readAccounts()
	if err != nil {
		return err
	}
	for _, a := range now {
		if g.removed[a.name] {
			return found("/etc/passwd", "the user "+a.name)
		}
	}
	for _, folder := range []string{"/srv", "/opt", "/data", "/var/www", "/usr/local", "/etc"} {
		files := 0
		err := g.walk(folder, func(e entry) error {
			if g.owned(e.stat()) {
				files++
			}
			return nil
		})
		if err != nil {
			return err
		}
		if files > 0 {
			g.warn("%d files in %s belong to users who were removed: the next one with the number of such a user will own them", files, folder)
		}
	}
	return nil
}

func verifyHostkeys(g *Guest) error {
	keys, err := g.glob("/etc/ssh/ssh_host_*_key")
	if err == nil && len(keys) > 0 {
		err = found(keys[0], "a host key")
	}
	return err
}

func verifySSH(g *Guest) error {
	var given []string
	for _, key := range g.opt.SSHKeys {
		_, line := splitKey(key)
		given = append(given, line)
	}
	for _, a := range g.kept() {
		if g.protected(a.name) {
			continue
		}
		for _, name := range []string{"authorized_keys", "authorized_keys2"} {
			p := path.Join("/", a.home, ".ssh", name)
			text, _, err := g.read(p)
			if err != nil {
				return err
			}
			for line := range bytes.Lines(text) {
				if l := strings.TrimSpace(string(line)); l != "" && !slices.Contains(given, l) && len(g.opt.Recipe.Steps) == 0 {
					return found(p, "a key that lets somebody in")
				}
			}
		}
	}
	return nil
}

func verifyKeys(g *Guest) error {
	return g.searchKeys(func(e entry) error {
		if len(g.opt.Recipe.Steps) > 0 {
			g.warn("%s holds a private key, perhaps by the recipe", show(e.path))
			return nil
		}
		return found(e.path, "a private key")
	})
}

// dataFolders hold what people have put into services. What of it is secret nobody can
// tell from outside, so that is said.
var dataFolders = []string{"/var/lib/mysql", "/var/lib/postgresql", "/var/lib/pgsql", "/var/lib/mongodb", "/var/lib/mongo", "/var/lib/redis", "/var/lib/ldap", "/var/lib/rabbitmq", "/var/lib/influxdb", "/var/lib/elasticsearch", "/var/lib/cassandra", "/var/lib/jenkins", "/var/lib/docker/volumes", "/var/lib/containers/storage/volumes", "/var/lib/libvirt/images", "/var/www", "/srv", "/var/lib/grafana", "/var/lib/prometheus"}

func verifyData(g *Guest) error {
	for _, folder := range dataFolders {
		files := 0
		err := g.walk(folder, func(e entry) error {
			if e.regular() {
				files++
			}
			return nil
		})
		if err != nil {
			return err
		}
		if files > 1 {
			g.warn("%s holds data of a service or site (%d files), which stays", folder, files)
		}
	}
	return nil
}
