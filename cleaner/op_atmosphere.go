package cleaner

import (
	"bytes"
	"regexp"
	"strings"
)

// Blocks that CyVerse's Atmosphere, and the monitoring that came with it, have written
// into files of the system, by their first and last lines.
const (
	atmosphereBegin = "## Atmosphere System"
	atmosphereEnd   = "## End Atmosphere System"
)

var (
	atmosphereBlocks = chain(
		dropBlock(atmosphereBegin, atmosphereEnd),
		dropBlock("# Begin Nagios", "# End Nagios"),
		dropBlock("# Begin Sensu", "# End Sensu"),
	)
	atmosphereGroups = regexp.MustCompile(`^AllowGroups users( core-services)? root`)
	// bootLine starts what Atmosphere ran at boot.
	bootLine = regexp.MustCompile(`atmo_boot|atmo-init|rc\.local\.atmo|shellinabox|^[^#]*vncserver`)
)

// atmosphere removes what Atmosphere left in the images of its users.
func atmosphere(g *Guest) error {
	if err := g.remove("/var/log/atmo", "/etc/rc.local.atmo", "/opt/cyverse", "/usr/sbin/atmo_boot.py", "/usr/sbin/atmo_boot", "/etc/init.d/atmo*", "/etc/rc.local.atmo.*", "/etc/chromogenic"); err != nil {
		return err
	}
	if err := g.editAll(chain(dropMatching(atmosphereGroups), atmosphereBlocks), "/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*.conf"); err != nil {
		return err
	}
	if err := g.editAll(atmosphereBlocks, "/etc/sudoers", "/etc/sudoers.d/*", "/etc/skel/.bashrc", "/etc/skel/.profile", "/root/.bashrc", "/root/.bash_profile"); err != nil {
		return err
	}
	if err := g.editAll(trailingRules, "/etc/sudoers"); err != nil {
		return err
	}
	if err := g.editAll(dropMatching(bootLine), "/etc/rc.local", "/etc/rc.d/rc.local"); err != nil {
		return err
	}
	// All its users were members of one group.
	if !g.asked("users") {
		return nil
	}
	return g.editAll(func(text []byte) []byte {
		return eachLine(text, func(line []byte) []byte {
			body := strings.TrimRight(string(line), "\r\n")
			f := strings.Split(body, ":")
			if len(f) != 4 || f[0] != "users" || f[2] != "100" {
				return line
			}
			var left []string
			for name := range strings.SplitSeq(f[3], ",") {
				if _, there := g.named(name); there {
					left = append(left, name)
				}
			}
			f[3] = strings.Join(left, ",")
			return append([]byte(strings.Join(f, ":")), line[len(body):]...)
		})
	}, "/etc/group")
}

// trailingRules drops what Atmosphere has appended behind the last line of the
// distribution's sudoers, which includes a folder: rules of its users and services, that
// have neither block nor name in common.
func trailingRules(text []byte) []byte {
	at := -1
	for _, mark := range []string{"#includedir /etc/sudoers.d", "@includedir /etc/sudoers.d"} {
		at = max(at, bytes.LastIndex(text, []byte(mark)))
	}
	if at < 0 {
		return text
	}
	end := bytes.IndexByte(text[at:], '\n')
	if end < 0 {
		return text
	}
	end += at + 1
	return append(bytes.Clone(text[:end]), eachLine(text[end:], func(line []byte) []byte {
		if isSetting(line) {
			return nil
		}
		return line
	})...)
}

var (
	cloudUsers   = regexp.MustCompile(`^(users\s*:|\s+-\s+default\s*$)`)
	cloudRoot    = regexp.MustCompile(`(?m)^(disable_root\s*:\s*)\S+`)
	cloudHostkey = regexp.MustCompile(`(?m)^(ssh_deletekeys\s*:\s*)\S+`)
)

// atmosphereCloudConfig lets root in by key, and keeps cloud-init from making its
// default user, as Atmosphere wants it.
func atmosphereCloudConfig(g *Guest) error {
	_, err := g.edit("/etc/cloud/cloud.cfg", func(text []byte) []byte {
		text = eachLine(text, func(line []byte) []byte {
			if cloudUsers.Match(bytes.TrimRight(line, "\r\n")) {
				return append([]byte("#"), line...)
			}
			return line
		})
		text = cloudRoot.ReplaceAll(text, []byte("${1}false"))
		return cloudHostkey.ReplaceAll(text, []byte("${1}false"))
	})
	return err
}
