package cleaner

import (
	"bytes"
	"regexp"
	"strings"
)

// An OS is what a guest says of itself in os-release(5), or in the files of before.
type OS struct {
	ID      string `json:"id,omitempty"`      // "debian"
	Like    string `json:"like,omitempty"`    // "rhel fedora"
	Version string `json:"version,omitempty"` // "12"
	Name    string `json:"name,omitempty"`    // "Debian GNU/Linux 12 (bookworm)"
}

// oldReleases are the files of before os-release(5), most special first.
var oldReleases = []struct{ path, id string }{
	{"/etc/centos-release", "centos"},
	{"/etc/fedora-release", "fedora"},
	{"/etc/redhat-release", "rhel"},
	{"/etc/SuSE-release", "sles"},
	{"/etc/alpine-release", "alpine"},
	{"/etc/debian_version", "debian"},
}

var versionNumber = regexp.MustCompile(`\d+(\.\d+)*`)

func (g *Guest) release() (OS, error) {
	for _, p := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		text, ok, err := g.read(p)
		if err != nil {
			return OS{}, err
		}
		if ok {
			v := assignments(text)
			return OS{ID: v["ID"], Like: v["ID_LIKE"], Version: v["VERSION_ID"], Name: v["PRETTY_NAME"]}, nil
		}
	}
	for _, old := range oldReleases {
		text, ok, err := g.read(old.path)
		if err != nil {
			return OS{}, err
		}
		if ok {
			line, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
			return OS{ID: old.id, Version: string(versionNumber.Find(line)), Name: string(line)}, nil
		}
	}
	return OS{}, nil
}

// assignments are the lines NAME=VALUE of a text, without quotes.
func assignments(text []byte) map[string]string {
	values := map[string]string{}
	for line := range bytes.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(string(line)), "=")
		if ok && !strings.HasPrefix(name, "#") {
			values[name] = strings.Trim(value, `"'`)
		}
	}
	return values
}

func (g *Guest) usesSELinux() (bool, error) {
	text, ok, err := g.read("/etc/selinux/config")
	if err != nil || !ok {
		return false, err
	}
	mode := strings.ToLower(assignments(text)["SELINUX"])
	return mode == "enforcing" || mode == "permissive", nil
}

// systemd tells whether units are started in the guest.
func (g *Guest) systemd() bool {
	return g.exists("/usr/lib/systemd/systemd") || g.exists("/lib/systemd/systemd")
}

// provisioners bring a login at the first boot, from what the cloud says. off is a
// file that keeps one from doing so.
var provisioners = []struct {
	name, off string
	paths     []string
}{
	{"cloud-init", "/etc/cloud/cloud-init.disabled", []string{"/usr/bin/cloud-init", "/usr/local/bin/cloud-init"}},
	{"ignition", "", []string{"/usr/lib/dracut/modules.d/30ignition/module-setup.sh", "/usr/bin/ignition", "/usr/lib/systemd/system/ignition-firstboot-complete.service"}},
	{"afterburn", "", []string{"/usr/bin/afterburn", "/usr/bin/coreos-metadata"}},
	{"coreos-cloudinit", "", []string{"/usr/bin/coreos-cloudinit"}},
	{"google-guest-agent", "", []string{"/usr/bin/google_guest_agent", "/usr/bin/google_accounts_daemon"}},
	{"waagent", "", []string{"/usr/sbin/waagent", "/usr/bin/waagent", "/usr/bin/azure-init"}},
	{"tiny-cloud", "", []string{"/usr/bin/tiny-cloud", "/usr/sbin/tiny-cloud"}},
	{"cirros-init", "", []string{"/usr/bin/cirros-query", "/usr/sbin/cirros-init"}},
}

// provisioner is the name of the first that is there; empty is none.
func (g *Guest) provisioner() string {
	for _, p := range provisioners {
		if p.off != "" && g.exists(p.off) {
			continue
		}
		for _, at := range p.paths {
			if g.exists(at) {
				return p.name
			}
		}
	}
	return ""
}
