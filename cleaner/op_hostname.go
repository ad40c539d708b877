package cleaner

import (
	"bytes"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// hostnameSetting is that of Red Hat's /etc/sysconfig/network and ifcfg-*.
var hostnameSetting = regexp.MustCompile(`^\s*(HOSTNAME|DHCP_HOSTNAME)\s*=`)

// hostname gives the guest no name of its own, or that of the options, and takes the
// old one out of where it is written.
func hostname(g *Guest) error {
	name := g.opt.Hostname
	if name == "" {
		name = "localhost"
	}
	old, err := g.oldNames()
	if err != nil {
		return err
	}
	for _, p := range []string{"/etc/hostname", "/etc/HOSTNAME"} {
		if _, err := g.edit(p, func([]byte) []byte { return []byte(name + "\n") }); err != nil {
			return err
		}
	}
	if !g.exists("/etc/hostname") && g.opt.Hostname != "" {
		if err := g.write("/etc/hostname", []byte(name+"\n"), owner{mode: 0o644}); err != nil {
			return err
		}
	}
	// Files of some families, folders of others (SUSE's /etc/sysconfig/network).
	if err := g.editAll(dropMatching(hostnameSetting), "/etc/sysconfig/network", "/etc/sysconfig/network-scripts/ifcfg-*"); err != nil {
		return err
	}
	if err := g.editAll(func(text []byte) []byte { return eachLine(text, setHostname(name)) }, "/etc/conf.d/hostname", "/etc/rc.conf"); err != nil {
		return err
	}
	if _, err := g.edit("/etc/mailname", func([]byte) []byte { return []byte(name + "\n") }); err != nil {
		return err
	}
	if _, err := g.edit("/etc/hosts", func(text []byte) []byte { return dropNames(text, old) }); err != nil {
		return err
	}
	return g.remove("/etc/machine-info")
}

// setHostname changes the lines of OpenRC's settings that name the host.
func setHostname(name string) func([]byte) []byte {
	re := regexp.MustCompile(`(?i)^(\s*hostname\s*=\s*)"?[^"\r\n]*"?`)
	return func(line []byte) []byte {
		return re.ReplaceAll(line, []byte(`${1}"`+name+`"`))
	}
}

// oldNames are those that the guest has, whole and without domain.
func (g *Guest) oldNames() ([]string, error) {
	var names []string
	add := func(name string) {
		name = strings.ToLower(strings.Trim(strings.TrimSpace(name), `"'`))
		short, _, _ := strings.Cut(name, ".")
		for _, n := range []string{name, short} {
			if n != "" && n != "localhost" && n != "localdomain" && !slices.Contains(names, n) && !strings.HasPrefix(n, "ip6-") {
				names = append(names, n)
			}
		}
	}
	for _, p := range []string{"/etc/hostname", "/etc/HOSTNAME"} {
		text, _, err := g.read(p)
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(text) {
			if !bytes.HasPrefix(line, []byte("#")) {
				add(string(line))
				break
			}
		}
	}
	text, _, err := g.read("/etc/sysconfig/network")
	if err != nil {
		return nil, err
	}
	add(assignments(text)["HOSTNAME"])
	return names, nil
}

// dropNames takes names of the host out of hosts(5), with any domain behind them. A
// line that has no name left goes; others keep their bytes but for the names.
func dropNames(text []byte, old []string) []byte {
	is := func(name string) bool {
		name = strings.ToLower(name)
		short, domain, _ := strings.Cut(name, ".")
		return slices.Contains(old, name) || domain != "" && slices.Contains(old, short)
	}
	return eachLine(text, func(line []byte) []byte {
		body, comment, _ := strings.Cut(string(line), "#")
		f := strings.Fields(body)
		if len(f) < 2 || !slices.ContainsFunc(f[1:], is) {
			return line
		}
		// Elsewhere a name with another domain can be another host's.
		addr, err := netip.ParseAddr(f[0])
		if err != nil || !addr.IsLoopback() && !slices.ContainsFunc(f[1:], func(n string) bool { return slices.Contains(old, strings.ToLower(n)) }) {
			return line
		}
		left := slices.DeleteFunc(slices.Clone(f[1:]), is)
		if len(left) == 0 {
			return nil
		}
		kept := f[0] + "\t" + strings.Join(left, " ")
		if comment != "" {
			return []byte(kept + " #" + comment)
		}
		return append([]byte(kept), line[len(strings.TrimRight(string(line), "\r\n")):]...)
	})
}
